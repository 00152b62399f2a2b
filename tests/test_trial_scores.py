"""Scores of many trials: products of matrices give what one product a trial does, and what is written is read back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from headwater.downstream.speaker import verification

from headwater.data.corpus import Utterance
from headwater.data.trials import Trials
from headwater.metrics import Eer, MinDcf
from headwater.metrics.trials import TrialRows
from headwater.results.files import read_rows, write_rows
from headwater.results.table import read_scores


@pytest.mark.parametrize("sparse", [0, 1, 10**9], ids=["gathered", "either", "products"])
@pytest.mark.parametrize("count", [1, 37, 3000])
def test_cosines_are_those_of_a_loop(sparse: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TILE", 8), ("WIDE", 5), ("GATHERED", 11), ("SPARSE", sparse)):
        monkeypatch.setattr(verification, name, value)
    generator = np.random.default_rng(0)
    table = generator.normal(size=(43, 16))
    enrol, test = generator.integers(43, size=(2, count)).astype(np.int32)
    found = verification.cosines(table, enrol, test)
    np.testing.assert_allclose(found, [table[a] @ table[b] for a, b in zip(enrol, test, strict=True)], rtol=1e-12)


def accumulated(speakers: bool) -> verification.TrialAccumulator:
    generator = np.random.default_rng(1)
    people = generator.integers(6, size=40)
    utterances = tuple(
        Utterance(f"s{who}-{number}", Path("a.wav"), speaker=f"s{who}" if speakers else None)
        for number, who in enumerate(people)
    )
    enrol, test = generator.integers(40, size=(2, 500)).astype(np.int32)
    trials = Trials((people[enrol] == people[test]).astype(np.uint8), enrol, test, utterances)
    accumulator = verification.TrialAccumulator((Eer(), MinDcf("min_dcf_0.05", 0.05)), trials)
    embeddings = torch.from_numpy(generator.normal(size=(6, 8))[people] + generator.normal(size=(40, 8)))
    for part in (slice(0, 15), slice(15, 40)):
        batch = SimpleNamespace(ids=[utterance.id for utterance in utterances[part]])
        accumulator.add((None, embeddings[part]), batch)  # type: ignore[arg-type]
    return accumulator


@pytest.mark.parametrize("speakers", [True, False])
def test_rows_written_are_rows_read_and_measure_the_same(speakers: bool, tmp_path: Path) -> None:
    accumulator = accumulated(speakers)
    rows = accumulator.rows()
    write_rows(tmp_path / "scores" / "test.jsonl", rows)
    plain = read_rows(tmp_path / "scores" / "test.jsonl")
    read = read_scores(tmp_path, "test")
    assert isinstance(read, TrialRows) and list(read) == list(rows) == plain
    from headwater.metrics import evaluate

    for again in (read, plain):
        assert evaluate(accumulator.measures, again) == accumulator.result()


def test_scores_are_made_anew_when_more_embeddings_come() -> None:
    accumulator = accumulated(True)
    before = list(accumulator.rows())
    accumulator.merge({name: -value[::-1] for name, value in list(accumulator.state().items())[:5]})
    assert list(accumulator.rows()) != before
