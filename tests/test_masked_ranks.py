"""Two processes train masked prediction and contrastive learning as one does; a stop and a death change nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from faults import command
from ranks import two_processes
from test_masked import corpus, units, waveforms, words  # noqa: F401 (fixtures)
from test_pretrain import last_module, result_of

# Twelve training utterances by five: the last batch of an epoch holds two, by eleven: one, fewer than there are ranks.
STEPS = "runner.total_steps=24,,runner.eval_step=12,,runner.save_step=8,,runner.log_step=1,,optimizer.lr=1e-3"
JOBS = {
    "hubert": ("hubert", "frames", f"{STEPS},,batch.size=5"),
    "contrast": ("wav2vec2", "frames", f"{STEPS},,batch.size=11"),
    "waveforms": ("wav2vec2", "waveforms", f"{STEPS},,batch.size=5,,runner.gradient_accumulate_steps=2"),
}


@pytest.fixture(scope="module")
def jobs(corpus: Path, units: Path, waveforms: Callable[[str], Path]) -> dict[str, list[str]]:  # noqa: F811
    return {
        name: [*words(kind, on, corpus, units, waveforms), "-o", settings]
        for name, (kind, on, settings) in JOBS.items()
    }


@pytest.fixture(scope="module")
def ranks(jobs: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folders of all jobs under two processes, started once."""
    ways = [{"stop": 5}, {"die": 15}, {}]
    return two_processes("pretrain", jobs, tmp_path_factory.mktemp("two"), "contrast", ways)[0]


@pytest.mark.parametrize("name", JOBS)
def test_two_processes_find_what_one_finds(name: str, jobs: dict[str, list[str]], ranks: Path, tmp_path: Path) -> None:
    assert command("pretrain", *jobs[name], "-p", str(tmp_path)).code == 0
    one, two = result_of(tmp_path), result_of(ranks / name)
    losses = [[row["loss"] for row in result["history"] if "loss" in row] for result in (one, two)]
    assert len(losses[0]) == len(losses[1]) == 24
    for ours, theirs in zip(*losses):
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert one["metrics"]["dev"]["loss"]["value"] == pytest.approx(two["metrics"]["dev"]["loss"]["value"], abs=1e-4)
    weights = last_module(tmp_path), last_module(ranks / name)
    for key in weights[0]:
        assert (weights[0][key] - weights[1][key]).abs().max() < 1e-3, key


def test_a_stop_and_a_death_under_two_processes_change_nothing(ranks: Path) -> None:
    whole, again = result_of(ranks / "contrast"), result_of(ranks / "again")
    for key in ("history", "metrics", "best_step", "steps"):
        assert whole[key] == again[key]
    files = [(ranks / name / "model.safetensors").read_bytes() for name in ("contrast", "again")]
    assert files[0] == files[1]
