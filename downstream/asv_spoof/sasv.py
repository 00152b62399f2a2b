"""Score files of spoofing-robust speaker verification: each trial is of a target speaker, of another one, or a spoof."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headwater.data.keys import (
    BONAFIDE,
    SHARED,
    SPOOF,
    known_facts,
    score_of,
    shared_or_unknown,
    speaker_notes,
    split_lines,
)
from headwater.data.tables import read_table
from headwater.data.text import lines
from headwater.errors import DataError, nearest
from headwater.metrics import ADcf, Measure, SasvEer, TEer
from headwater.metrics.sasv import ASVSPOOF5_ADCF
from headwater.metrics.sasv_measures import TRIALS
from headwater.metrics.sheet import ScoreSheet

FORM = "`SPEAKER ID SCORE target|nontarget|spoof`, or CSV with the columns speaker, id, trial, score (and asv_score, cm_score for the t-EER)"
COLUMNS = ("speaker", "id", "score", "trial")
TANDEM = ("asv_score", "cm_score")
MEASURES: tuple[Measure, ...] = (
    SasvEer(),
    SasvEer("sv_eer", "nontarget"),
    SasvEer("spf_eer", "spoof"),
    ADcf(),
    ADcf("a_dcf_asvspoof5", asdict(ASVSPOOF5_ADCF)),
)


def has_three_classes(file: Path) -> bool:
    """Whether the first line of a file is in one of the forms that `FORM` says."""
    first = next((line for _, line in lines(file)), "")
    words = first.split()
    return (len(words) == 4 and words[3] in TRIALS) or ("," in first and "trial" in map(str.strip, first.split(",")))


def read_sheet(file: Path) -> ScoreSheet:
    """The trials of a file in one of the forms that `FORM` says, with the claimed speaker as the cluster.

    Raises
    ------
    DataError: file and line of a wrong number of columns, an unknown kind of trial, a score that is no finite number, or a trial that is there twice; a kind
        of trial that is not there.
    """
    rows: dict[str, dict[str, Any]] = {}
    places: dict[str, int] = {}
    labels: list[str] = []
    given: tuple[str, ...] = ()  # of TANDEM
    for number, row in _trials(file):
        where = f"{file}:{number}"
        if row["trial"] not in TRIALS:
            raise DataError(f"{where}: the trial {row['trial']!r} is none of {', '.join(TRIALS)}; a line is {FORM}")
        name = f"{row['speaker']} {row['id']}"
        if name in rows:
            raise DataError(f"{where}: {name!r} is scored twice, first on line {places[name]}")
        given = tuple(score for score in TANDEM if score in row)
        scores = {score: score_of(row[score], where) for score in ("score", *given)}
        facts = {key: value for key, value in row.items() if key not in ("id", "trial", "score", *TANDEM)}
        labels.append(SPOOF if row["trial"] == SPOOF else BONAFIDE)
        known = known_facts(facts, labels[-1])
        places[name] = number
        rows[name] = {**known, "id": name, "trial": row["trial"], "target": int(row["trial"] == "target"), **scores}
    for kind in TRIALS:
        if not any(row["trial"] == kind for row in rows.values()):
            raise DataError(f"{file}: none of the {len(rows)} trials is {kind}; measures need all three kinds")
    attacks = {row["attack"] for row in rows.values() if row.get("attack")} - {SHARED}
    measures = MEASURES + ((TEer(),) if given == TANDEM else ())
    found = shared_or_unknown(list(rows.values()), labels)
    notes = speaker_notes(found)
    if given and given != TANDEM:
        notes.append(f"no t-EER: it needs the columns {' and '.join(TANDEM)}, and there is {given[0]} alone")
    return ScoreSheet(found, measures, ("attack",) if attacks else (), SHARED, tuple(notes))


def _trials(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, its fields by name)."""
    if "," not in next(line for _, line in lines(file)):
        for number, fields in split_lines(file, len(COLUMNS), "form of three-class scores"):
            yield number, dict(zip(COLUMNS, fields, strict=True))
        return
    table = read_table(file)
    if missing := [name for name in COLUMNS if name not in table.header]:
        raise DataError(
            f"{file}:1: there is no column `{missing[0]}`.{nearest(missing[0], table.header)} A line is {FORM}"
        )
    for number, row in table.rows:
        yield number, {name: cell.strip() for name, cell in zip(table.header, row, strict=True)}
