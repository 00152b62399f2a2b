"""Rows of per-utterance scores as columns, in an order of their own, with the clusters that resampling draws."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.errors import DataError
from headwater.metrics.bootstrap import Statistic
from headwater.metrics.detection import Convention, SortedScores
from headwater.metrics.resampled import Resampled
from headwater.metrics.trials import TrialRows

Row = Mapping[str, Any]
Weights = Callable[[NDArray[np.int64]], NDArray[np.int64]]

Cluster = tuple[int, str]


class Table:
    """N rows sorted by id, so that nothing computed from them depends on the order they came in.

    `sides`, two or more of (N,) int64, are the clusters of each row; they differ only in trials of two speakers and in
    mixtures, and a row of fewer speakers than others names its first one again. A row of no known speaker is a cluster
    of its own. Raises DataError when there are no rows, or an id is missing or repeated.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._resampled: dict[Convention, Resampled] = {}
        self.rows: Sequence[Row] = rows if isinstance(rows, TrialRows) else sorted(rows, key=_id)
        if not self.rows:
            raise DataError("There are no scored rows, so there is nothing to measure.")
        if isinstance(self.rows, TrialRows):
            first, second, self.clusters = self.rows.clusters()
            self.sides: tuple[NDArray[np.int64], ...] = (first, second)
            return
        for one, other in zip(self.ids, self.ids[1:]):
            if one == other:
                raise DataError(
                    f"The id {one!r} is scored twice; every utterance or trial is scored once under its own id."
                )
        speakers = [_speakers(row) for row in self.rows]
        index = {name: i for i, name in enumerate(sorted({name for names in speakers for name in names}))}
        self.clusters = len(index)
        self.sides = tuple(
            np.fromiter((index[names[side if side < len(names) else 0]] for names in speakers), np.int64, len(speakers))
            for side in range(max(2, max(map(len, speakers))))
        )

    @property
    def first(self) -> NDArray[np.int64]:
        """The first cluster of each row."""
        return self.sides[0]

    @property
    def second(self) -> NDArray[np.int64]:
        """The second one, or again the first."""
        return self.sides[1]

    @cached_property
    def ids(self) -> list[str]:
        """The id of every row."""
        return self.rows.ids if isinstance(self.rows, TrialRows) else [_id(row) for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str, *, optional: bool = False) -> NDArray[np.float64]:
        """The numbers (N,) float64 under `name`; NaN for null where the column is `optional`.

        Raises DataError naming the first row where it is no finite number.
        """
        held = self.rows.column(name) if isinstance(self.rows, TrialRows) else None
        if held is not None:
            return held
        if optional:
            values = (math.nan if name in row and row[name] is None else _number(row, name) for row in self.rows)
            return np.fromiter(values, dtype=np.float64, count=len(self))
        return np.fromiter((_number(row, name) for row in self.rows), dtype=np.float64, count=len(self))

    @cached_property
    def trials(self) -> SortedScores:
        """The rows as trials by `score` and `target`. Raises DataError for an empty class or a target not 0 or 1."""
        targets = self.column("target")
        if wrong := np.flatnonzero((targets != 0) & (targets != 1)).tolist():
            row = self.rows[wrong[0]]
            raise DataError(f"Row {row['id']!r} has the target {row['target']!r}; it is 1 to accept or 0 to reject.")
        return SortedScores.sort(self.column("score"), targets == 1)

    def resampled(self, convention: Convention | None = None) -> Resampled:
        """The rows as trials to be resampled, made once for all measures; costs, which both conventions agree on, name none."""
        known: list[Convention] = [*self._resampled, "interpolated"]
        made = convention or known[0]
        if made not in self._resampled:
            trials = self.trials
            sides = self.first[trials.order], self.second[trials.order]
            self._resampled[made] = Resampled(trials, *sides, self.clusters, made)
        return self._resampled[made]

    def weights(self) -> Weights:
        """From multiplicities (R, S) of clusters to those of rows (R, N).

        A trial of speakers i and j occurs m_i m_j times, and so does a mixture of i, j and more. One of a single speaker (a target trial) occurs m_i times:
        it was drawn with that speaker once, and m_i^2 would nearly triple the variance of the miss rate.
        """
        if not self.two_sided:
            return lambda drawn: drawn[:, self.first]
        again = [np.any([side == earlier for earlier in self.sides[:k]], axis=0) for k, side in enumerate(self.sides)]

        def multiplied(drawn: NDArray[np.int64]) -> NDArray[np.int64]:
            found = drawn[:, self.first]
            for side, known in zip(self.sides[1:], again[1:], strict=True):
                found = found * np.where(known, 1, drawn[:, side])
            return found

        return multiplied

    def summed(self, name: str | None) -> Statistic:
        """From multiplicities (R, S) to the sums (R,) of a column over each resample; of ones when `name` is None."""
        return self.sums(np.ones(len(self)) if name is None else self.column(name))

    def sums(self, values: NDArray[np.float64]) -> Statistic:
        """From multiplicities (R, S) to the sums (R,) of `values` (N,), one for each row, over each resample."""
        if self.two_sided:
            weights = self.weights()
            return lambda drawn: weights(drawn) @ values
        sums = values[np.argsort(self.first, kind="stable")]
        if self.clusters < len(self):
            members = np.split(sums, np.cumsum(np.bincount(self.first))[:-1])
            sums = np.array([math.fsum(group.tolist()) for group in members])
        return lambda drawn: drawn @ sums

    @cached_property
    def two_sided(self) -> bool:
        """Whether some rows are of two speakers, or more."""
        return not all(np.array_equal(self.first, side) for side in self.sides[1:])

    def select(self, index: NDArray[np.int64]) -> Table:
        """What these rows (n,), at ascending places, are as a table of their own, without sorting and checking them once more."""
        part = object.__new__(Table)
        part._resampled = {}
        part.rows = [self.rows[place] for place in index.tolist()]
        # The order of clusters stays, so the same ones are drawn as if there had never been other rows.
        present, numbers = np.unique(np.stack([side[index] for side in self.sides]), return_inverse=True)
        part.clusters = len(present)
        part.sides = tuple(numbers.reshape(len(self.sides), -1).astype(np.int64))
        return part


def same_data(a: Table, b: Table) -> None:
    """Raises DataError, naming the first ids, unless both tables score the same rows, speakers and labels."""
    for ours, theirs, which in ((a, b, "second"), (b, a, "first")):
        if missing := sorted(set(ours.ids) - set(theirs.ids)):
            shown = ", ".join(map(repr, missing[:3])) + (", ..." if len(missing) > 3 else "")
            raise DataError(
                f"{len(missing)} of {len(ours)} ids are missing from the {which} result: {shown}. A paired comparison "
                "needs both results on the same data."
            )
    for one, other in zip(a.rows, b.rows):
        # What a row says of the data, not of the system.
        for key in (*_speaker_keys(tuple(one)), "target", "label"):
            if key in one and key in other and one[key] != other[key]:
                raise DataError(
                    f"Row {one['id']!r} has the {key} {one[key]!r} in the first result and {other[key]!r} in the "
                    "second; these are not results on the same data."
                )


def _id(row: Row) -> str:
    name = row.get("id")
    if not isinstance(name, str):
        raise DataError(f"A scored row has the id {name!r}; every row needs a string under 'id'.")
    return name


def _speakers(row: Row) -> list[Cluster]:
    """The clusters of a row, one or more; speakers and unknown speakers (named by the row) are kept apart by their first item."""
    known = [str(row[key]) for key in _speaker_keys(tuple(row)) if row[key] not in (None, "")]
    return [(0, name) for name in known] or [(1, row["id"])]


@lru_cache(maxsize=64)
def _speaker_keys(keys: tuple[str, ...]) -> list[str]:
    """Those that name a speaker: `speaker`, or `speaker1`, `speaker2` and so on."""
    return sorted(key for key in keys if re.fullmatch(r"speaker\d*", key))


def _number(row: Row, name: str) -> float:
    value = row.get(name)
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DataError(f"Row {row['id']!r} has {value!r} under {name!r}, where a finite number is needed.")
    return float(value)
