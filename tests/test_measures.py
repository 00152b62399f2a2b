"""Measures: what they count, the rows that they are counted from, and their JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_rows import ACCURACY, trial_rows, utterance_rows

from headwater.errors import DataError
from headwater.metrics import (
    Eer,
    Mean,
    Metric,
    MinDcf,
    Ratio,
    accuracy,
    confusion_matrix,
    eer,
    evaluate,
    measure_from_json,
    min_dcf,
)
from headwater.metrics.rows import Table
from headwater.metrics.trials import TrialRows


def test_confusion_matrix_counts_labels_in_rows_and_predictions_in_columns() -> None:
    counts = confusion_matrix(["a", "a", "b", "a"], ["b", "a", "b", "b"], ["a", "b", "c"])
    assert counts.tolist() == [[1, 2, 0], [0, 1, 0], [0, 0, 0]]
    assert accuracy(["a", "a", "b", "a"], ["b", "a", "b", "b"]) == 0.5


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1))
@settings(max_examples=50, deadline=None)
def test_accuracy_is_the_diagonal_of_the_confusion_matrix(pairs: list[tuple[int, int]]) -> None:
    labels, predictions = zip(*pairs)
    counts = confusion_matrix(labels, predictions, range(5))
    assert counts.sum() == len(pairs)
    assert np.trace(counts) / counts.sum() == accuracy(labels, predictions)


def test_classification_refuses_what_does_not_fit() -> None:
    with pytest.raises(DataError, match="'c' is none of the 2 classes"):
        confusion_matrix(["c"], ["a"], ["a", "b"])
    with pytest.raises(DataError, match="2 labels but 1 predictions"):
        confusion_matrix(["a", "b"], ["a"], ["a", "b"])
    with pytest.raises(DataError, match="listed twice"):
        confusion_matrix(["a"], ["a"], ["a", "a"])
    with pytest.raises(DataError, match="no predictions"):
        accuracy([], [])


def test_measures_equal_the_functions_they_declare() -> None:
    rows = trial_rows(trials=500)
    positives, negatives = ([row["score"] for row in rows if row["target"] == kind] for kind in (1, 0))
    found = evaluate(
        [Eer(), Eer("eer_a", "asvspoof"), MinDcf("cost", 0.05, 1, 10), Mean("mean", "score", "dB", True)], rows
    )
    assert found["eer"].value == 100 * eer(positives, negatives)
    assert found["eer_a"].value == 100 * eer(positives, negatives, "asvspoof")
    assert found["cost"].value == min_dcf(positives, negatives, 0.05, 1, 10)
    assert found["mean"].value == pytest.approx(np.mean(positives + negatives), abs=1e-12)
    assert (found["eer"].n, found["eer"].clusters, found["eer"].unit, found["cost"].unit) == (500, 12, "%", "")


def test_a_ratio_is_a_sum_over_a_sum_and_not_a_mean_of_ratios() -> None:
    rows = [{"id": "a", "correct": 90, "total": 100}, {"id": "b", "correct": 0, "total": 10}]
    assert evaluate([ACCURACY], rows)["accuracy"].value == pytest.approx(100 * 90 / 110)


# Rows


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans(), st.floats(-1, 1)), min_size=1, max_size=40),
    st.lists(st.sampled_from(["s1", "s10", "s2", "", None]), min_size=6, max_size=6),
    st.sampled_from([["a", "b", "a!", "ab", "B", "\u00e9"], ["a", "a b", "b", "b c", "c", 'q"\\']]),
)
@settings(max_examples=200, deadline=None)
def test_trials_as_columns_are_what_they_are_as_rows(
    trials: list[tuple[int, int, bool, float]], speakers: list[str | None], names: list[str]
) -> None:
    enrol, test, targets, scores = zip(*trials, strict=True)
    columns = TrialRows(names, speakers, enrol, test, targets, scores)
    rows = list(columns)
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows) == columns.ids
    assert sorted((row["target"], row["score"]) for row in rows) == sorted(zip(map(int, targets), scores, strict=True))
    text = b"".join(columns.json_lines()).decode()
    assert text == "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    one, other = Table(columns), Table(rows)
    assert one.ids == other.ids and one.clusters == other.clusters
    for name in ("first", "second"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(one.column("score"), other.column("score"))
    again = TrialRows.of_rows([rows[:7], rows[7:]])
    used = {*enrol, *test}
    assert (again is None) == any(" " in names[index] for index in used)
    assert again is None or list(again) == rows


def test_ids_of_a_pair_that_comes_often_are_sorted_as_text() -> None:
    columns = TrialRows(["a", "b"], [None, None], [0] * 12, [1] * 12, [0, 1] * 6, np.arange(12))
    assert columns.ids[:4] == ["a b", "a b #10", "a b #11", "a b #12"]
    found = TrialRows.of_rows([list(columns)])
    assert found is not None and list(found) == list(columns)
    assert TrialRows.of_rows([[*columns, columns[3]]]) is None


@pytest.mark.parametrize(
    ("rows", "measure", "said"),
    [
        ([], ACCURACY, "no scored rows"),
        ([{"correct": 1, "total": 1}], ACCURACY, "id None"),
        ([{"id": "a", "correct": 1, "total": 1}] * 2, ACCURACY, "'a' is scored twice"),
        ([{"id": "a", "total": 1}], ACCURACY, "'a' has None under 'correct'"),
        ([{"id": "a", "correct": float("nan"), "total": 1}], ACCURACY, "'a' has nan under 'correct'"),
        ([{"id": "a", "correct": "1", "total": 1}], ACCURACY, "'a' has '1' under 'correct'"),
        ([{"id": "a", "correct": 0, "total": 0}], ACCURACY, "'total' sums to 0"),
        ([{"id": "a", "score": 1.0, "target": 2}], Eer(), "'a' has the target 2"),
        ([{"id": "a", "score": 1.0, "target": 1}], Eer(), "no negative trial"),
    ],
)
def test_rows_that_cannot_be_measured_are_named(rows: list[dict[str, Any]], measure: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        evaluate([measure], rows)


# JSON


@pytest.mark.parametrize(
    "measure",
    [
        ACCURACY,
        Ratio("wer", "errors", "words", higher_is_better=False),
        Mean("mcd", "mcd", "dB", False),
        Eer(convention="asvspoof"),
        MinDcf("c", 0.95, 1, 10),
    ],
)
def test_measures_survive_json(measure: Any) -> None:
    assert measure_from_json(json.loads(json.dumps(measure.to_json()))) == measure


def test_a_metric_survives_json_with_its_measure() -> None:
    metric = evaluate([ACCURACY], utterance_rows())["accuracy"]
    content = json.loads(json.dumps(metric.to_json(), allow_nan=False))
    assert Metric.from_json(content) == metric
    assert measure_from_json(content["measure"]) == ACCURACY


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"kind": "ratoi"}, "Did you mean 'ratio'"),
        ({"kind": "eer", "conventoin": "asvspoof"}, "no key 'conventoin'"),
        ({"kind": "ratio", "name": "x"}, "incomplete"),
    ],
)
def test_a_broken_measure_says_what_is_wrong(content: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        measure_from_json(content)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"value": None}, "'value'"),
        ({"ci95": [1.0]}, "'ci95'"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"n": "3"}, "'n'"),
    ],
)
def test_a_broken_metric_says_what_is_wrong(change: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Metric.from_json({**Metric(1.0, "%", True, 3, None).to_json(), **change})


def test_a_metric_describes_itself_in_words() -> None:
    assert Metric(83.333, "%", True, 3, (71.2, 91.0)).describe() == "83.33 % (95 % interval 71.20 to 91.00)"
    assert Metric(0.12345, "", False, 3, None).describe() == "0.1235 (no interval)"
