"""How sure a whole curve is: a DET curve with the band that its resamples fill."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headwater.metrics.bootstrap import TAIL, resample
from headwater.metrics.resampled import Resampled
from headwater.metrics.rows import Table

Floats = NDArray[np.float64]

POINTS = 256  # of the band, as many thresholds along each of the two rates
RESAMPLES = 400


@dataclass(frozen=True, eq=False)
class DetBand:
    """`false_alarm` (G,) ascending, and there the 2.5 and 97.5 % quantiles of the miss rates of resamples, `low` and `high` (G,), all in (0, 1)."""

    false_alarm: Floats
    low: Floats
    high: Floats


def det_band(table: Table, seed: int = 0) -> DetBand | None:
    """The pointwise 95 % band of the DET curve of a table of trials, speakers resampled as for the interval of its EER.

    None where no resample has both classes.

    The curve of each resample is known exactly at `2 POINTS` thresholds, evenly spread on normal-deviate axes, and straight on those axes between them.
    """
    from scipy.special import ndtr, ndtri  # type: ignore[import-untyped,unused-ignore]

    trials = table.trials
    miss, false_alarm = trials.rates("asvspoof")
    floors = 0.5 / trials.positive.sum(), 0.5 / (~trials.positive).sum()
    grids = [ndtr(np.linspace(ndtri(floor), -ndtri(floor), POINTS)) for floor in floors]
    # Misses rise along the trials and false alarms fall.
    near = [np.searchsorted(miss, grids[0]), np.searchsorted(-false_alarm, -grids[1])]
    points = np.arange(1, len(trials.scores) + 1) if isinstance(trials.ends, slice) else trials.ends + 1
    at = points[np.minimum(np.searchsorted(points, np.concatenate(near)), len(points) - 1)]
    edges = np.unique(np.concatenate([[0, len(trials.scores)], at]))
    sides = table.first[trials.order], table.second[trials.order]
    curves = Resampled(trials, *sides, table.clusters, edges=edges)
    grid = ndtri(grids[1])

    def misses(drawn: NDArray[np.int64]) -> Floats:
        found = curves.curves(drawn)
        x, y = (ndtri(np.clip(r, f, 1 - f)) for r, f in ((found.false_alarm, floors[1]), (found.miss, floors[0])))
        each = [np.interp(grid, x[::-1, number], y[::-1, number]) for number in range(len(drawn))]
        return np.stack(each)

    values = resample(misses, table.clusters, len(edges), seed, RESAMPLES)
    values = values[~np.isnan(values).any(axis=1)]
    if not len(values):
        return None
    low, high = ndtr(np.quantile(values, [TAIL, 1 - TAIL], axis=0))
    return DetBand(grids[1], low, high)
