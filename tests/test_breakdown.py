"""Groups of rows: the same numbers as of their rows alone, and words for what cannot be measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import DataError
from headwater.metrics import (
    ActDcf,
    Breakdown,
    Cllr,
    Eer,
    Mean,
    MinDcf,
    MinTdcf,
    Ratio,
    break_down,
    evaluate,
)
from headwater.metrics.rows import Table
from headwater.metrics.trials import TrialRows

TDCF = MinTdcf("tdcf", 0.02, 0.03, 0.4, 2021, {"attack": {"A01": 0.1, "A02": 0.9}})
MEASURES = (Eer(convention="asvspoof"), MinDcf("min_dcf", 0.95, 1, 10), ActDcf("act_dcf", 0.95, 1, 10), Cllr())


def spoof_rows(seed: int = 0, speakers: int = 12, each: int = 24) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    attacks = ("-", "A01", "A02")
    return [
        {
            "id": f"u{k:04d}",
            "speaker": f"s{k % speakers}",
            "attack": attacks[k // speakers % 3],
            "codec": ("alaw", "none")[k // speakers // 3 % 2],
            "target": int(k // speakers % 3 == 0),
            "score": float(generator.normal(2 * (k // speakers % 3 == 0) - (k // speakers % 3 == 2))),
        }
        for k in range(speakers * each)
    ]


def members(rows: list[dict[str, Any]], **values: str) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[key] in (value, "-") for key, value in values.items())]


def test_a_group_is_measured_as_its_rows_alone_are_and_has_the_same_interval() -> None:
    rows = spoof_rows()
    for breakdown, groups in (
        (Breakdown("attack", shared="-"), [{"attack": "A01"}, {"attack": "A02"}]),
        (Breakdown("codec"), [{"codec": "alaw"}, {"codec": "none"}]),
        (
            Breakdown("attack", shared="-", within="codec"),
            [{"attack": attack, "codec": codec} for attack in ("A01", "A02") for codec in ("alaw", "none")],
        ),
    ):
        found = break_down(breakdown, MEASURES, rows, seed=3)
        assert list(found.metrics) == [", ".join(values.values()) for values in groups]
        assert not found.notes
        for (_, metrics), values in zip(found.metrics.items(), groups, strict=True):
            assert metrics == evaluate(MEASURES, members(rows, **values), seed=3)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.integers(0, 1)), min_size=1, max_size=30))
def test_every_row_is_in_the_group_of_its_value(facts: list[tuple[str, str, int]]) -> None:
    rows = [
        {"id": f"{k:02d}", "speaker": speaker, "snr": {"a": -5, "b": 0, "c": 10}[snr], "correct": right, "total": 1}
        for k, (snr, speaker, right) in enumerate(facts)
    ]
    accuracy = Ratio("accuracy", "correct", "total")
    found = break_down(Breakdown("snr"), [accuracy], rows).metrics
    assert list(found) == [str(value) for value in sorted({row["snr"] for row in rows})]
    for group, metrics in found.items():
        part = [row for row in rows if str(row["snr"]) == group]
        assert metrics["accuracy"].n == len(part)
        assert metrics["accuracy"].value == pytest.approx(100 * np.mean([row["correct"] for row in part]))


def test_trials_of_two_speakers_are_grouped_as_their_rows_alone() -> None:
    generator = np.random.default_rng(0)
    rows = [
        {
            "id": f"t{k:03d}",
            "target": k % 2,
            "score": float(generator.normal(k % 2)),
            "speaker1": f"s{k % 7}",
            "speaker2": f"s{(k % 7 + 3 * (1 - k % 2)) % 7}",
            "gender": "fm"[k % 7 % 2],
        }
        for k in range(120)
    ]
    found = break_down(Breakdown("gender"), [Eer(), Cllr()], rows).metrics
    for gender in "fm":
        assert found[gender] == evaluate([Eer(), Cllr()], [row for row in rows if row["gender"] == gender])


def test_a_pooled_number_is_no_mean_of_its_groups() -> None:
    rows = [
        {**row, "score": row["score"] + 5 * (row["codec"] == "alaw")} for row in spoof_rows(each=60)
    ]  # each codec alone is easy, one threshold for both is not
    groups = break_down(Breakdown("codec"), [Eer()], rows).metrics
    pooled = evaluate([Eer()], rows)["eer"].value
    assert pooled > 1.5 * np.mean([metrics["eer"].value for metrics in groups.values()])


def test_an_attack_is_judged_behind_the_asv_it_met() -> None:
    rows = spoof_rows()
    found = break_down(Breakdown("attack", shared="-"), [TDCF], rows).metrics
    for attack, share in (("A01", 0.1), ("A02", 0.9)):
        alone = MinTdcf("tdcf", 0.02, 0.03, share, 2021)
        assert found[attack] == evaluate([alone], members(rows, attack=attack))
    # Where nothing is said of a breakdown's groups, the pooled rate holds.
    by_codec = break_down(Breakdown("codec"), [TDCF], rows).metrics["alaw"]["tdcf"]
    assert by_codec.value == evaluate([TDCF], members(rows, codec="alaw"))["tdcf"].value


def test_what_a_group_does_not_allow_is_noted_and_the_rest_measured() -> None:
    rows = spoof_rows()
    rows += [{"id": "x", "speaker": "s1", "attack": "A03", "codec": "", "target": 0, "score": 0.0}]
    rows += [{"id": "y", "speaker": "s1", "attack": "-", "codec": "gsm", "target": 1, "score": 0.0}]
    by_codec = break_down(Breakdown("codec"), [Eer(), Mean("score", "score", "", True)], rows)
    assert set(by_codec.metrics["gsm"]) == {"score"}
    assert any(note.startswith("gsm: no eer: There is no negative trial") for note in by_codec.notes)
    assert f"1 of {len(rows)} rows say no codec and are in no group of it" in by_codec.notes
    by_attack = break_down(Breakdown("attack", shared="-"), [Eer(), TDCF], rows)
    assert set(by_attack.metrics["A03"]) == {"eer"}
    assert by_attack.notes == ("A03: no tdcf: the ASV scores hold no spoof of A03",)
    alone = break_down(Breakdown("attack"), [Eer()], rows)
    assert not alone.metrics
    assert len(alone.notes) == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [({"attack": None}, "No row says its attack"), ({"attack": ["A01"]}, "'attack' are list")],
)
def test_rows_that_cannot_be_parted_are_data_errors(change: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        break_down(Breakdown("attack"), [Eer()], [{**row, **change} for row in spoof_rows()])


def test_a_table_serves_as_rows_and_trials_as_columns_can_be_parted() -> None:
    rows = spoof_rows()
    asked = Breakdown("attack", shared="-")
    assert break_down(asked, [Eer()], Table(rows)) == break_down(asked, [Eer()], rows)
    trials = TrialRows(["a", "b", "c"], ["x", "x", "y"], [0, 0, 1, 2], [1, 2, 2, 0], [1, 0, 0, 1], [0.9, 0.1, 0.2, 0.8])
    found = break_down(Breakdown("speaker1"), [Eer()], trials)
    assert found.metrics["x"]["eer"].n == 3


def test_a_breakdown_survives_json_and_a_broken_one_says_what_is_wrong() -> None:
    asked = Breakdown("attack", shared="-", within="codec")
    assert Breakdown.from_json(asked.to_json()) == asked
    for broken in ({}, {"key": "a", "keys": "b"}):
        with pytest.raises(DataError, match="key, shared, within"):
            Breakdown.from_json(broken)
