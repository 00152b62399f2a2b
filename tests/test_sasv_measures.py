"""Measures of three-class trials with their intervals, and the files they are read from."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.errors import DataError
from headwater.metrics import ADcf, Measure, SasvEer, TEer, evaluate, measure_from_json
from headwater.metrics.rows import Table
from headwater.metrics.sasv import ASVSPOOF5_ADCF

MEASURES: tuple[Measure, ...] = (
    SasvEer(),
    SasvEer("sv", "nontarget"),
    SasvEer("spf", "spoof"),
    ADcf(),
    ADcf("five", asdict(ASVSPOOF5_ADCF)),
    TEer(),
)


def trials(size: int = 126, speakers: int = 7) -> list[dict[str, Any]]:
    """Trials of overlapping classes, with scores that tie."""
    drawn = np.random.default_rng(3)
    rows = []
    for number in range(size):
        trial = ("target", "nontarget", "spoof")[number % 3]
        level = {"target": 4, "nontarget": 0, "spoof": 1}[trial]
        scores = (drawn.normal(level, 2, size=3)).round().tolist()
        rows.append({"id": f"{number:03d}", "speaker": f"s{number % speakers}", "trial": trial})
        rows[-1] |= dict(zip(("score", "asv_score", "cm_score"), scores, strict=True))
        rows[-1]["cm_score"] += 3 * (trial == "nontarget")
    return rows


def repeated(rows: list[dict[str, Any]], drawn: Any) -> list[dict[str, Any]]:
    """Rows as often as their speaker was drawn."""
    return [{**row, "id": f"{row['id']}-{copy}"} for row in rows for copy in range(int(drawn[int(row["speaker"][1:])]))]


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_a_resample_has_the_value_of_its_rows_written_out(measure: Measure) -> None:
    rows = trials()
    drawn = np.random.default_rng(0).multinomial(7, [1 / 7] * 7, size=12)
    found = measure.statistic(Table(rows))(drawn)
    for times, value in zip(drawn, found, strict=True):
        assert value == pytest.approx(measure.value(Table(repeated(rows, times))), abs=1e-9)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_a_resample_that_lacks_a_class_has_no_value(measure: Measure) -> None:
    for lost in ("target", "spoof"):
        if (measure.name, lost) == ("sv", "spoof"):
            continue
        rows = [row for row in trials() if (row["speaker"] == "s0") == (row["trial"] == lost)]
        drawn = np.ones((2, Table(rows).clusters), dtype=np.int64)
        drawn[0, 0] = 0
        found = measure.statistic(Table(rows))(drawn)
        assert np.isnan(found[0]) and found[1] == pytest.approx(measure.value(Table(rows)))


def test_every_measure_has_an_interval_around_its_value_and_comes_back_from_json() -> None:
    for name, metric in evaluate(MEASURES, trials()).items():
        assert metric.ci95 is not None and metric.ci95[0] <= metric.value <= metric.ci95[1], name
        assert metric.ci95[0] < metric.ci95[1] and metric.clusters == 7
    for measure in MEASURES:
        assert measure_from_json(json.loads(json.dumps(measure.to_json()))) == measure


def test_a_trial_of_no_known_kind_is_named() -> None:
    rows = [*trials(), {"id": "x", "trial": "bonafide", "score": 1.0}]
    with pytest.raises(DataError, match="'x' is a trial 'bonafide'"):
        SasvEer().value(Table(rows))


def written(rows: list[dict[str, Any]]) -> str:
    return "".join(f"{row['speaker']} {row['id']} {row['score']} {row['trial']}\n" for row in rows)


def test_a_file_of_one_score_gives_three_rates_and_two_costs(command: Any, tmp_path: Path) -> None:
    rows, file = trials(), tmp_path / "scores.txt"
    file.write_text(written(rows))
    answer = command("score", "asv_spoof", str(file), "--json", str(tmp_path / "found.json"))
    assert answer.code == 0, answer.err
    found = json.loads((tmp_path / "found.json").read_text())["metrics"]
    assert list(found) == ["sasv_eer", "sv_eer", "spf_eer", "a_dcf", "a_dcf_asvspoof5"]
    for name, measure in zip(found, MEASURES[:5], strict=True):
        assert found[name]["value"] == pytest.approx(measure.value(Table(rows)))
        assert found[name]["clusters"] == 7 and found[name]["ci95"]


def test_a_table_with_the_scores_of_both_systems_adds_the_tandem_rate_and_attacks(command: Any, tmp_path: Path) -> None:
    rows, file = trials(), tmp_path / "scores.csv"
    names = ("speaker", "id", "trial", "score", "asv_score", "cm_score")
    lines = [",".join((*names, "attack"))]
    for row in rows:
        attack = f"A0{int(row['id']) % 2}" if row["trial"] == "spoof" else "-"
        lines.append(",".join([*(str(row[name]) for name in names), attack]))
    file.write_text("\n".join(lines))
    answer = command("score", "asv_spoof", str(file), "--json", str(tmp_path / "found.json"))
    assert answer.code == 0, answer.err
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["metrics"]["t_eer"]["value"] == pytest.approx(TEer().value(Table(rows)))
    assert sorted(found["breakdowns"]["attack"]["groups"]) == ["A00", "A01"]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda lines: [*lines, "s1 x 1.0 bonafide"], "127: the trial 'bonafide'"),
        (lambda lines: [*lines, "s1 x nan target"], "127: the score 'nan'"),
        (lambda lines: [*lines, "s1 x 1.0"], "127: 3 columns"),
        (lambda lines: [*lines, lines[0]], "127: 's0 000' is scored twice, first on line 1"),
        (lambda lines: [line for line in lines if "spoof" not in line], "is spoof"),
        (lambda lines: ["speaker,trial,score", "s1,target,1"], "no column `id`"),
    ],
)
def test_files_that_do_not_fit_are_named_with_their_line(broken: Any, said: str, command: Any, tmp_path: Path) -> None:
    file = tmp_path / "scores.txt"
    file.write_text("\n".join(broken(written(trials()).splitlines())))
    answer = command("score", "asv_spoof", str(file))
    assert answer.code == 3 and said in answer.err


def test_what_is_missing_for_a_number_is_noted(command: Any, tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    lines = [f"-,{row['id']},{row['trial']},{row['score']},{row['asv_score']}" for row in trials()]
    file.write_text("\n".join(["speaker,id,trial,score,asv_score", *lines]))
    answer = command("score", "asv_spoof", str(file))
    assert answer.code == 0 and "t_eer " not in answer.out
    assert "no t-EER: it needs the columns asv_score and cm_score" in answer.out
    assert "no speaker is known" in answer.out


def test_a_key_beside_trials_that_say_their_kind_is_refused(command: Any, tmp_path: Path) -> None:
    file = tmp_path / "scores.txt"
    file.write_text(written(trials()))
    answer = command("score", "asv_spoof", str(file), "--asv-key", str(file))
    assert answer.code == 2 and "--asv-key" in answer.err
