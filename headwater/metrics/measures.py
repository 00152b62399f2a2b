"""Declared measures: what to compute from rows of per-utterance scores, as data that a result can carry.

A row is a mapping with an `id` and whatever the measure reads. Rows are clustered by `speaker`, trials jointly by
`speaker1` and `speaker2`. Everything is computed from rows, and only here, so that a run, a pooled table and a paired
comparison cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from headwater.errors import DataError, nearest
from headwater.metrics.base import Bounds, Declared, Metric
from headwater.metrics.bootstrap import Statistic, interval, quotient, resample
from headwater.metrics.detection_measures import ActDcf, Cllr, DetectionMeasure, Eer, MinDcf, MinTdcf
from headwater.metrics.rows import Row, Table, same_data
from headwater.metrics.sasv_measures import ADcf, SasvEer, SasvMeasure, TEer

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ratio(Declared):
    """A sum over a sum, in percent when `unit` is "%": accuracy is Ratio("accuracy", "correct", "total")."""

    kind: ClassVar[str] = "ratio"
    name: str
    numerator: str
    denominator: str
    unit: str = "%"
    higher_is_better: bool = True
    chance: float | None = None

    def value(self, table: Table) -> float:
        """In `unit`. Raises DataError when the denominators sum to 0."""
        total = math.fsum(table.column(self.denominator))
        if total == 0:
            raise DataError(
                f"{self.name}: the column {self.denominator!r} sums to 0, so there is nothing to divide by."
            )
        return self._scale * (math.fsum(table.column(self.numerator)) / total)

    def statistic(self, table: Table) -> Statistic:
        """The value of every resample."""
        top, bottom = table.summed(self.numerator), table.summed(self.denominator)
        return lambda drawn: self._scale * quotient(top(drawn), bottom(drawn))

    def bounds(self, table: Table) -> Bounds:
        """The least and greatest possible value, if every row is a share of its denominator (unlike word errors)."""
        top, bottom = table.column(self.numerator), table.column(self.denominator)
        return (0.0, self._scale) if bool(np.all((top >= 0) & (top <= bottom))) else None

    @property
    def _scale(self) -> float:
        return 100.0 if self.unit == "%" else 1.0


@dataclass(frozen=True)
class Mean(Declared):
    """The mean over rows of a column that is already in `unit`.

    optional: a row may say null, where the quantity is not defined (the F0 error of a whisper). Such rows are left out, counted in the note, and have no part
    in `n`.
    """

    kind: ClassVar[str] = "mean"
    name: str
    column: str
    unit: str
    higher_is_better: bool
    chance: float | None = None
    optional: bool = False

    def to_json(self) -> dict[str, Any]:
        """As of every measure; what is the rule is not said, so that results from before `optional` are of the same measure."""
        content = super().to_json()
        return content if self.optional else {key: value for key, value in content.items() if key != "optional"}

    def value(self, table: Table) -> float:
        """In `unit`. Raises DataError when no row has a value."""
        values = self._values(table)
        defined = values[~np.isnan(values)]
        if not len(defined):
            raise DataError(f"{self.name} is defined in none of {len(table)} rows.")
        return math.fsum(defined) / len(defined)

    def statistic(self, table: Table) -> Statistic:
        """The value of every resample."""
        values = self._values(table)
        defined = ~np.isnan(values)
        total, count = table.sums(np.where(defined, values, 0.0)), table.sums(defined.astype(np.float64))
        return lambda drawn: quotient(total(drawn), count(drawn))

    def defined(self, table: Table) -> NDArray[np.bool_]:
        """Which rows have a value, (N,)."""
        return ~np.isnan(self._values(table))

    def _values(self, table: Table) -> Floats:
        return table.column(self.column, optional=self.optional)

    def bounds(self, table: Table) -> Bounds:
        """None: a mean has no bounds that its unit would tell."""
        return None


Measure = Ratio | Mean | DetectionMeasure | SasvMeasure
_KINDS: dict[str, type[Measure]] = {
    kind.kind: kind for kind in (Ratio, Mean, Eer, MinDcf, ActDcf, Cllr, MinTdcf, SasvEer, ADcf, TEer)
}


def measure_from_json(content: Mapping[str, Any]) -> Measure:
    """The inverse of `to_json`. Raises DataError naming an unknown kind, or a key that is unknown or missing."""
    kind = content.get("kind")
    if kind not in _KINDS:
        raise DataError(
            f"{kind!r} is no kind of measure.{nearest(str(kind), list(_KINDS))} Known: {', '.join(_KINDS)}."
        )
    known = [item.name for item in fields(_KINDS[kind])]
    values = {key: value for key, value in content.items() if key != "kind"}
    if unknown := sorted(set(values) - set(known)):
        raise DataError(f"The measure {kind!r} has no key {unknown[0]!r}.{nearest(unknown[0], known)}")
    try:
        return _KINDS[kind](**values)
    except TypeError as error:
        raise DataError(f"The measure {kind!r} is incomplete: {error}.") from None


def evaluate(measures: Iterable[Measure], rows: Iterable[Row] | Table, seed: int = 0) -> dict[str, Metric]:
    """Every measure of the rows, by name, with its 95 % interval.

    The same rows in any order and the same seed give the same numbers. Raises DataError when there are no rows, an id
    is missing or repeated, or a row lacks a number that a measure reads.
    """
    table, measures = rows if isinstance(rows, Table) else Table(rows), list(measures)
    values = [measure.value(table) for measure in measures]
    statistics = [measure.statistic(table) for measure in measures]
    # All measures are asked of the same resamples.
    drawn = resample(
        lambda drawn: np.stack([statistic(drawn) for statistic in statistics], axis=1),
        table.clusters,
        _held(measures, table),
        seed,
    )
    return {
        measure.name: _metric(measure, table, value, resampled)
        for measure, value, resampled in zip(measures, values, drawn.T, strict=True)
    }


def paired_difference(measure: Measure, rows_a: Iterable[Row], rows_b: Iterable[Row], seed: int = 0) -> Metric:
    """How much more A has than B (value of A minus value of B), both judged on the same resamples.

    Differences of percentages are in "percentage points". Raises DataError naming the first ids that only one of them
    has, and when a row differs in its speakers, target or label.
    """
    a, b = Table(rows_a), Table(rows_b)
    same_data(a, b)
    if isinstance(measure, Mean) and measure.optional:
        # A pair is two values of one row.
        both = np.flatnonzero(measure.defined(a) & measure.defined(b))
        if not len(both):
            raise DataError(f"{measure.name}: no row has a value in both results, so there is nothing to compare.")
        a, b = a.select(both), b.select(both)
    value = measure.value(a) - measure.value(b)
    of_a, of_b = measure.statistic(a), measure.statistic(b)
    values = resample(lambda drawn: of_a(drawn) - of_b(drawn), a.clusters, _held([measure], a), seed)
    ends = measure.bounds(a), measure.bounds(b)
    bounds = None if ends[0] is None or ends[1] is None else (ends[0][0] - ends[1][1], ends[0][1] - ends[1][0])
    found = interval(values, value, a.clusters, bounds)
    unit = "percentage points" if measure.unit == "%" else measure.unit
    return Metric(
        value, unit, measure.higher_is_better, len(a), found.ci95, clusters=a.clusters, note=found.note,
        measure=measure.to_json(),
    )  # fmt: skip


def _held(measures: Iterable[Measure], table: Table) -> int:
    """How many rows a resample holds at once: curves hold none, nor do the sums of ActDcf and Cllr over single speakers."""
    none = Eer | MinDcf | MinTdcf if table.two_sided else Eer | MinDcf | MinTdcf | ActDcf | Cllr
    return 0 if all(isinstance(measure, none) for measure in measures) else len(table)


def _metric(measure: Measure, table: Table, value: float, values: Floats) -> Metric:
    found, note, n = interval(values, value, table.clusters, measure.bounds(table)), "", len(table)
    clusters = table.clusters
    if isinstance(measure, Mean) and measure.optional:
        there = np.flatnonzero(measure.defined(table))
        if missing := n - len(there):
            n, clusters = len(there), table.select(there).clusters
            note = f"not defined in {missing} of {len(table)} rows, which are left out"
    return Metric(
        value, measure.unit, measure.higher_is_better, n, found.ci95, measure.chance, clusters,
        "; ".join(filter(None, (note, found.note))) or None, measure.to_json(),
    )  # fmt: skip
