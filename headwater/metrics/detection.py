"""Detection: how well one score separates what should be accepted (positives) from what should be rejected (negatives).

A higher score means more positive. A decision at threshold t accepts scores >= t; `miss` is the share of positives
rejected and `false_alarm` the share of negatives accepted, both in [0, 1].

Two conventions of the equal error rate are in use and differ where scores tie:

- "interpolated": trials of equal score are accepted or rejected together, and the ROC is linear between its vertices;
  the rate is where it crosses miss = false_alarm. SASV 2022 and most speaker verification code.
- "asvspoof": one point for every trial, positives first among equal scores; the rate is the mean of miss and false
  alarm at the first point where they are nearest. The ASVspoof 2019 to 5 evaluation plans.

The normalised minimum detection cost (NIST SRE) is the same under both: the points within a tie are never cheaper than
its two ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headwater.errors import DataError, UsageError

Convention = Literal["interpolated", "asvspoof"]
Floats = NDArray[np.float64]

ASVSPOOF_MARGIN = 0.001  # how far the first threshold lies below the lowest score in the ASVspoof packages


@dataclass(frozen=True, eq=False)
class SortedScores:
    """The trials of a detection task, sorted once by ascending score, positives first among equal scores.

    `scores` (N,) float64; `positive` (N,) bool; `order` (N,) int64: where each sorted trial stood in the input.
    """

    scores: Floats
    positive: NDArray[np.bool_]
    order: NDArray[np.int64]

    @classmethod
    def sort(cls, scores: ArrayLike, positive: ArrayLike) -> SortedScores:
        """Sort N trials. Raises DataError for an empty class and for scores that are not finite numbers."""
        values, flags = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
        if values.ndim != 1 or values.shape != flags.shape:
            raise DataError(
                f"Scores are one list of numbers with one class each, not {values.shape} and {flags.shape}."
            )
        positives = int(np.count_nonzero(flags))
        check_scores(values, {"positive": positives, "negative": len(flags) - positives})
        grouped = np.concatenate([np.flatnonzero(flags), np.flatnonzero(~flags)])
        order = grouped[np.argsort(values[grouped], kind="stable")]
        return cls(values[order], flags[order], order)

    @cached_property
    def ends(self) -> slice | NDArray[np.int64]:
        """Which trials are the last of their score: all of them as a slice when no two scores are equal."""
        last = np.append(self.scores[1:] != self.scores[:-1], True)
        return slice(None) if last.all() else np.flatnonzero(last)

    @property
    def distinct(self) -> int:
        """How many distinct scores there are."""
        return len(self.scores) if isinstance(self.ends, slice) else len(self.ends)

    def rates(self, convention: Convention = "interpolated") -> tuple[Floats, Floats]:
        """`miss` and `false_alarm` (K + 1,) from accepting all trials to rejecting all; K is the number of distinct scores, or N by "asvspoof"."""
        positives = np.cumsum(self.positive, dtype=np.int64)
        negatives = np.arange(1, len(positives) + 1) - positives
        totals = positives[-1], negatives[-1]
        if convention == "interpolated" and not isinstance(self.ends, slice):
            positives, negatives = positives[self.ends], negatives[self.ends]
        miss, false_alarm = np.zeros(len(positives) + 1), np.ones(len(positives) + 1)
        np.divide(positives, totals[0], out=miss[1:])
        # The difference is taken on integers: 1 - negatives / total breaks exact ties of the two rates.
        np.divide(totals[1] - negatives, totals[1], out=false_alarm[1:])
        return miss, false_alarm


@dataclass(frozen=True, eq=False)
class DetCurve:
    """Every operating point of a detector: `miss`, `false_alarm` and `thresholds`, each (K + 1,) float64.

    Accepting scores >= thresholds[k] gives point k; the last threshold is infinity. By "asvspoof" point k instead
    rejects the k lowest trials and thresholds[k] is the score of the k-th, as those packages define it.
    """

    miss: Floats
    false_alarm: Floats
    thresholds: Floats
    positives: int
    negatives: int
    convention: Convention

    def eer(self) -> float:
        """The equal error rate in [0, 1] by the convention of the curve."""
        return float(eer_of_rates(self.miss, self.false_alarm, self.convention))

    def eer_threshold(self) -> float:
        """The threshold of the point that the rate is read from (interpolated: the first at or past the crossing)."""
        gap = self.miss - self.false_alarm
        return float(self.thresholds[np.argmax(gap >= 0) if self.convention == "interpolated" else np.argmin(abs(gap))])

    def min_dcf(self, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
        """The normalised minimum detection cost, in [0, 1]."""
        return float(min_dcf_of_rates(self.miss, self.false_alarm, p_target, c_miss, c_fa))

    @property
    def distinct(self) -> int:
        """How many distinct scores there are."""
        ends = self.thresholds[1:] if self.convention == "asvspoof" else self.thresholds[:-1]
        return 1 + int(np.count_nonzero(ends[1:] != ends[:-1]))

    def cheapest(self, of_miss: float, of_false_alarm: float) -> tuple[float, float]:
        """The least of `of_miss` miss + `of_false_alarm` false_alarm, and the threshold of the first point that has it."""
        costs = of_miss * self.miss + of_false_alarm * self.false_alarm
        k = int(np.argmin(costs))
        return float(costs[k]), float(self.thresholds[k])


def det_curve(positives: ArrayLike, negatives: ArrayLike, convention: Convention = "interpolated") -> DetCurve:
    """The operating points of two lists of scores. Raises DataError for an empty class or scores not finite."""
    check_convention(convention)
    accepted, rejected = (np.asarray(values, dtype=np.float64) for values in (positives, negatives))
    if accepted.ndim != 1 or rejected.ndim != 1:
        raise DataError(f"Scores are two lists of numbers, not arrays of shape {accepted.shape} and {rejected.shape}.")
    flags = np.arange(len(accepted) + len(rejected)) < len(accepted)
    trials = SortedScores.sort(np.concatenate([accepted, rejected]), flags)
    miss, false_alarm = trials.rates(convention)
    if convention == "asvspoof":
        thresholds = np.concatenate([trials.scores[:1] - ASVSPOOF_MARGIN, trials.scores])
    else:
        thresholds = np.append(trials.scores[trials.ends], np.inf)
    return DetCurve(miss, false_alarm, thresholds, len(accepted), len(rejected), convention)


def eer(positives: ArrayLike, negatives: ArrayLike, convention: Convention = "interpolated") -> float:
    """The equal error rate in [0, 1] of two lists of scores.

    >>> eer([0.9, 0.8, 0.3], [0.7, 0.2, 0.1])
    0.3333333333333333

    Raises DataError for an empty class or scores that are not finite.
    """
    return det_curve(positives, negatives, convention).eer()


def min_dcf(
    positives: ArrayLike, negatives: ArrayLike, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    """The minimum over all thresholds of c_miss p P_miss + c_fa (1 - p) P_fa, over that of the better blind decision.

    `p_target` is the prior of the positive class. Accepting all and rejecting all are among the thresholds, so the
    value is in [0, 1]. Raises DataError as `eer` does.
    """
    return det_curve(positives, negatives).min_dcf(p_target, c_miss, c_fa)


def eer_of_rates(miss: Floats, false_alarm: Floats, convention: Convention) -> Floats:
    """Equal error rates (...) of curves (..., K + 1) from accepting all to rejecting all; NaN where they are NaN."""
    check_convention(convention)
    if convention == "asvspoof":
        k = np.argmin(abs(miss - false_alarm), axis=-1, keepdims=True)
        return (_at(miss, k) + _at(false_alarm, k)) / 2
    after = np.argmax(miss >= false_alarm, axis=-1, keepdims=True)
    before = after - 1
    missing, excess = _at(false_alarm, before) - _at(miss, before), _at(miss, after) - _at(false_alarm, after)
    share = missing / (missing + excess)
    return _at(miss, before) + share * (_at(miss, after) - _at(miss, before))


def min_dcf_of_rates(miss: Floats, false_alarm: Floats, p_target: float, c_miss: float, c_fa: float) -> Floats:
    """Normalised minimum detection costs (...) of curves (..., K + 1)."""
    check_costs(p_target, c_miss, c_fa)
    of_miss, of_false_alarm = c_miss * p_target, c_fa * (1 - p_target)
    scale = min(of_miss, of_false_alarm)
    costs: Floats = of_miss / scale * miss + of_false_alarm / scale * false_alarm
    return np.asarray(costs.min(axis=-1))


def score_lists(**lists: ArrayLike) -> list[Floats]:
    """Lists of scores by the name of their class, as arrays (N,) float64. Raises DataError for an empty class or scores not finite."""
    arrays = [np.asarray(values, dtype=np.float64) for values in lists.values()]
    if any(array.ndim != 1 for array in arrays):
        raise DataError(f"Scores are lists of numbers, not arrays of shape {', '.join(str(a.shape) for a in arrays)}.")
    for name, array in zip(lists, arrays, strict=True):
        check_scores(array, {name: len(array)})
    return arrays


def check_scores(scores: Floats, counts: Mapping[str, int]) -> None:
    """Raises DataError for scores that are not finite, and for a class, counted by name, without a trial."""
    if bad := int(np.count_nonzero(~np.isfinite(scores))):
        raise DataError(f"{bad} of {len(scores)} scores are not finite (NaN or infinity); such trials have no rank.")
    for name, count in counts.items():
        if not count:
            raise DataError(f"There is no {name} trial; detection is measured on trials of both classes.")


def check_costs(p_target: float, c_miss: float, c_fa: float) -> None:
    """Raises UsageError unless the prior lies strictly between 0 and 1 and both costs are positive."""
    if not (0 < p_target < 1 and 0 < c_miss < np.inf and 0 < c_fa < np.inf):
        raise UsageError(
            f"A detection cost needs 0 < p_target < 1 and positive costs; got p_target={p_target}, "
            f"c_miss={c_miss}, c_fa={c_fa}."
        )


def check_convention(convention: str) -> None:
    """Raises UsageError for a name that is no convention of the equal error rate."""
    if convention not in get_args(Convention):
        raise UsageError(f"{convention!r} is no convention of the EER; use one of {', '.join(get_args(Convention))}.")


def _at(rates: Floats, k: NDArray[np.int64]) -> Floats:
    return np.take_along_axis(rates, k, axis=-1)[..., 0]
