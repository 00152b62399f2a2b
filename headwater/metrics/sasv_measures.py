"""Declared measures of spoofing-robust speaker verification, over trials that say under `trial` whether they are target, nontarget or spoof."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from headwater.errors import DataError
from headwater.metrics.base import Bounds, Declared
from headwater.metrics.bootstrap import Statistic, quotient
from headwater.metrics.detection import check_scores, eer_of_rates
from headwater.metrics.rows import Table
from headwater.metrics.sasv import AdcfCosts, a_dcf, sasv_eers, t_eer

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

TRIALS = ("target", "nontarget", "spoof")


@dataclass(frozen=True)
class SasvEer(Declared):
    """The equal error rate of one `score` for both jobs, in percent: of target trials against all others, against other speakers, or against spoofs."""

    kind: ClassVar[str] = "sasv_eer"
    unit: ClassVar[str] = "%"
    higher_is_better: ClassVar[bool] = False
    name: str = "sasv_eer"
    against: Literal["all", "nontarget", "spoof"] = "all"
    chance: float | None = 50.0

    def value(self, table: Table) -> float:
        """In percent. Raises DataError when a class is empty."""
        rates = sasv_eers(*_lists(table, "score"))
        return 100 * {"all": rates.sasv, "nontarget": rates.sv, "spoof": rates.spf}[self.against]

    def statistic(self, table: Table) -> Statistic:
        """The value of every resample, NaN where a class is empty."""
        scores, kinds, weights = table.column("score"), _kinds(table), table.weights()
        others = [kind for kind in (1, 2) if self.against in ("all", TRIALS[kind])]
        order = np.argsort(scores, kind="stable")
        ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
        classes = [(kinds == kind)[order] for kind in (0, *others)]

        def of_resamples(drawn: NDArray[np.int64]) -> Floats:
            drawn_rows = weights(drawn)[:, order]
            miss = _rejected(drawn_rows, classes[0], ends)
            rates = eer_of_rates(miss, 1 - _rejected(drawn_rows, np.any(classes[1:], axis=0), ends), "interpolated")
            present = np.all([drawn_rows[:, flags].any(axis=1) for flags in classes], axis=0)
            return np.where(present, 100 * rates, np.nan)

        return of_resamples

    def bounds(self, table: Table) -> Bounds:
        """The least and greatest possible value."""
        return 0.0, 100.0


@dataclass(frozen=True)
class ADcf(Declared):
    """The architecture-agnostic detection cost (`a_dcf`) of one `score` for both jobs, without unit, in [0, 1]. costs: as in `AdcfCosts`, by its names."""

    kind: ClassVar[str] = "a_dcf"
    unit: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = False
    name: str = "a_dcf"
    costs: dict[str, float] = field(default_factory=lambda: asdict(AdcfCosts()), hash=False)
    chance: float | None = 1.0

    def __post_init__(self) -> None:
        self._costs()

    def value(self, table: Table) -> float:
        """Without unit. Raises DataError when a class is empty."""
        return a_dcf(*_lists(table, "score"), self._costs())[0]

    def statistic(self, table: Table) -> Statistic:
        """The value of every resample, NaN where a class is empty."""
        scores, kinds, weights, costs = table.column("score"), _kinds(table), table.weights(), self._costs()
        order = np.lexsort((kinds, scores))
        every, sorted_kinds = np.arange(len(scores)), kinds[order]

        def of_resamples(drawn: NDArray[np.int64]) -> Floats:
            drawn_rows = weights(drawn)[:, order]
            miss, *rejected = (_rejected(drawn_rows, sorted_kinds == kind, every) for kind in range(len(TRIALS)))
            of_miss, *of_others = costs.weights
            curve = of_miss * miss
            for weight, share in zip(of_others, rejected, strict=True):
                curve += weight * (1 - share)
            least: Floats = curve.min(axis=1) / costs.scale
            return least

        return of_resamples

    def bounds(self, table: Table) -> Bounds:
        """The least and greatest possible value."""
        return 0.0, 1.0

    def _costs(self) -> AdcfCosts:
        return AdcfCosts(**self.costs)


@dataclass(frozen=True)
class TEer(Declared):
    """The concurrent tandem equal error rate (`t_eer`) of two scores a trial, `asv_score` and `cm_score`, in percent."""

    kind: ClassVar[str] = "t_eer"
    unit: ClassVar[str] = "%"
    higher_is_better: ClassVar[bool] = False
    name: str = "t_eer"
    chance: float | None = None

    def value(self, table: Table) -> float:
        """In percent. Raises DataError when a class is empty, or for an ASV that is no better than a coin."""
        return 100 * t_eer(_lists(table, "asv_score"), _lists(table, "cm_score")).concurrent

    def statistic(self, table: Table) -> Statistic:
        """The value of every resample, NaN where it is not defined. Each is the whole search of `t_eer` on trials drawn as often as their speaker."""
        asv, cm, kinds, weights = table.column("asv_score"), table.column("cm_score"), _kinds(table), table.weights()

        def of_one(times: NDArray[np.int64]) -> float:
            target, nontarget, spoof = (np.repeat(np.flatnonzero(kinds == k), times[kinds == k]) for k in range(3))
            try:
                both = [(one[target], one[nontarget], one[spoof]) for one in (asv, cm)]
                return 100 * t_eer(both[0], both[1]).concurrent
            except DataError:
                return np.nan

        return lambda drawn: np.array([of_one(times) for times in weights(drawn)])

    def bounds(self, table: Table) -> Bounds:
        """The least and greatest possible value."""
        return 0.0, 100.0


SasvMeasure = SasvEer | ADcf | TEer


def _kinds(table: Table) -> NDArray[np.int8]:
    """Which of `TRIALS` each row is, (N,). Raises DataError for another word."""
    for row in table.rows:
        if row.get("trial") not in TRIALS:
            raise DataError(
                f"Row {row['id']!r} is a trial {row.get('trial')!r}; it is {', '.join(TRIALS[:-1])} or {TRIALS[-1]}."
            )
    return np.array([TRIALS.index(row["trial"]) for row in table.rows], dtype=np.int8)


def _lists(table: Table, column: str) -> tuple[Floats, Floats, Floats]:
    """The scores of each of `TRIALS`."""
    scores, kinds = table.column(column), _kinds(table)
    target, nontarget, spoof = (scores[kinds == kind] for kind in range(len(TRIALS)))
    check_scores(scores, dict(zip(TRIALS, map(len, (target, nontarget, spoof)), strict=True)))
    return target, nontarget, spoof


def _rejected(weights: NDArray[np.int64], chosen: Flags, ends: NDArray[np.int64]) -> Floats:
    """The share of the `chosen` among sorted trials (N,) that each threshold rejects, (R, K + 1), of trials that count as `weights` (R, N) says; NaN where
    none is drawn. ends (K,): the last trial below each threshold but the first, which rejects nothing."""
    counts = np.cumsum(weights * chosen, axis=1)
    total = counts[:, -1].astype(np.float64)
    shares = np.zeros((len(counts), len(ends) + 1))
    shares[:, 1:] = counts[:, ends]
    return shares * quotient(np.ones(len(total)), total)[:, None]
