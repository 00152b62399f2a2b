"""Trials held as columns: millions of rows `{"id", "target", "score", "speaker1", "speaker2"}` that are never all there as dictionaries."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from types import NoneType
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headwater.errors import DataError

KEYS = ("id", "target", "score", "speaker1", "speaker2")
CHUNK = 1 << 16  # lines that are text at a time


class TrialRows(Sequence[Mapping[str, Any]]):
    """N scored trials as a sequence of rows, sorted by id: `ENROL TEST`, or `ENROL TEST #2` for the second mention of a pair.

    Parameters
    ----------
    names, speakers: of U utterances, the speaker None where it is not known.
    enrol, test: (N,) whole numbers below U. targets: (N,) 1 to accept or 0 to reject. scores: (N,) float64.
    """

    def __init__(
        self,
        names: Sequence[str],
        speakers: Sequence[str | None],
        enrol: ArrayLike,
        test: ArrayLike,
        targets: ArrayLike,
        scores: ArrayLike,
        mention: ArrayLike | None = None,
    ) -> None:
        self.names, self.speakers = list(names), list(speakers)
        one, two = np.asarray(enrol, dtype=np.int32), np.asarray(test, dtype=np.int32)
        order, nth = _by_id(self.names, one, two, None if mention is None else np.asarray(mention, dtype=np.int64))
        self.enrol, self.test, self.mention = one[order], two[order], nth[order].astype(np.int32)
        self.targets = np.asarray(targets, dtype=np.uint8)[order]
        self.scores = np.asarray(scores, dtype=np.float64)[order]

    @classmethod
    def of_rows(cls, chunks: Iterable[Sequence[Mapping[str, Any]]]) -> TrialRows | None:
        """Rows in the form of these, some thousands of them at a time; None where one is not, or an id is there twice."""
        known: dict[str, int] = {}
        speakers: list[str | None] = []
        columns: list[list[NDArray[Any]]] = [[], [], [], [], []]
        for chunk in filter(None, chunks):
            if any(tuple(row) != KEYS for row in chunk):
                return None
            ids, targets, scores, *sides = zip(*(row.values() for row in chunk), strict=True)
            kinds = [{*map(type, values)} for values in (ids, targets, scores, (*sides[0], *sides[1]))]
            if not (kinds[:3] == [{str}, {int}, {float}] and kinds[3] <= {str, NoneType} and {*targets} <= {0, 1}):
                return None
            words = [name.split(" ") for name in ids]
            if not {*map(len, words)} <= {2, 3}:
                return None
            mention = [_nth(word[2]) if len(word) == 3 else 1 for word in words]
            names = [word[0] for word in words], [word[1] for word in words]
            for name, speaker in {*zip(names[0], sides[0], strict=True), *zip(names[1], sides[1], strict=True)}:
                if known.setdefault(name, len(speakers)) == len(speakers):
                    speakers.append(speaker)
                elif speakers[known[name]] != speaker:
                    return None
            if 0 in mention:
                return None
            sides_known = (list(map(known.__getitem__, side)) for side in names)
            for column, values in zip(columns, (*sides_known, mention, targets), strict=False):
                column.append(np.array(values, dtype=np.int32))
            columns[4].append(np.array(scores))
        if not known or any(char <= " " for name in known for char in name):
            return None
        one, two, nth, target, score = map(np.concatenate, columns)
        found = cls(list(known), speakers, one, two, target, score, nth)
        same = (found.enrol[1:] == found.enrol[:-1]) & (found.test[1:] == found.test[:-1])
        return None if (same & (found.mention[1:] == found.mention[:-1])).any() else found

    def __len__(self) -> int:
        return len(self.scores)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        one, two = int(self.enrol[index]), int(self.test[index])
        return {
            "id": self._id(one, two, int(self.mention[index])),
            "target": int(self.targets[index]),
            "score": float(self.scores[index]),
            "speaker1": self.speakers[one],
            "speaker2": self.speakers[two],
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[number] for number in range(len(self)))

    @cached_property
    def ids(self) -> list[str]:
        """The id of every row."""
        parts = zip(self.enrol.tolist(), self.test.tolist(), self.mention.tolist(), strict=True)
        return [self._id(one, two, mention) for one, two, mention in parts]

    def _id(self, one: int, two: int, mention: int) -> str:
        name = f"{self.names[one]} {self.names[two]}"
        return name if mention == 1 else f"{name} #{mention}"

    def clusters(self) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """The clusters of both sides of each row, (N,) each, and their number: speakers in the order of their names, then rows of no known speaker."""
        there = np.union1d(self.enrol, self.test).tolist()
        known = sorted({str(name) for number in there if (name := self.speakers[number]) not in (None, "")})
        index = {name: number for number, name in enumerate(known)}
        codes = np.array([index.get(str(name), -1) if name is not None else -1 for name in self.speakers])
        first, second = codes[self.enrol], codes[self.test]
        first, second = np.where(first < 0, second, first), np.where(second < 0, first, second)
        nobody = np.flatnonzero(first < 0)
        first[nobody] = second[nobody] = len(known) + np.arange(len(nobody))
        return first, second, len(known) + len(nobody)

    def column(self, name: str) -> NDArray[np.float64] | None:
        """The numbers (N,) float64 of `target` or `score`; None for another name. `DataError` names the first row where it is no finite number."""
        if name not in ("target", "score"):
            return None
        values = self.targets.astype(np.float64) if name == "target" else self.scores
        if not np.isfinite(values).all():
            row = self[int(np.flatnonzero(~np.isfinite(values))[0])]
            raise DataError(f"Row {row['id']!r} has {row[name]!r} under {name!r}, where a finite number is needed.")
        return values

    def json_lines(self) -> Iterator[bytes]:
        """The rows as JSON, one a line, some thousands of lines at a time."""
        names = [json.dumps(name, ensure_ascii=False)[1:-1] for name in self.names]
        speakers = [json.dumps(name, ensure_ascii=False) for name in self.speakers]
        starts = [f'{{"id": "{name} ' for name in names]
        for start in range(0, len(self), CHUNK):
            part = slice(start, start + CHUNK)
            lines = zip(
                *(column[part].tolist() for column in (self.enrol, self.test, self.mention, self.targets, self.scores)),
                strict=True,
            )
            yield "".join(
                [
                    f'{starts[one]}{names[two]}{f" #{mention}" if mention > 1 else ""}", "target": {target}, "score": {score!r}, '
                    f'"speaker1": {speakers[one]}, "speaker2": {speakers[two]}}}\n'
                    for one, two, mention, target, score in lines
                ]
            ).encode()


def _by_id(
    names: list[str], one: NDArray[Any], two: NDArray[Any], mention: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The order of trials by id (N,), and of each trial, as given, the how manieth of its pair it is (N,), from 1."""
    if mention is None and any(char <= " " for name in names for char in name):
        # A blank within a name: ids are not in the order of their parts.
        return _by_text(names, one, two)
    rank = np.empty(len(names), dtype=np.int64)
    rank[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    pair = rank[one] * len(names) + rank[two]
    order = np.argsort(pair, kind="stable")
    ranked = pair[order]
    if mention is None:
        starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
        mention = np.empty_like(pair)
        mention[order] = np.arange(len(pair)) - np.repeat(starts, np.diff(np.append(starts, len(pair)))) + 1
    if mention.max(initial=1) > 1:
        # As text: the first has no number, and #10 comes before #2.
        numbers, place = np.unique(mention, return_inverse=True)
        text = np.argsort(np.argsort([str(number) if number > 1 else "" for number in numbers.tolist()]))
        order = np.lexsort((text[place], pair))
    return order, mention


def _nth(word: str) -> int:
    """The number in `#2`; 0 for any other word."""
    found = int(word[1:]) if word[:1] == "#" and word[1:].isdecimal() and len(word) < 10 else 0
    return found if found > 1 and word == f"#{found}" else 0


def _by_text(names: list[str], one: NDArray[Any], two: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    seen: Counter[str] = Counter()
    ids, mentions = [], []
    for a, b in zip(one.tolist(), two.tolist(), strict=True):
        name = f"{names[a]} {names[b]}"
        seen[name] += 1
        mentions.append(seen[name])
        ids.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64), np.array(mentions, dtype=np.int64)
