"""Time-aligned names: `.lab` files and Praat TextGrids, as lists of intervals in seconds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headwater.data.text import lines, some
from headwater.errors import DataError

SILENCE = "SIL"
_SILENCES = {"", "sil", "SIL", "sp"}
_STRESSED = re.compile(r"(AA|AE|AH|AO|AW|AY|EH|ER|EY|IH|IY|OW|OY|UH|UW)[012]")
_HTK_UNIT = 1e-7  # seconds
_TOKEN = re.compile(
    r'"(?P<text>(?:[^"]|"")*)"|(?P<flag><\w+>)|(?P<comment>![^\n]*)'
    r"|(?<!\S)(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?!\S)"
)
_HEADER = re.compile(r'[^"]*"ooTextFile"[^"]*"TextGrid"')


@dataclass(frozen=True)
class Intervals:
    """Names in order of time; `starts`, `ends` and `duration` in seconds, `lines` where each stands in the file."""

    path: Path
    starts: Sequence[float]
    ends: Sequence[float]
    names: Sequence[str]
    lines: Sequence[int]
    duration: float


def read_interval_file(path: Path, *, tier: str = "phones", strip_stress: bool = True) -> Intervals:
    """A `.lab` or `.TextGrid` file; silence under any of its usual names (empty, sil, sp) is SIL, stress digits of
    ARPAbet vowels go on demand.

    Raises
    ------
    DataError: with file and line.
    """
    rows, duration = read_textgrid(path, tier) if path.suffix.lower() == ".textgrid" else read_lab(path)
    rows.sort(key=lambda row: row[0])
    starts: list[float] = []
    ends: list[float] = []
    names: list[str] = []
    numbers: list[int] = []
    for start, end, name, line in rows:
        if end < start or start < 0:
            raise DataError(f"{path}:{line}: {name!r} goes from {start:g} s to {end:g} s")
        if ends and start < ends[-1] - 1e-6:
            raise DataError(
                f"{path}:{line}: {name!r} starts at {start:g} s, before the end of {names[-1]!r} at {ends[-1]:g} s"
            )
        name = name.strip()
        if strip_stress and _STRESSED.fullmatch(name):
            name = name[:-1]
        starts.append(start)
        ends.append(end)
        names.append(SILENCE if name in _SILENCES else name)
        numbers.append(line)
    return Intervals(path, starts, ends, names, numbers, duration)


def read_lab(path: Path) -> tuple[list[tuple[float, float, str, int]], float]:
    """(start, end, name, line) of each line `start end name ...` and the last end, in seconds.

    Times may be seconds or HTK's units of 100 ns. The size decides: whole numbers throughout, the last end being 10,000
    or more, are HTK's (10,000 of them are a millisecond, and 10,000 seconds are nearly three hours).
    """
    rows: list[tuple[float, float, str, int]] = []
    whole = True
    for number, line in lines(path):
        fields = line.split()
        try:
            start, end = float(fields[0]), float(fields[1])
        except (ValueError, IndexError):
            raise DataError(f"{path}:{number}: {line.strip()!r} is not `start end name`") from None
        whole = whole and fields[0].isdecimal() and fields[1].isdecimal()
        rows.append((start, end, fields[2] if len(fields) > 2 else "", number))
    if not rows:
        raise DataError(f"{path} is empty; the form is `start end name`, a line for each interval")
    last = max(end for _, end, _, _ in rows)
    unit = _HTK_UNIT if whole and last >= 10_000 else 1.0
    return [(start * unit, end * unit, name, number) for start, end, name, number in rows], last * unit


def read_textgrid(path: Path, tier: str) -> tuple[list[tuple[float, float, str, int]], float]:
    """(start, end, text, line) of each interval of one tier, and xmax, from the long or the short form, in UTF-8 or
    UTF-16.

    Praat itself ignores every word that is not a quoted text, a flag such as <exists> or a number standing alone; what
    is left is one sequence in both forms.
    """
    source = _decode(path)
    if not _HEADER.match(source):
        raise DataError(
            f'{path}:1: this is no TextGrid: it should begin with File type = "ooTextFile" and Object class = "TextGrid"'
        )
    tokens = _Tokens(path, source)
    tokens.text(), tokens.text()
    tokens.number()
    xmax = tokens.number()
    if tokens.flag() != "<exists>":
        raise DataError(f"{path} has no tiers")
    found = []
    for _ in range(tokens.count()):
        kind, name = tokens.text(), tokens.text()
        tokens.number(), tokens.number()
        rows = []
        for _ in range(tokens.count()):
            start = tokens.number()
            end = tokens.number() if kind == "IntervalTier" else start
            line = tokens.line
            rows.append((start, end, tokens.text(), line))
        if name == tier and kind == "IntervalTier":
            return rows, xmax
        found.append(f"{name} ({kind})")
    raise DataError(f"{path} has no interval tier {tier!r}; its tiers are {some(found)}")


class _Tokens:
    """The meaningful tokens of a TextGrid, one after the other. `line` is that of the last one."""

    def __init__(self, path: Path, source: str) -> None:
        self._path, self._source = path, source
        self._matches = (match for match in _TOKEN.finditer(self._source) if match.lastgroup != "comment")
        self._counted, self.line = 0, 1

    def _next(self, kind: str) -> str:
        match = next(self._matches, None)
        if match is None:
            raise DataError(
                f"{self._path}:{self._source.count(chr(10)) + 1}: the file ends where a {kind} should stand; it is cut short"
            )
        self.line += self._source.count("\n", self._counted, match.start())
        self._counted = match.start()
        if match.lastgroup != kind:
            raise DataError(f"{self._path}:{self.line}: {match.group()!r} stands where a {kind} should")
        return match.group(kind)

    def text(self) -> str:
        return self._next("text").replace('""', '"')

    def flag(self) -> str:
        return self._next("flag")

    def number(self) -> float:
        return float(self._next("number"))

    def count(self) -> int:
        word = self._next("number")
        if not word.isdecimal():
            raise DataError(f"{self._path}:{self.line}: {word} is not a count")
        return int(word)


def _decode(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: the bytes from {error.start} on are neither UTF-8 nor UTF-16; save the TextGrid as UTF-8"
        ) from None
