"""The same measures of parts of the rows: by attack, codec, gender, noise level.

A pooled number is no mean of its groups: groups have thresholds of their own, and unequal sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.errors import DataError
from headwater.metrics.base import Metric
from headwater.metrics.detection_measures import MinTdcf
from headwater.metrics.measures import Measure, evaluate
from headwater.metrics.rows import Row, Table


@dataclass(frozen=True)
class Breakdown:
    """Which rows form a group: those of one value under `key`, and, where `within` is given, of one value under that, too.

    Rows whose value is `shared` belong to every group of that key: bona fide speech, whose attack is "-", is compared with each attack in turn.
    Values are text, or numbers.

    >>> Breakdown("attack", shared="-", within="codec").name
    'attack, codec'
    """

    key: str
    shared: str | None = None
    within: str | None = None

    @property
    def name(self) -> str:
        """The keys, as they stand in results."""
        return self.key if self.within is None else f"{self.key}, {self.within}"

    def to_json(self) -> dict[str, Any]:
        """The declaration as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Breakdown:
        """The inverse of `to_json`. Raises DataError for an unknown key, and where `key` is missing."""
        known = [item.name for item in fields(cls)]
        if "key" not in content or set(content) - set(known):
            raise DataError(f"A breakdown has the keys {', '.join(known)}, not {', '.join(content) or 'none'}.")
        return cls(**content)


@dataclass(frozen=True)
class Groups:
    """Metrics by group and measure. A measure that a group does not allow (one class only) is left out, and `notes` says so."""

    metrics: dict[str, dict[str, Metric]]
    notes: tuple[str, ...] = ()


def break_down(breakdown: Breakdown, measures: Iterable[Measure], rows: Iterable[Row] | Table, seed: int = 0) -> Groups:
    """Every measure of every group with its 95 % interval: what `evaluate` says of the rows of that group alone.

    Groups stand in the order of their names, or values where all are numbers; one of two keys is called `VALUE, VALUE`. Rows without a value belong to
    none; how many they are is noted. Raises DataError when there are no rows, an id is missing or repeated, or no row has a value.
    """
    table, measures = rows if isinstance(rows, Table) else Table(rows), list(measures)
    notes: list[str] = []
    found: dict[str, dict[str, Metric]] = {}
    for group, index in _groups(breakdown, table, notes).items():
        part, defined = table.select(index), []
        for measure in measures:
            try:
                of_group = measure.of_group(breakdown.name, group) if isinstance(measure, MinTdcf) else measure
                of_group.value(part)
            except DataError as error:
                notes.append(f"{group}: no {measure.name}: {error}")
            else:
                defined.append(of_group)
        if defined:
            found[group] = evaluate(defined, part, seed)
    return Groups(found, tuple(notes))


def _groups(breakdown: Breakdown, table: Table, notes: list[str]) -> dict[str, NDArray[np.int64]]:
    """The places (n,) of each group's rows."""
    keys = [breakdown.key] if breakdown.within is None else [breakdown.key, breakdown.within]
    columns = [_values(table, key) for key in keys]
    for key, (_, codes) in zip(keys, columns, strict=True):
        if missing := int(np.count_nonzero(codes < 0)):
            if missing == len(table):
                raise DataError(f"No row says its {key}, so the rows cannot be parted by it.")
            notes.append(f"{missing} of {len(table)} rows say no {key} and are in no group of it")
    groups = {}
    for names in product(*([name for name in values if name != breakdown.shared] for values, _ in columns)):
        own, members = np.ones(len(table), dtype=bool), np.ones(len(table), dtype=bool)
        for name, (values, codes) in zip(names, columns, strict=True):
            here = codes == values.index(name)
            own &= here
            members &= here | (codes == values.index(breakdown.shared)) if breakdown.shared in values else here
        if own.any():
            groups[", ".join(names)] = np.flatnonzero(members)
    return groups


def _values(table: Table, key: str) -> tuple[list[str], NDArray[np.int64]]:
    """The values under a key as text, in order, and which of them each row has (N,), -1 where it has none."""
    said = [row.get(key) for row in table.rows]
    kinds = {*map(type, said)} - {str, int, float, bool, type(None)}
    if kinds:
        raise DataError(f"The values under {key!r} are {kinds.pop().__name__}, where text or a number parts rows.")
    names = {value: str(value) for value in {*said} if value not in (None, "")}
    order = {name: number for number, name in enumerate(sorted({*names.values()}, key=_order({*names.values()})))}
    codes = {value: order[name] for value, name in names.items()}
    return list(order), np.fromiter((codes.get(value, -1) for value in said), dtype=np.int64, count=len(said))


def _order(names: set[str]) -> Any:
    """How names are sorted: as numbers where all are."""
    try:
        return float if all(math.isfinite(float(name)) for name in names) else str
    except ValueError:
        return str
