"""The band around a DET curve: what resampled curves, drawn one by one, fill."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import ndtri

from headwater.metrics import det_curve
from headwater.metrics.bands import RESAMPLES, det_band
from headwater.metrics.bootstrap import TAIL, multiplicities
from headwater.metrics.rows import Table


def table(speakers: int, each: int, *, pairs: bool = False, seed: int = 0) -> Table:
    generator = np.random.default_rng(seed)
    own = generator.normal(size=speakers)
    rows: list[dict[str, Any]] = []
    for number in range(speakers * each):
        one, target = number % speakers, int(generator.random() < 0.4)
        sides = {"speaker": f"s{one}"}
        if pairs:
            sides = {"speaker1": f"s{one}", "speaker2": f"s{one if target else (one + 1 + number) % speakers}"}
        score = round(float(generator.normal() + 2 * target + 0.7 * own[one]), 2)
        rows.append({"id": f"{number:05d}", "target": target, "score": score, **sides})
    return Table(rows)


@pytest.mark.parametrize("pairs", [False, True])
def test_the_band_is_that_of_curves_of_repeated_trials(pairs: bool) -> None:
    trials = table(15, 40, pairs=pairs)
    band = det_band(trials)
    assert band is not None
    scores, targets = trials.column("score"), trials.column("target") == 1
    weigh = trials.weights()
    (drawn,) = multiplicities(trials.clusters, 0, RESAMPLES, RESAMPLES)
    floor = 0.5 / targets.sum()
    misses = []
    for weights in weigh(drawn):
        times = np.repeat(scores, weights), np.repeat(targets, weights)
        curve = det_curve(times[0][times[1]], times[0][~times[1]])
        x, y = (
            ndtri(np.clip(r, f, 1 - f)) for r, f in ((curve.false_alarm, 0.5 / (~targets).sum()), (curve.miss, floor))
        )
        misses.append(np.interp(ndtri(band.false_alarm), x[::-1], y[::-1]))
    low, high = np.quantile(misses, [TAIL, 1 - TAIL], axis=0)
    inner = slice(40, -40)  # where rates are of more than a trial or two
    np.testing.assert_allclose(ndtri(band.low)[inner], low[inner], atol=0.12)
    np.testing.assert_allclose(ndtri(band.high)[inner], high[inner], atol=0.12)


def test_the_band_holds_its_curve_and_narrows_with_more_speakers() -> None:
    widths = []
    for speakers in (10, 160):
        trials = table(speakers, 20)
        band = det_band(trials)
        assert band is not None and (band.low <= band.high).all()
        scores, targets = trials.column("score"), trials.column("target") == 1
        curve = det_curve(scores[targets], scores[~targets])
        miss = np.interp(band.false_alarm, curve.false_alarm[::-1], curve.miss[::-1])
        held = (band.low <= miss + 0.02) & (miss <= band.high + 0.02)
        assert held.mean() > 0.97
        widths.append(float(np.mean(band.high - band.low)))
    assert widths[1] < 0.5 * widths[0]


def test_classes_that_do_not_overlap_have_a_band_too() -> None:
    rows = [{"id": str(n), "speaker": str(n % 6), "target": n % 2, "score": float(n % 2)} for n in range(60)]
    band = det_band(Table(rows))
    assert band is None or (np.isfinite(band.low).all() and np.isfinite(band.high).all())
