"""Two processes under torchrun pretrain what one does."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpora import make_corpus
from faults import command
from ranks import two_processes
from test_pretrain import SMALL, last_module, result_of

# Nine training utterances by two: the last batch of an epoch holds one, fewer than there are ranks; by four: an uneven one.
FIFTY = (
    f"{SMALL},,model.transformer.pre_layer_norm=true,,min_seconds=0,,crop_seconds=0.4,,optimizer.lr=1e-3,,"
    "runner.total_steps=50,,runner.eval_step=25,,runner.save_step=20,,runner.log_step=1"
)
JOBS = {
    "small": f"{FIFTY},,batch.size=2",
    "uneven": f"{FIFTY},,batch.size=4,,runner.gradient_accumulate_steps=2",
    "stopped": f"{FIFTY},,batch.size=3,,model.transformer.hidden_dropout_prob=0.1",
}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    corpus = make_corpus(tmp_path_factory.mktemp("corpus"), speakers=3, utterances=5)
    common = ["-u", "tera", "--data", str(corpus), "--device", "cpu"]
    return {name: [*common, "-o", settings] for name, settings in JOBS.items()}


@pytest.fixture(scope="module")
def ranks(jobs: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folders of all jobs under two processes, started once."""
    ways = [{"stop": 13}, {"die": 37}, {}, {}]
    runs, said = two_processes("pretrain", jobs, tmp_path_factory.mktemp("two"), "stopped", ways)
    assert said.stdout.count("finished  ") == 1, "only the first process speaks"
    return runs


@pytest.mark.parametrize("name", ["small", "uneven"])
def test_two_processes_find_what_one_finds(name: str, jobs: dict[str, list[str]], ranks: Path, tmp_path: Path) -> None:
    assert command("pretrain", *jobs[name], "-p", str(tmp_path)).code == 0
    one, two = result_of(tmp_path), result_of(ranks / name)
    losses = [[row["loss"] for row in result["history"] if "loss" in row] for result in (one, two)]
    assert len(losses[0]) == len(losses[1]) == 50
    for ours, theirs in zip(*losses):
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert one["metrics"]["dev"]["loss"]["value"] == pytest.approx(two["metrics"]["dev"]["loss"]["value"], abs=1e-4)
    assert one["metrics"]["dev"]["loss"]["n"] == two["metrics"]["dev"]["loss"]["n"] == 3
    weights = last_module(tmp_path), last_module(ranks / name)
    for key in weights[0]:
        assert (weights[0][key] - weights[1][key]).abs().max() < 1e-3, key


def test_a_stop_and_a_death_under_two_processes_change_nothing(ranks: Path) -> None:
    whole, again = result_of(ranks / "stopped"), result_of(ranks / "again")
    for key in ("history", "metrics", "best_step", "steps"):
        assert whole[key] == again[key]
    files = [(ranks / name / "model.safetensors").read_bytes() for name in ("stopped", "again")]
    assert files[0] == files[1]
    assert len(list((ranks / "again").glob("events*"))) == 3 and len(list((ranks / "stopped").glob("events*"))) == 1


def test_the_number_of_processes_is_part_of_what_a_run_is(jobs: dict[str, list[str]], ranks: Path) -> None:
    said = command("pretrain", *jobs["small"], "-p", str(ranks / "small"))
    assert said.code == 2 and "ranks: 2 there, 1 now" in said.err
