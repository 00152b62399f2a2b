"""How far one F0 track is from another."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from headwater.vocoder.world import Array

CENTS = 1200 / math.log(2)  # in one unit of the natural logarithm
_GROSS = 0.2


@dataclass(frozen=True)
class F0Errors:
    """Errors of one track against a reference. What is not defined is NaN, never 0.

    Attributes:
        rmse_cents: root mean square of the log difference over frames voiced in both, in cents.
        correlation: Pearson's, of F0 in Hz over the same frames; it needs two and some variation.
        vuv_error: share of all frames whose voicing differs.
        gross_error: share of the frames voiced in both whose F0 is off by more than a fifth (GPE).
        frame_error: share of all frames with either fault (FFE).
        frames, voiced: how many were compared, and voiced in both.
    """

    rmse_cents: float
    correlation: float
    vuv_error: float
    gross_error: float
    frame_error: float
    frames: int
    voiced: int


def f0_errors(reference: Array, other: Array) -> F0Errors:
    """(frames,) each, in Hz with 0 where unvoiced, cut to the shorter."""
    frames = min(len(reference), len(other))
    reference, other = np.asarray(reference[:frames], np.float64), np.asarray(other[:frames], np.float64)
    differ = (reference > 0) != (other > 0)
    both = (reference > 0) & (other > 0)
    truth, found = reference[both], other[both]
    gross = np.abs(found / truth - 1) > _GROSS
    return F0Errors(
        rmse_cents=CENTS * math.sqrt(_mean(np.log(found / truth) ** 2)),
        correlation=_correlation(truth, found),
        vuv_error=_mean(differ),
        gross_error=_mean(gross),
        frame_error=(float(differ.sum()) + float(gross.sum())) / frames if frames else math.nan,
        frames=frames,
        voiced=int(both.sum()),
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def _correlation(truth: Array, found: Array) -> float:
    if len(truth) < 2:
        return math.nan
    truth, found = truth - truth.mean(), found - found.mean()
    size = math.sqrt(float(truth @ truth) * float(found @ found))
    return float(truth @ found) / size if size > 0 else math.nan
