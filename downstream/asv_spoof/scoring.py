"""Score files of countermeasures, as the ASVspoof challenges, our own runs and simple lists have them: `headwater score asv_spoof`."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headwater.data.keys import (
    BONAFIDE,
    CSV,
    SHARED,
    SPOOF,
    Key,
    columns,
    known_facts,
    read_key,
    score_of,
    shared_or_unknown,
    speaker_notes,
    split_lines,
)
from headwater.data.text import lines, some
from headwater.errors import DataError, UsageError
from headwater.metrics import ActDcf, Cllr, Eer, Measure, MinDcf
from headwater.metrics.sheet import ScoreSheet
from headwater.metrics.tandem import check_soft

from . import sasv
from .asv import (
    FORM_2021,
    asv_form,
    check_asv_form,
    check_asv_trials,
    corpus_of,
    read_asv_2019,
    read_asv_2021,
    tandem_measures,
)

# ASVspoof 5's prior and costs.
COSTS = {"p_target": 0.95, "c_miss": 1.0, "c_fa": 10.0}
MEASURES: tuple[Measure, ...] = (
    Eer(convention="asvspoof"),
    MinDcf("min_dcf", **COSTS),
    ActDcf("act_dcf", **COSTS),
    Cllr(),
)
KEYS = ("attack", "codec", "vocoder")  # by which a result is shown where the key tells them
SUBSET = "eval"
FORMS = (
    "`ID SCORE`, `ID ATTACK bonafide|spoof SCORE` (ASVspoof 2019), a header `filename cm-score` parted by a tab (ASVspoof 5), the scores/SPLIT.jsonl "
    f"of a run; or, of verification and spoofs at once, {sasv.FORM}"
)


@dataclass(frozen=True)
class Scored:
    """One line of a score file; label and facts as far as the file has them."""

    number: int
    score: float
    label: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class AsvSpoofScores:
    """Scores of a countermeasure, higher for bona fide speech."""

    @staticmethod
    def add_arguments(parser: ArgumentParser) -> None:
        add = parser.add_argument
        add("--key", metavar="KEY", type=Path, help="labels, speakers, attacks: protocol or key of ASVspoof, or a CSV")
        add("--asv", metavar="FILE", type=Path, help="scores of the ASV system, for the t-DCF")
        add("--asv-key", metavar="FILE", type=Path, help="the key of the ASV's trials (ASVspoof 2021)")
        add("--subset", metavar="NAME", help=f"of ASVspoof 2021: eval, progress or hidden (default {SUBSET})")

    @staticmethod
    def read(args: Namespace) -> ScoreSheet:
        if sasv.has_three_classes(args.scores):
            if given := [flag for flag in ("key", "asv", "asv_key", "subset") if getattr(args, flag) is not None]:
                flag = given[0].replace("_", "-")
                raise UsageError(f"--{flag}: {args.scores} says itself which trials are target, nontarget and spoof")
            return sasv.read_sheet(args.scores)
        scored = read_scores(args.scores)
        key = None if args.key is None else read_key(args.key)
        subset = _subset(args, key)
        rows = _labelled(args.scores, scored) if key is None else _joined(args.scores, scored, key, subset)
        for label, target in ((BONAFIDE, 1), (SPOOF, 0)):
            if not any(row["target"] == target for row in rows):
                where = args.key or args.scores
                raise DataError(f"{where}: none of the {len(rows)} trials is {label}; measures need both classes")
        rows = shared_or_unknown(rows, [(SPOOF, BONAFIDE)[row["target"]] for row in rows])
        said = {name: {row[name] for row in rows if row.get(name)} - {SHARED} for name in KEYS}
        keys = [name for name in KEYS if len(said[name]) > (name != "attack")]
        return ScoreSheet(
            rows, MEASURES + _tandem(args, key, subset, rows), tuple(keys), SHARED, tuple(speaker_notes(rows))
        )


def read_scores(file: Path) -> dict[str, Scored]:
    """Scores by id, from a file in one of `FORMS`.

    Raises
    ------
    DataError: file and line of a wrong number of columns, an unknown label, a score that is no finite number, or an id that is there twice.
    """
    first = next((line for _, line in lines(file)), None)
    if first is None:
        raise DataError(f"{file} is empty; a line is {FORMS}")
    words = first.split()
    if first.lstrip().startswith("{"):
        found = _of_run(file)
    elif words[0] == "filename":
        if words[1:2] != ["cm-score"] or len(words) != 2:
            raise DataError(f"{file}:1: the header is `filename cm-score`, not {first.strip()!r}")
        found = ((fields[0], number, fields[1], None, {}) for number, fields in split_lines(file, 2, "header", skip=1))
    elif len(words) == 4:
        found = (
            (fields[0], number, fields[3], fields[2], {"attack": fields[1]})
            for number, fields in split_lines(file, 4, "form of ASVspoof 2019 scores")
        )
    elif len(words) == 2:
        found = ((fields[0], number, fields[1], None, {}) for number, fields in split_lines(file, 2, "first line"))
    else:
        raise DataError(f"{file}:1: {columns(len(words))}; a line is {FORMS}")
    scores: dict[str, Scored] = {}
    for name, number, score, label, facts in found:
        if label not in (None, BONAFIDE, SPOOF):
            raise DataError(f"{file}:{number}: the label {label!r} is neither {BONAFIDE} nor {SPOOF}")
        known = facts if label is None else known_facts(facts, label)
        value = Scored(number, score_of(score, f"{file}:{number}"), label, known)
        if (earlier := scores.setdefault(name, value)) is not value:
            raise DataError(f"{file}:{number}: {name!r} is scored twice, first on line {earlier.number}")
    if not scores:
        raise DataError(f"{file} has a header and no scores")
    return scores


def _of_run(file: Path) -> Iterator[tuple[str, int, Any, str | None, dict[str, Any]]]:
    """The rows of a run."""
    for number, line in lines(file):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}:{number}: not valid JSON ({error})") from None
        if not isinstance(row, dict) or not isinstance(row.get("id"), str) or "score" not in row:
            raise DataError(f"{file}:{number}: a scored row is an object with `id` and `score`")
        if row.get("target") not in (0, 1):
            raise DataError(
                f"{file}:{number}: the target is {row.get('target')!r}; it is 1 for bona fide speech, 0 for a spoof"
            )
        facts = {name: value for name, value in row.items() if name not in ("id", "score", "target")}
        if strange := [name for name, value in {"id": row["id"], **facts}.items() if not _is_plain(value)]:
            raise DataError(f"{file}:{number}: what stands under {strange[0]!r} is neither a number nor plain text")
        yield row["id"], number, row["score"], (SPOOF, BONAFIDE)[int(row["target"])], facts


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (int, float)) or (isinstance(value, str) and value.isprintable())


def _subset(args: Namespace, key: Key | None) -> str | None:
    """Which of the key's trials are meant: None where it has no subsets."""
    known = {} if key is None else dict.fromkeys(trial.subset for trial in key.trials.values() if trial.subset)
    if not known:
        if args.subset is not None:
            raise UsageError(f"--subset {args.subset}: only keys of ASVspoof 2021 have subsets")
        return None
    wanted = args.subset or SUBSET
    if wanted not in known:
        raise UsageError(f"--subset {wanted}: {args.key} has {', '.join(map(str, known))}")
    return str(wanted)


def _labelled(file: Path, scored: Mapping[str, Scored]) -> list[dict[str, Any]]:
    """Rows of scores that bring their labels."""
    if any(score.label is None for score in scored.values()):
        raise UsageError(f"{file} does not say which trials are bona fide; name a key: --key KEY")
    return [_row(name, score, str(score.label), score.facts) for name, score in scored.items()]


def _joined(file: Path, scored: Mapping[str, Scored], key: Key, subset: str | None) -> list[dict[str, Any]]:
    """Rows of the trials that the key means, each of which must have a score."""
    rows = []
    for name, score in scored.items():
        trial = key.trials.get(name)
        if trial is None:
            strangers = sum(other not in key.trials for other in scored)
            raise DataError(
                f"{file}:{score.number}: {name!r} is no trial of {key.file} ({strangers} of {len(scored)} are not); are both of one corpus and part?"
            )
        if score.label not in (None, trial.label):
            raise DataError(
                f"{file}:{score.number}: {name!r} is {score.label} here and {trial.label} in {key.place(name)}"
            )
        attack, other = score.facts.get("attack"), trial.facts.get("attack")
        if attack and other and attack != other:
            raise DataError(
                f"{file}:{score.number}: {name!r} is of the attack {attack} here and of {other} in {key.place(name)}"
            )
        if trial.subset == subset:
            rows.append(_row(name, score, trial.label, {**score.facts, **trial.facts}))
    meant = [name for name, trial in key.trials.items() if trial.subset == subset]
    if missing := [name for name in meant if name not in scored]:
        raise DataError(
            f"{key.place(missing[0])}: {len(missing)} of {len(meant)} trials have no score in {file}: {some(missing)}"
        )
    return rows


def _row(name: str, score: Scored, label: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {**facts, "id": name, "target": int(label == BONAFIDE), "score": score.score}


def _tandem(args: Namespace, key: Key | None, subset: str | None, rows: list[dict[str, Any]]) -> tuple[Measure, ...]:
    """The t-DCF where ASV scores are given."""
    if args.asv is None:
        if args.asv_key is not None:
            raise UsageError(f"--asv-key {args.asv_key}: it says what the scores of --asv FILE are of; give these too")
        return ()
    check_soft(len({row["score"] for row in rows}))
    form = asv_form(args.asv)
    check_asv_form(args.asv, form, corpus_of(rows) if key is None or key.form == CSV else key.form)
    spoofs = [row for row in rows if not row["target"]]
    attacks = {str(row["attack"]) for row in spoofs if row.get("attack")}
    if not all(row.get("attack") for row in spoofs):
        raise DataError(
            f"{args.key or args.scores}: not every spoof says its attack, so the ASV scores cannot be matched"
        )
    if form != FORM_2021:
        if args.asv_key is not None:
            raise UsageError(f"--asv-key {args.asv_key}: {args.asv} says itself what its trials are")
        return tandem_measures(read_asv_2019(args.asv), attacks)
    if args.asv_key is None:
        raise UsageError(f"--asv {args.asv}: scores of {form} need the key of their trials, --asv-key FILE")
    asv = read_asv_2021(args.asv, args.asv_key, subset or SUBSET)
    check_asv_trials(asv, {row["id"] for row in spoofs}, str(args.key or args.scores))
    return tandem_measures(asv, attacks)
