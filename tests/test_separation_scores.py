"""What separation's scores say: nothing of the scale, the same of sources in any order, and whose estimate is no number."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mixture_corpora import voice
from separation_tasks import task_of
from torch import Tensor

from headwater.data.corpus import Utterance
from headwater.data.mixtures import Mixture, Part
from headwater.errors import HeadwaterError
from headwater.metrics.extras import Extra
from headwater.separation.bss import si_snr_improvement
from headwater.separation.losses import gram, si_sdr, si_snr
from headwater.train.task import Batch, Item, Sounds, make_batch

SIZE = 4000
VOICES = torch.from_numpy(np.stack([voice(speaker, 0, SIZE) for speaker in (0, 3, 6)])).float()


def batch_of(sources: Tensor) -> Batch:
    parts = tuple(Part(Path(f"{number}.wav"), speaker=str(number)) for number in range(len(sources)))
    item = Item(Utterance("a", Path("of/a.wav"), mixture=Mixture(parts)), SIZE, {"count": len(sources)})
    return make_batch([item], torch.tensor([SIZE]), 1, 0.0, [Sounds({"mixture": sources.sum(0)}, {"sources": sources})])


def row_of(sources: Tensor, estimates: Tensor, *settings: str, split: str = "test") -> dict[str, Any]:
    """What is written of one mixture."""
    built, _ = task_of("separation_convtasnet", "task.quality=false", *settings)
    built.restore({})
    scores = built.score(split)
    scores.add(estimates[None], batch_of(sources))
    row: dict[str, Any] = scores.rows()[0]
    return row


@pytest.mark.parametrize("scale", [1e-10, 1e-5, 1.0, 1e5])
def test_a_score_is_blind_to_scale(scale: float) -> None:
    sources = VOICES[:2]
    estimates = sources + 0.06 * sources.flip(0) + 0.02 * VOICES[2]
    plain, scaled = row_of(sources, estimates), row_of(sources, scale * estimates)
    assert plain["si_sdr"] == pytest.approx(
        float(si_snr(gram(estimates[None], sources[None]))[0].diagonal().mean()), abs=1e-4
    )
    for key in ("si_sdr", "si_sdri", "sdri"):
        assert plain[key] > 15 and scaled[key] == pytest.approx(plain[key], abs=1e-3)
    quiet = row_of(scale * sources, estimates)
    assert quiet["si_sdr"] == pytest.approx(plain["si_sdr"], abs=1e-3)
    improved = si_snr_improvement(scale * estimates[None], sources[None], sources.sum(0)[None])
    assert float(improved.value.mean()) == pytest.approx(plain["si_sdri"], abs=1e-3)


def test_silence_scores_the_least_and_perfection_the_most() -> None:
    pairs = si_sdr(gram(torch.stack([VOICES[0], 0 * VOICES[0]])[None], VOICES[None, :2]))[0]
    assert float(pairs[0, 0]) == pytest.approx(100, abs=0.1) and pairs[1].tolist() == [-100.0, -100.0]
    row = row_of(VOICES[:2], torch.stack([VOICES[0], 0 * VOICES[0]]))
    # SDR is not defined for silence: SI-SDR's improvement stands in its place.
    assert row["sdri"] == row["si_sdri"] < 5


def test_how_far_levels_lie_apart_is_the_loudest_over_the_quietest_in_any_order() -> None:
    levels = torch.tensor([1.0, 10 ** (-3 / 20), 10 ** (-7 / 20)])[:, None]
    for order in permutations(range(3)):
        sources = (levels * VOICES)[list(order)]
        row = row_of(sources, sources, "task.net.speakers=3", split="dev")
        assert row["snr"] == pytest.approx(7.0, abs=1e-3) and row["snr_from"] == 6.0
    for pair in ([0, 1], [1, 0]):
        row = row_of((levels * VOICES)[pair], VOICES[pair], split="dev")
        assert row["snr"] == pytest.approx(3.0, abs=1e-3) and row["snr_from"] == 2.0


def test_an_estimate_that_is_no_number_is_named_with_its_file_and_the_likely_cause() -> None:
    estimates = VOICES[:2].clone()
    estimates[1, 7] = torch.nan
    with pytest.raises(
        HeadwaterError, match=r"'a' \(of/a\.wav\) is NaN or infinite: training diverged \(lower optimizer\.lr\)"
    ):
        row_of(VOICES[:2], estimates)


@pytest.mark.parametrize(("loss", "counts"), [("si_snr", False), ("snr", False), ("sa_sdr", True), ("mse", True)])
def test_a_piece_with_a_silent_source_counts_where_its_loss_is_defined(loss: str, counts: bool) -> None:
    built, _ = task_of("separation_convtasnet", f"task.loss={loss}")
    heard, half = VOICES[:2], torch.stack([VOICES[0], 0 * VOICES[1]])
    outputs = VOICES[:2] + 0.1 * VOICES[2]
    alone = [built.loss(outputs[None], batch_of(sources)) for sources in (heard, half)]
    assert [int(count) for _, count in alone] == [1, int(counts)]
    assert bool(alone[0][0] != 0) and bool(alone[1][0] != 0) == counts


def test_what_tests_are_not_asked_for_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from headwater.downstream.separation import scoring
    from headwater.downstream.separation.settings import SeparationConfig

    monkeypatch.setattr("headwater.metrics.extras.find_spec", lambda name: None if name == "pystoi" else name)
    measures, notes = scoring.quality(SeparationConfig(rate=11025))
    assert measures == ()
    assert notes[0].startswith("no stoi: the package pystoi is not installed (pip install")
    assert notes[1:] == ["no pesq: it is defined at 8000 and 16000 Hz, not at 11025 Hz"]
    assert scoring.quality(SeparationConfig(rate=8000))[0] == (scoring.PESQ,)
    assert scoring.quality(SeparationConfig(quality=False)) == ((), [])


def test_what_is_defined_for_no_mixture_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from headwater.downstream.separation import scoring

    columns = ("stoi", "pesq")
    monkeypatch.setattr(scoring, "EXTRAS", (Extra("math", "", columns, lambda *given: dict.fromkeys(columns)),))
    built, _ = task_of("separation_convtasnet")
    built.restore({})
    scores = built.score("test")
    scores.add(VOICES[None, :2], batch_of(VOICES[:2]))
    found = scores.result()
    assert scores.rows()[0]["pesq"] is None and "pesq" not in found
    assert "no stoi, pesq: defined for none of 1 utterances" in str(found["si_sdri"].note)
