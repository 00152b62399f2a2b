"""Two processes learn from predictions, contrasts and a teacher what one learns: codes, batch norms and negatives are those of the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpora import make_corpus
from faults import command
from ranks import two_processes
from test_predictive_objectives import SMALL, arguments
from test_pretrain import last_module, result_of

# Nine training utterances (three groups of one speaker): the last batch of an epoch holds one, fewer than there are ranks.
STEPS = "batch.size=2,,runner.total_steps=12,,runner.eval_step=6,,runner.log_step=1"


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    corpus = make_corpus(tmp_path_factory.mktemp("corpus"), speakers=3, utterances=5)
    return {name: arguments(name, corpus, STEPS) for name in SMALL}


@pytest.fixture(scope="module")
def ranks(jobs: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folders of all jobs under two processes, started once."""
    return two_processes("pretrain", jobs, tmp_path_factory.mktemp("two"))[0]


@pytest.mark.parametrize("name", SMALL)
def test_two_processes_find_what_one_finds(name: str, jobs: dict[str, list[str]], ranks: Path, tmp_path: Path) -> None:
    assert command("pretrain", *jobs[name], "-p", str(tmp_path)).code == 0
    one, two = result_of(tmp_path), result_of(ranks / name)
    losses = [[row["loss"] for row in result["history"] if "loss" in row] for result in (one, two)]
    assert len(losses[0]) == len(losses[1]) == 12
    for ours, theirs in zip(*losses):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert one["metrics"]["dev"]["loss"]["value"] == pytest.approx(two["metrics"]["dev"]["loss"]["value"], rel=1e-4)
    weights = last_module(tmp_path), last_module(ranks / name)
    assert weights[0].keys() == weights[1].keys()
    for key in weights[0]:
        assert (weights[0][key] - weights[1][key]).abs().max() < 1e-3, key
