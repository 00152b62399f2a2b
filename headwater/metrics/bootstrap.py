"""How sure a number is: percentile intervals from resampling clusters.

What one speaker says is dependent, so speakers are drawn, not utterances (Efron and Tibshirani 1993, chapter 8; for two
speakers in a trial Poh and Bengio 2007). A resample is the multiplicity with which each cluster was drawn; a statistic
maps multiplicities (R, S) int64 of R resamples of S clusters to R values, NaN where it is not defined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[NDArray[np.int64]], Floats]

RESAMPLES = 1000
TAIL = 0.025  # on either side of a 95 % interval
FEW_CLUSTERS = 10
CHUNK = 1 << 20  # weights of rows held at once
DRAWN = 1 << 23  # multiplicities held at once


@dataclass(frozen=True)
class Interval:
    """A 95 % interval, or None with the reason in `note`."""

    ci95: tuple[float, float] | None
    note: str | None


def multiplicities(clusters: int, seed: int, chunk: int, resamples: int = RESAMPLES) -> Iterator[NDArray[np.int64]]:
    """Draw `clusters` of `clusters` with replacement, `resamples` times: arrays (R, S) int64 of at most `chunk` rows.

    The draws depend on `clusters` and `seed` alone, not on `chunk`.
    """
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        draws = (generator.integers(clusters, size=clusters) for _ in range(rows))
        yield np.stack([np.bincount(draw, minlength=clusters) for draw in draws])


def resample(statistic: Statistic, clusters: int, rows: int, seed: int = 0, resamples: int = RESAMPLES) -> Floats:
    """The statistic (resamples, ...) of every resample; `rows`, how many scored rows each holds at once, bounds the memory taken."""
    chunk = max(1, min(DRAWN // clusters, CHUNK // max(1, rows)))
    return np.concatenate([statistic(drawn) for drawn in multiplicities(clusters, seed, chunk, resamples)])


def interval(values: Floats, value: float, clusters: int, bounds: tuple[float, float] | None) -> Interval:
    """The percentile interval of resampled `values` (B,) around the measured `value`.

    NaN among `values` are resamples that lacked a class: left out and counted in the note. When all resamples agree
    they say nothing of the spread, and `exact_interval` is given where the possible values have `bounds`.
    """
    defined = values[~np.isnan(values)]
    notes = []
    if skipped := len(values) - len(defined):
        notes.append(f"{skipped} of {len(values)} resamples were skipped, because they lacked a class")
    if not len(defined):
        ends = None
        notes.append("no interval can be given")
    elif np.ptp(defined) <= 1e-12 * max(1.0, abs(value)):
        ends = None if bounds is None else exact_interval(value, clusters, *bounds)
        notes.append(
            "every resample gives the same value; "
            + (
                "no interval can be given"
                if ends is None
                else f"exact binomial bound (Clopper-Pearson) on {clusters} clusters"
            )
        )
    else:
        low, high = np.quantile(defined, [TAIL, 1 - TAIL])
        ends = float(low), float(high)
    if clusters < FEW_CLUSTERS and ends is not None:
        notes.append(f"{clusters} cluster{'s' * (clusters != 1)} only: the interval is unreliable")
    return Interval(ends, "; ".join(notes) or None)


def quotient(top: Floats, bottom: Floats) -> Floats:
    """top / bottom (R,), NaN where the bottom is 0."""
    found: Floats = np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom != 0)
    return found


def exact_interval(value: float, clusters: int, low: float, high: float) -> tuple[float, float]:
    """What can still be said when none of `clusters` clusters shows anything but `value`, in [low, high].

    By Clopper and Pearson (1934) at most a share u = 1 - 0.025^(1/S) of the population behaves otherwise, and that
    share may lie at either bound. For 0 or 100 % this is their interval for no or only successes.
    """
    share = 1 - TAIL ** (1 / clusters)
    return value - share * (value - low), value + share * (high - value)
