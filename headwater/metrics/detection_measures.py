"""Declared measures of detection, over trials with a `score` and a `target` (1: accept, 0: reject)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from headwater.errors import DataError
from headwater.metrics.base import Bounds, Declared
from headwater.metrics.bootstrap import Statistic, quotient
from headwater.metrics.calibration import bayes_threshold, bits, dcf_of_rates
from headwater.metrics.detection import Convention, check_convention, check_costs, eer_of_rates, min_dcf_of_rates
from headwater.metrics.rows import Table
from headwater.metrics.tandem import AsvRates, TandemCosts, Year, tandem_costs

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Eer(Declared):
    """The equal error rate of trials with a `score` and a `target` (1: accept, 0: reject), in percent."""

    kind: ClassVar[str] = "eer"
    unit: ClassVar[str] = "%"
    higher_is_better: ClassVar[bool] = False
    name: str = "eer"
    convention: Convention = "interpolated"
    chance: float | None = 50.0

    def __post_init__(self) -> None:
        check_convention(self.convention)

    def value(self, table: Table) -> float:
        """In percent. Raises DataError when a class is empty."""
        return 100 * float(eer_of_rates(*table.trials.rates(self.convention), self.convention))

    def statistic(self, table: Table) -> Statistic:
        """The value of every resample, NaN where a class is empty."""
        trials = table.resampled(self.convention)
        return lambda drawn: 100 * trials.curves(drawn).eer()

    def bounds(self, table: Table) -> Bounds:
        """The least and greatest possible value."""
        return 0.0, 100.0


@dataclass(frozen=True)
class DetectionCost(Declared):
    """The base of normalised detection costs of trials with a `score` and a `target`, without unit."""

    unit: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = False
    name: str
    p_target: float
    c_miss: float = 1.0
    c_fa: float = 1.0
    chance: float | None = 1.0

    def __post_init__(self) -> None:
        check_costs(self.p_target, self.c_miss, self.c_fa)


@dataclass(frozen=True)
class MinDcf(DetectionCost):
    """The least cost that any threshold gives, in [0, 1]."""

    kind: ClassVar[str] = "min_dcf"

    def value(self, table: Table) -> float:
        """Without unit. Raises DataError when a class is empty."""
        return float(min_dcf_of_rates(*table.trials.rates(), self.p_target, self.c_miss, self.c_fa))

    def statistic(self, table: Table) -> Statistic:
        """The value of every resample, NaN where a class is empty."""
        trials = table.resampled()
        return lambda drawn: trials.curves(drawn).min_dcf(self.p_target, self.c_miss, self.c_fa)

    def bounds(self, table: Table) -> Bounds:
        """The least and greatest possible value."""
        return 0.0, 1.0


@dataclass(frozen=True)
class ActDcf(DetectionCost):
    """The cost at the threshold that follows from prior and costs, of scores that are log-likelihood ratios."""

    kind: ClassVar[str] = "act_dcf"

    def value(self, table: Table) -> float:
        """Without unit. Raises DataError when a class is empty."""
        positive, wrong = table.trials.positive, self._wrong(table.trials.scores, table.trials.positive)
        return float(self._cost(wrong[positive].mean(), wrong[~positive].mean()))

    def statistic(self, table: Table) -> Statistic:
        """The value of every resample, NaN where a class is empty."""
        means = class_means(table, self._wrong(table.trials.scores, table.trials.positive))
        return lambda drawn: self._cost(*means(drawn))

    def bounds(self, table: Table) -> Bounds:
        """The least and greatest possible value."""
        return 0.0, float(self._cost(1.0, 1.0))

    def _wrong(self, scores: Floats, positive: NDArray[np.bool_]) -> Floats:
        accepted = scores >= bayes_threshold(self.p_target, self.c_miss, self.c_fa)
        return (accepted != positive).astype(np.float64)

    def _cost(self, miss: Floats | float, false_alarm: Floats | float) -> Floats:
        return dcf_of_rates(miss, false_alarm, self.p_target, self.c_miss, self.c_fa)


@dataclass(frozen=True)
class Cllr(Declared):
    """The cost in bits of scores that are log-likelihood ratios: 0 is perfect, 1 what scores of 0 have."""

    kind: ClassVar[str] = "cllr"
    unit: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = False
    name: str = "cllr"
    chance: float | None = 1.0

    def value(self, table: Table) -> float:
        """In bits. Raises DataError when a class is empty."""
        positive, costs = table.trials.positive, self._costs(table)
        return float(costs[positive].mean() + costs[~positive].mean()) / 2

    def statistic(self, table: Table) -> Statistic:
        """The value of every resample, NaN where a class is empty."""
        means = class_means(table, self._costs(table))

        def of_resamples(drawn: NDArray[np.int64]) -> Floats:
            accepted, rejected = means(drawn)
            return (accepted + rejected) / 2

        return of_resamples

    def bounds(self, table: Table) -> Bounds:
        """None: a single trial may cost any number of bits."""
        return None

    def _costs(self, table: Table) -> Floats:
        return bits(np.where(table.trials.positive, -table.trials.scores, table.trials.scores))


@dataclass(frozen=True)
class MinTdcf(Declared):
    """The normalised minimum tandem detection cost of a countermeasure in front of an ASV system with the given error rates.

    asv_miss, asv_false_alarm, asv_spoof: shares in [0, 1], as in `AsvRates`. asv_spoof_of: by the name of a breakdown the share of each group's
    spoofs that the ASV accepts; the groups of a breakdown that is not there have `asv_spoof`.
    """

    kind: ClassVar[str] = "min_tdcf"
    unit: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = False
    name: str
    asv_miss: float
    asv_false_alarm: float
    asv_spoof: float
    year: Year = 2021
    asv_spoof_of: Mapping[str, Mapping[str, float]] = field(default_factory=dict, hash=False)
    chance: float | None = 1.0

    def __post_init__(self) -> None:
        self._costs()

    def of_group(self, breakdown: str, group: str) -> MinTdcf:
        """The measure of one group of a breakdown. Raises DataError where the ASV's rate on that group's spoofs is not known."""
        if breakdown not in self.asv_spoof_of:
            return replace(self, asv_spoof_of={})
        if group not in self.asv_spoof_of[breakdown]:
            raise DataError(f"the ASV scores hold no spoof of {group}")
        return replace(self, asv_spoof=self.asv_spoof_of[breakdown][group], asv_spoof_of={})

    def value(self, table: Table) -> float:
        """Without unit: 1 for a countermeasure whose scores are all alike. Raises DataError when a class is empty."""
        costs, (miss, false_alarm) = self._costs(), table.trials.rates()
        return float(self._normalised((costs.of_miss * miss + costs.of_false_alarm * false_alarm).min()))

    def statistic(self, table: Table) -> Statistic:
        """The value of every resample, NaN where a class is empty."""
        trials, costs = table.resampled(), self._costs()
        return lambda drawn: self._normalised(trials.curves(drawn).min_cost(costs.of_miss, costs.of_false_alarm))

    def bounds(self, table: Table) -> Bounds:
        """The least and greatest possible value."""
        return self._costs().floor, 1.0

    def _costs(self) -> TandemCosts:
        return tandem_costs(AsvRates(self.asv_miss, self.asv_false_alarm, self.asv_spoof), self.year)

    def _normalised(self, cost: Floats) -> Floats:
        costs = self._costs()
        return np.asarray((costs.fixed + cost) / costs.scale)


DetectionMeasure = Eer | MinDcf | ActDcf | Cllr | MinTdcf


def class_means(table: Table, values: Floats) -> Callable[[NDArray[np.int64]], tuple[Floats, Floats]]:
    """From multiplicities (R, S) to the means (R,) of `values`, one for each sorted trial, over positives and over negatives; NaN where there are none."""
    trials = table.trials
    by_row = np.empty(len(values))
    by_row[trials.order] = values
    positive = np.empty(len(values), dtype=bool)
    positive[trials.order] = trials.positive
    sums = [table.sums(weights) for kind in (positive, ~positive) for weights in (by_row * kind, kind.astype(float))]

    def means(drawn: NDArray[np.int64]) -> tuple[Floats, Floats]:
        accepted, positives, rejected, negatives = (total(drawn) for total in sums)
        return quotient(accepted, positives), quotient(rejected, negatives)

    return means
