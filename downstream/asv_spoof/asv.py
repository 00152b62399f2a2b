"""Scores of the speaker verification system (ASV) that a countermeasure stands before: their files, and the t-DCF behind it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.data.keys import ASVSPOOF5, DF_2021, FORMS, LA_2021, SHARED, columns, score_of, split_lines
from headwater.data.text import lines, some
from headwater.errors import DataError, UsageError
from headwater.metrics import AsvRates, MinTdcf
from headwater.metrics.tandem import asv_threshold

KINDS = ("target", "nontarget", "spoof")
FORM_2019, FORM_2021 = "ASVspoof 2019 (ATTACK KIND SCORE)", "ASVspoof 2021 (SPEAKER TRIAL SCORE)"


@dataclass(frozen=True, eq=False)
class AsvScores:
    """N trials of an ASV system.

    scores: (N,) float64. kinds: (N,) of `KINDS`. facts: by name (N,) words, `attack` and what else is known. numbers: the line of each.
    trials: their ids, none where the file has none.
    """

    file: Path
    form: str
    scores: NDArray[np.float64]
    kinds: NDArray[np.str_]
    facts: Mapping[str, NDArray[np.str_]]
    numbers: NDArray[np.int64]
    trials: tuple[str, ...] = ()

    def of_kind(self, kind: str) -> NDArray[np.float64]:
        """The scores of one kind of trial."""
        return self.scores[self.kinds == kind]


def asv_form(file: Path) -> str:
    """Which of the two forms a file of ASV scores has. Raises DataError for another number of columns."""
    number, fields = next(((number, line.split()) for number, line in lines(file)), (1, []))
    if len(fields) != 3:
        raise DataError(
            f"{file}:{number}: {columns(len(fields))}; ASV scores are in the form of {FORM_2019} or {FORM_2021}"
        )
    return FORM_2019 if fields[1] in KINDS else FORM_2021


def read_asv_2019(file: Path) -> AsvScores:
    """Lines `ATTACK KIND SCORE`, such as `bonafide target 18.2` and `A01 spoof 3.1`.

    Raises
    ------
    DataError: file and line of a wrong number of columns, an unknown kind, or a score that is no finite number; or a kind is missing.
    """
    found = []
    for number, (attack, kind, score) in split_lines(file, 3, "form of " + FORM_2019):
        _check_kind(kind, f"{file}:{number}")
        found.append((number, kind, attack if kind == "spoof" else SHARED, score_of(score, f"{file}:{number}")))
    numbers, kinds, attacks, scores = zip(*found, strict=True)
    return _whole(
        AsvScores(file, FORM_2019, np.array(scores), np.array(kinds), {"attack": np.array(attacks)}, np.array(numbers))
    )


def read_asv_2021(file: Path, key: Path, subset: str) -> AsvScores:
    """Lines `SPEAKER TRIAL SCORE`, and a key of the eight columns of `FORMS[8]` whose labels are target, nontarget and spoof.

    Raises
    ------
    DataError: as `read_asv_2019`; and for trials that only one of the two files has, or that are there twice.
    """
    form = FORMS[8]
    scores: dict[tuple[str, str], tuple[int, float]] = {}
    for number, (speaker, trial, score) in split_lines(file, 3, "form of " + FORM_2021):
        value = number, score_of(score, f"{file}:{number}")
        if (earlier := scores.setdefault((speaker, trial), value)) is not value:
            raise DataError(f"{file}:{number}: {speaker} {trial} is there twice, first on line {earlier[0]}")
    found = []
    known: dict[tuple[str, str], int] = {}
    for number, fields in split_lines(key, 8, "ASV key of ASVspoof 2021"):
        pair, kind = (fields[form.columns["speaker"]], fields[form.trial]), fields[form.label]
        _check_kind(kind, f"{key}:{number}")
        if (first := known.setdefault(pair, number)) != number:
            raise DataError(f"{key}:{number}: {' '.join(pair)} is there twice, first on line {first}")
        if fields[7] != subset:
            continue
        if pair not in scores:
            raise DataError(
                f"{key}:{number}: the trial {' '.join(pair)} has no score in {file}; are both of one corpus?"
            )
        attack = fields[form.columns["attack"]] if kind == "spoof" else SHARED
        found.append((scores[pair][0], kind, attack, fields[form.columns["codec"]], scores[pair][1], pair[1]))
    if strangers := [pair for pair in scores if pair not in known]:
        number = scores[strangers[0]][0]
        raise DataError(f"{file}:{number}: {' '.join(strangers[0])} is no trial of {key}; are both of one corpus?")
    if not found:
        raise DataError(f"{key} has no trial of the subset {subset!r}")
    numbers, kinds, attacks, codecs, values, trials = zip(*found, strict=True)
    facts = {"attack": np.array(attacks), "codec": np.array(codecs)}
    return _whole(AsvScores(file, FORM_2021, np.array(values), np.array(kinds), facts, np.array(numbers), trials))


def tandem_measures(asv: AsvScores, attacks: Set[str]) -> tuple[MinTdcf, ...]:
    """min t-DCF, legacy and revised, of a countermeasure that is tried on `attacks`, with the ASV's rates for each attack (and codec, where they are known).

    The ASV has one threshold, that of its equal error rate on all bona fide trials; a group's own is only the share of its spoofs that it accepts.

    Raises
    ------
    DataError: the ASV was tried on other attacks, so these are scores of another corpus or part; or its rates leave a cost without meaning.
    """
    spoofed = asv.kinds == "spoof"
    tried = {*asv.facts["attack"][spoofed].tolist()}
    if strange := sorted(tried - attacks):
        number = asv.numbers[spoofed & (asv.facts["attack"] == strange[0])][0]
        raise DataError(
            f"{asv.file}:{number}: the attack {strange[0]} does not occur in the trials of the countermeasure ({some(sorted(attacks))}); these are ASV scores "
            "of another corpus or part"
        )
    if missing := sorted(attacks - tried):
        raise DataError(
            f"{asv.file} has no spoof of {some(missing)}, on which the countermeasure is tried; these are ASV scores of another corpus or part"
        )
    threshold = asv_threshold(asv.of_kind("target"), asv.of_kind("nontarget"))
    rates = AsvRates.of_scores(asv.of_kind("target"), asv.of_kind("nontarget"), asv.of_kind("spoof"), threshold)
    assert rates.spoof is not None  # `_whole` saw to it
    accepted = asv.scores[spoofed] >= threshold
    known = {name: words[spoofed].tolist() for name, words in asv.facts.items()}
    shares = {
        ", ".join(names): _shares([", ".join(words) for words in zip(*(known[name] for name in names))], accepted)
        for size in (1, 2)
        for names in permutations(known, size)
    }
    return tuple(
        MinTdcf(f"min_tdcf_{year}", rates.miss, rates.false_alarm, rates.spoof, year, shares) for year in (2019, 2021)
    )


def _shares(groups: list[str], accepted: NDArray[np.bool_]) -> dict[str, float]:
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for group, passed in zip(groups, accepted.tolist(), strict=True):
        counts[group][0] += passed
        counts[group][1] += 1
    return {group: passed / total for group, (passed, total) in sorted(counts.items())}


def _whole(asv: AsvScores) -> AsvScores:
    for kind in KINDS:
        if not (asv.kinds == kind).any():
            raise DataError(f"{asv.file} has no {kind} trial; the t-DCF needs {', '.join(KINDS)}")
    return asv


def _check_kind(kind: str, where: str) -> None:
    if kind not in KINDS:
        raise DataError(f"{where}: {kind!r} is none of {', '.join(KINDS)}")


def corpus_of(facts: Iterable[Mapping[str, Any]]) -> str | None:
    """The corpus that utterances are of, by what is known of them: `LA_2021`, or None for others. Attacks do not tell 2019 from 2021: they are the same."""
    return LA_2021 if any("transmission" in known for known in facts) else None


def check_asv_form(asv: Path, form: str, key: str | None) -> None:
    """Raises DataError where ASV scores cannot be of the corpus that the key or the scores of the countermeasure are of, UsageError where it has no t-DCF."""
    if key in (DF_2021, *ASVSPOOF5):
        raise UsageError(
            f"--asv {asv}: the corpus of this key ({key}) comes without an ASV, so it has no t-DCF; leave it out"
        )
    if (key == LA_2021) != (form == FORM_2021):
        raise DataError(
            f"{asv}:1: ASV scores in the form of {form} are of another corpus than {key or 'scores of ASVspoof 2019'}"
        )


def check_asv_trials(asv: AsvScores, spoofs: Set[str], where: str) -> None:
    """Raises DataError where none of the ASV's spoofs, which have ids, is among those of the countermeasure."""
    tried = [trial for trial, kind in zip(asv.trials, asv.kinds.tolist(), strict=True) if kind == "spoof"]
    if not spoofs & {*tried}:
        raise DataError(
            f"{asv.file}: no spoof of the ASV's ({some(tried, 2)}) is one of {where}; these are ASV scores of another corpus or part"
        )
