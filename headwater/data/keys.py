"""Keys of anti-spoofing corpora: which trial is bona fide, who speaks, and which attack and codec it went through."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater.data.tables import read_table
from headwater.data.text import lines
from headwater.errors import DataError, nearest

BONAFIDE, SPOOF = "bonafide", "spoof"
SHARED = "-"  # the attack of bona fide speech, and whatever else a key says of attacks only
OF_ATTACKS = ("attack", "vocoder")  # what says something of spoofs only
NO_CODEC = "none"  # what ASVspoof 2021 calls it; ASVspoof 5 writes "-"


@dataclass(frozen=True)
class Form:
    """The columns of a key, from 0."""

    name: str
    trial: int
    label: int
    columns: Mapping[str, int]
    subset: int | None = None


# By the number of columns.
FORMS = {
    2: Form("ASVspoof 5 key (filename, cm-label)", 0, 1, {}),
    5: Form("ASVspoof 2019 protocol", 1, 4, {"speaker": 0, "attack": 3}),
    8: Form(
        "ASVspoof 2021 LA key",
        1,
        5,
        {"speaker": 0, "codec": 2, "transmission": 3, "attack": 4, "trim": 6},
        subset=7,
    ),
    10: Form("ASVspoof 5 protocol", 1, 8, {"speaker": 0, "gender": 2, "codec": 3, "attack": 7}),
    13: Form(
        "ASVspoof 2021 DF key",
        1,
        5,
        {"speaker": 0, "codec": 2, "source": 3, "attack": 4, "trim": 6, "vocoder": 8},
        subset=7,
    ),
}
LA_2021, DF_2021, ASVSPOOF5 = FORMS[8].name, FORMS[13].name, (FORMS[2].name, FORMS[10].name)
CSV = "CSV"
KNOWN = (
    "5 columns (ASVspoof 2019 protocol), 8 (2021 LA key), 13 (2021 DF key), 10 (ASVspoof 5 protocol), `filename cm-label` parted by a tab (ASVspoof 5 key), "
    "or CSV with a header such as path,label,speaker,attack"
)


@dataclass(frozen=True)
class Trial:
    """One line of a key. facts: speaker, attack and what else the key says; subset: None where the key has none."""

    number: int
    label: str
    facts: Mapping[str, str]
    subset: str | None = None


@dataclass(frozen=True)
class Key:
    """Trials by id, in the order of the file."""

    file: Path
    form: str
    trials: Mapping[str, Trial]

    def place(self, trial: str) -> str:
        """`FILE:LINE` of a trial."""
        return f"{self.file}:{self.trials[trial].number}"


def read_key(file: Path) -> Key:
    """A key in one of the forms that `KNOWN` lists.

    Raises
    ------
    DataError: file and line of a wrong number of columns, an unknown label, or a trial that is there twice.
    """
    first = next((line for _, line in lines(file)), None)
    if first is None:
        raise DataError(f"{file} is empty; a key has {KNOWN}")
    if "," in first and "label" in _header(first):
        return Key(file, CSV, _by_id(file, _csv(file)))
    fields = first.split()
    if fields[:2] == ["filename", "cm-label"]:
        return Key(file, FORMS[2].name, _by_id(file, _columns(file, FORMS[2], 2, skip=1)))
    if len(fields) not in FORMS or len(fields) == 2:
        raise DataError(f"{file}:1: {columns(len(fields))}; a key has {KNOWN}")
    form = FORMS[len(fields)]
    return Key(file, form.name, _by_id(file, _columns(file, form, len(fields))))


def split_lines(file: Path, count: int, what: str, skip: int = 0) -> Iterator[tuple[int, list[str]]]:
    """(line number, its fields) of a table parted by blanks. Raises DataError for a line of another number of fields than `count`."""
    for index, (number, line) in enumerate(lines(file)):
        if index < skip:
            continue
        fields = line.split()
        if len(fields) != count:
            raise DataError(
                f"{file}:{number}: {columns(len(fields))} where the {what} has {count}: {line.strip()[:80]!r}"
            )
        yield number, fields


def columns(count: int) -> str:
    """`1 column`, `2 columns`."""
    return f"{count} column{'s' * (count != 1)}"


def score_of(word: object, where: str) -> float:
    """A score. Raises DataError where it is no finite number."""
    try:
        value = float(word)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if isinstance(word, bool) or not math.isfinite(value):
        raise DataError(f"{where}: the score {word!r} is no finite number")
    return value


def known_facts(facts: Mapping[str, Any], label: str) -> dict[str, Any]:
    """What is known of a trial, in the same words whatever says it: a speaker, or anything of a spoof, that is empty or `-` is not known.

    Of bona fide speech, what says something of attacks is `SHARED`; no codec is `NO_CODEC`.
    """
    unknown = ("speaker", *OF_ATTACKS, *(facts if label == SPOOF else ()))
    known = {name: NO_CODEC if (name, fact) == ("codec", SHARED) else fact for name, fact in facts.items()}
    known = {name: fact for name, fact in known.items() if fact not in ("", None, *[SHARED] * (name in unknown))}
    return known | ({name: SHARED for name in OF_ATTACKS if name in facts} if label == BONAFIDE else {})


def shared_or_unknown(rows: Sequence[dict[str, Any]], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Rows without the `SHARED` of columns that are not of attacks only: there some bona fide speech says something else, so `-` is not known."""
    bonafide = [row for row, label in zip(rows, labels, strict=True) if label == BONAFIDE]
    told = {name for row in bonafide for name, fact in row.items() if fact != SHARED} - {"id"}
    return [{name: fact for name, fact in row.items() if name not in told or fact != SHARED} for row in rows]


def speaker_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What must be known of intervals where not all rows say their speaker."""
    missing = sum(not row.get("speaker") for row in rows)
    if not missing:
        return []
    if missing == len(rows):
        return ["no speaker is known: intervals come from resampling trials, and are probably too narrow"]
    return [
        f"{missing} of {len(rows)} trials say no speaker: each of these is resampled alone, and intervals are probably too narrow"
    ]


def _columns(file: Path, form: Form, count: int, skip: int = 0) -> Iterator[tuple[str, Trial]]:
    for number, fields in split_lines(file, count, form.name, skip):
        label = _label(fields[form.label], f"{file}:{number}")
        facts = known_facts({name: fields[place] for name, place in form.columns.items()}, label)
        yield fields[form.trial], Trial(number, label, facts, None if form.subset is None else fields[form.subset])


def _csv(file: Path) -> Iterator[tuple[str, Trial]]:
    """A table with a header: `label`, and `id` or `path` (whose stem is the id); all other columns are facts."""
    table = read_table(file)
    named = next((name for name in ("id", "path") if name in table.header), None)
    if named is None:
        raise DataError(f"{file}:1: there is no column `path` or `id`.{nearest('path', table.header)}")
    for number, row in table.rows:
        cells = {name: cell.strip() for name, cell in zip(table.header, row, strict=True)}
        label = _label(cells["label"], f"{file}:{number}")
        facts = {name: cell for name, cell in cells.items() if name not in ("id", "path", "label")}
        yield (
            cells[named] if named == "id" else Path(cells[named]).stem,
            Trial(number, label, known_facts(facts, label)),
        )


def _header(line: str) -> list[str]:
    return [name.strip() for name in line.split(",")]


def _label(word: str, where: str) -> str:
    if word not in (BONAFIDE, SPOOF):
        raise DataError(f"{where}: the label {word!r} is neither {BONAFIDE} nor {SPOOF}")
    return word


def _by_id(file: Path, found: Iterator[tuple[str, Trial]]) -> dict[str, Trial]:
    trials: dict[str, Trial] = {}
    for name, trial in found:
        if (earlier := trials.setdefault(name, trial)) is not trial:
            raise DataError(f"{file}:{trial.number}: {name!r} is there twice, first on line {earlier.number}")
    if not trials:
        raise DataError(f"{file} has a header and no trials")
    return trials
