"""Metrics: values against plain definitions and published implementations, intervals against what they promise."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import DataError, UsageError
from headwater.metrics import (
    Eer,
    Mean,
    Measure,
    Metric,
    MinDcf,
    Ratio,
    SortedScores,
    accuracy,
    confusion_matrix,
    det_curve,
    eer,
    evaluate,
    measure_from_json,
    min_dcf,
    paired_difference,
)
from headwater.metrics.bootstrap import exact_interval, multiplicities
from headwater.metrics.resampled import Resampled
from headwater.metrics.rows import Table
from headwater.metrics.trials import TrialRows

ACCURACY = Ratio("accuracy", "correct", "total", chance=50.0)
PARITY = Path(__file__).resolve().parents[2] / "shared" / "parity" / "spoof_metrics"

tied = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=25)
spread = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=25)
scores = st.one_of(tied, spread)


def plain_points(positives: list[float], negatives: list[float]) -> list[tuple[float, float]]:
    """(miss, false alarm) at every threshold, counted anew for each: accept all, ..., reject all."""
    thresholds = [*sorted({*positives, *negatives}), float("inf")]
    return [
        (
            sum(score < t for score in positives) / len(positives),
            sum(score >= t for score in negatives) / len(negatives),
        )
        for t in thresholds
    ]


def plain_interpolated_eer(positives: list[float], negatives: list[float]) -> float:
    points = plain_points(positives, negatives)
    for (miss0, fa0), (miss1, fa1) in itertools.pairwise(points):
        if miss0 <= fa0 and miss1 >= fa1:
            share = (fa0 - miss0) / ((fa0 - miss0) + (miss1 - fa1))
            return miss0 + share * (miss1 - miss0)
    raise AssertionError("the curve runs from (0, 1) to (1, 0) and must cross")


def plain_asvspoof_eer(positives: list[float], negatives: list[float]) -> float:
    ranked = sorted([(score, 0) for score in positives] + [(score, 1) for score in negatives])
    points = [(0.0, 1.0)]
    for i in range(1, len(ranked) + 1):
        rejected = sum(kind for _, kind in ranked[:i])
        points.append(((i - rejected) / len(positives), (len(negatives) - rejected) / len(negatives)))
    gaps = [abs(miss - fa) for miss, fa in points]
    return sum(points[gaps.index(min(gaps))]) / 2


def trial_rows(seed: int = 0, speakers: int = 12, trials: int = 300, gap: float = 1.0) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    pairs = generator.integers(speakers, size=(trials, 2))
    pairs[::2, 1] = pairs[::2, 0]
    return [
        {
            "id": f"t{i:04d}",
            "target": int(a == b),
            "score": float(generator.normal(gap * (a == b))),
            "speaker1": f"s{a}",
            "speaker2": f"s{b}",
        }
        for i, (a, b) in enumerate(pairs)
    ]


def utterance_rows(seed: int = 0, speakers: int = 12, each: int = 10, right: float = 0.8) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    return [
        {"id": f"u{s:02d}-{k:02d}", "speaker": f"s{s}", "correct": int(generator.random() < right), "total": 1}
        for s in range(speakers)
        for k in range(each)
    ]


@given(scores, scores)
@settings(max_examples=200, deadline=None)
def test_interpolated_eer_is_the_crossing_of_the_roc_counted_threshold_by_threshold(
    positives: list[float], negatives: list[float]
) -> None:
    assert eer(positives, negatives) == pytest.approx(plain_interpolated_eer(positives, negatives), abs=1e-12)


@given(scores, scores)
@settings(max_examples=200, deadline=None)
def test_asvspoof_eer_is_the_first_nearest_point_of_the_ranked_trials(
    positives: list[float], negatives: list[float]
) -> None:
    assert eer(positives, negatives, "asvspoof") == plain_asvspoof_eer(positives, negatives)


@given(scores, scores, st.sampled_from([0.001, 0.05, 0.5, 0.95]), st.sampled_from([1.0, 10.0]))
@settings(max_examples=200, deadline=None)
def test_min_dcf_is_the_cheapest_threshold_under_both_curves(
    positives: list[float], negatives: list[float], prior: float, c_fa: float
) -> None:
    costs = [prior * miss + c_fa * (1 - prior) * fa for miss, fa in plain_points(positives, negatives)]
    expected = min(costs) / min(prior, c_fa * (1 - prior))
    assert min_dcf(positives, negatives, prior, 1, c_fa) == pytest.approx(expected, abs=1e-12)
    ungrouped = det_curve(positives, negatives, "asvspoof").min_dcf(prior, 1, c_fa)
    assert ungrouped == pytest.approx(expected, abs=1e-12)
    assert 0 <= expected <= 1 + 1e-12


@given(tied, tied)
@settings(max_examples=100, deadline=None)
def test_interpolated_eer_of_negated_scores_is_the_complement(positives: list[float], negatives: list[float]) -> None:
    negated = eer([-score for score in positives], [-score for score in negatives])
    assert negated == pytest.approx(1 - eer(positives, negatives), abs=1e-12)


@given(tied, tied)
@settings(max_examples=100, deadline=None)
def test_a_point_of_the_det_curve_is_what_its_threshold_accepts(positives: list[float], negatives: list[float]) -> None:
    curve = det_curve(positives, negatives)
    for miss, fa, threshold in zip(curve.miss, curve.false_alarm, curve.thresholds):
        assert miss == np.mean(np.array(positives) < threshold)
        assert fa == np.mean(np.array(negatives) >= threshold)


many = st.lists(st.tuples(st.booleans(), st.integers(-4, 4), st.integers(0, 3), st.integers(0, 3)), max_size=40)


@given(many, st.integers(1, 6), st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=5))
@settings(max_examples=200, deadline=None)
def test_a_resample_is_its_trials_repeated(
    some: list[tuple[bool, int, int, int]], block: int, draws: list[list[int]]
) -> None:
    some = [*some, (True, 0, 0, 0), (False, 0, 1, 2)]
    flags, values, first, second = (np.array(column) for column in zip(*some, strict=True))
    trials = SortedScores.sort(values, flags)
    drawn = np.array(draws)
    for convention in ("interpolated", "asvspoof"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("headwater.metrics.resampled.BLOCK", block)
            patch.setattr("headwater.metrics.resampled.HELD", 7)
            sides = first[trials.order], second[trials.order]
            curves = Resampled(trials, *sides, 4, convention).curves(drawn)  # type: ignore[arg-type]
        found = zip(curves.eer(), curves.min_dcf(0.1, 1.0, 2.0), strict=True)
        for times, (rate, cost) in zip(drawn, found, strict=True):
            weights = times[first] * np.where(first == second, 1, times[second])
            positives, negatives = (np.repeat(values[flags == kind], weights[flags == kind]) for kind in (True, False))
            if not len(positives) or not len(negatives):
                assert np.isnan(rate) and np.isnan(cost)
                continue
            assert cost == pytest.approx(min_dcf(positives, negatives, 0.1, 1.0, 2.0), abs=1e-12)
            if convention == "interpolated":
                assert rate == pytest.approx(eer(positives, negatives), abs=1e-12)
            elif set(times) <= {0, 1}:  # a trial that weighs more than 1 moves at once
                assert rate == pytest.approx(eer(positives, negatives, "asvspoof"), abs=1e-12)


def test_resamples_of_many_trials_are_those_of_the_whole_curves() -> None:
    generator = np.random.default_rng(0)
    size, clusters = 50_000, 30
    first, second = generator.integers(clusters, size=(2, size))
    flags = first == second
    for values in (generator.normal(size=size) + 2 * flags, np.round(generator.normal(size=size) + flags, 1)):
        trials = SortedScores.sort(values, flags)
        drawn = np.stack(
            [np.bincount(generator.integers(clusters, size=clusters), minlength=clusters) for _ in range(20)]
        )
        curves = Resampled(trials, first[trials.order], second[trials.order], clusters).curves(drawn)
        for times, rate, cost in zip(drawn, curves.eer(), curves.min_dcf(0.01, 1.0, 1.0), strict=True):
            weights = times[first] * np.where(flags, 1, times[second])
            parts = [np.repeat(values[flags == kind], weights[flags == kind]) for kind in (True, False)]
            assert rate == eer(*parts) and cost == min_dcf(*parts, 0.01)


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
    ("positives", "negatives", "interpolated", "asvspoof"),
    [
        ([0.0] * 7, [0.0] * 11, 0.5, 1.0),  # all scores equal
        ([3.0, 4.0], [1.0, 2.0], 0.0, 0.0),  # perfect
        ([1.0, 2.0], [3.0, 4.0], 1.0, 1.0),  # fully inverted
        ([1.0], [0.0], 0.0, 0.0),  # one against one, right order
        ([0.0], [1.0], 1.0, 1.0),  # one against one, wrong order
    ],
)
def test_eer_of_the_extreme_systems(
    positives: list[float], negatives: list[float], interpolated: float, asvspoof: float
) -> None:
    assert eer(positives, negatives) == interpolated
    assert eer(positives, negatives, "asvspoof") == asvspoof


def test_a_useless_score_costs_as_much_as_the_better_blind_decision() -> None:
    assert min_dcf([0.0] * 5, [0.0] * 9, 0.01) == 1.0
    assert min_dcf([1.0, 2.0], [3.0, 4.0], 0.95, 1, 10) == 1.0


@pytest.mark.parametrize(
    ("positives", "negatives", "said"),
    [
        ([], [1.0], "no positive trial"),
        ([1.0], [], "no negative trial"),
        ([1.0, float("nan")], [0.0], "1 of 3 scores"),
        ([1.0], [float("-inf"), 2.0], "1 of 3 scores"),
        ([[1.0]], [[0.0]], "shape"),
    ],
)
def test_detection_refuses_what_has_no_rank(positives: Any, negatives: Any, said: str) -> None:
    for measure in (eer, lambda a, b: min_dcf(a, b, 0.01)):
        with pytest.raises(DataError, match=said):
            measure(positives, negatives)


def test_wrong_conventions_and_costs_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="interpolated, asvspoof"):
        eer([1.0], [0.0], "nist")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="p_target=1"):
        MinDcf("min_dcf", p_target=1.0)
    with pytest.raises(UsageError, match="convention"):
        Eer(convention="brentq")  # type: ignore[arg-type]


@pytest.mark.skipif(not PARITY.is_dir(), reason=f"the reference values are not beside this repository ({PARITY})")
def test_detection_equals_the_published_evaluation_packages() -> None:
    expected = json.loads((PARITY / "expected.json").read_text())
    with np.load(PARITY / "scores.npz", allow_pickle=False) as arrays:
        cases = {
            case: (arrays[f"{case.split(':')[0]}/target"], arrays[f"{case.split(':')[0]}/nontarget"])
            if ":" in case
            else (arrays[f"{case}/bonafide"], arrays[f"{case}/spoof"])
            for case in expected["two_class"]
        }
    assert len(cases) >= 20
    for case, reference in expected["two_class"].items():
        positives, negatives = cases[case]
        curve = det_curve(positives, negatives, "asvspoof")
        assert curve.eer() == reference["asvspoof.eer"], case
        assert curve.eer_threshold() == reference["asvspoof.eer_threshold"], case
        assert eer(-positives, -negatives, "asvspoof") == reference["asvspoof.eer_negated_scores"], case
        assert eer(positives, negatives) == pytest.approx(reference["sklearn_brentq.eer"], abs=1e-9), case
        assert min_dcf(positives, negatives, 0.95, 1, 10) == pytest.approx(reference["asvspoof5.min_dcf"], abs=1e-12)
        for prior in ("0.05", "0.01", "0.001"):
            value = min_dcf(positives, negatives, float(prior))
            assert value == pytest.approx(reference[f"sklearn.min_dcf_p{prior}"], abs=1e-12), case
    for case, reference in expected["det"].items():
        curve = det_curve(*cases[case], "asvspoof")
        for ours, theirs in (
            (curve.miss, "frr"),
            (curve.false_alarm, "far"),
            (curve.thresholds, "thresholds"),
        ):
            np.testing.assert_array_equal(ours, reference[theirs])


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


def test_resamples_do_not_depend_on_how_they_are_chunked() -> None:
    whole, parts = (np.concatenate(list(multiplicities(7, 3, chunk, 50))) for chunk in (50, 8))
    np.testing.assert_array_equal(whole, parts)
    assert whole.shape == (50, 7)
    assert (whole.sum(axis=1) == 7).all()
    assert not np.array_equal(whole, np.concatenate(list(multiplicities(7, 4, 50, 50))))


def test_the_same_rows_in_any_order_give_the_same_numbers() -> None:
    measures: list[Measure] = [Eer(), MinDcf("min_dcf", 0.01), Mean("mean_score", "score", "dB", True)]
    rows = trial_rows()
    shuffled = [rows[i] for i in np.random.default_rng(5).permutation(len(rows))]
    assert evaluate(measures, rows) == evaluate(measures, shuffled)
    assert evaluate(measures, rows)["eer"].ci95 != evaluate(measures, rows, seed=1)["eer"].ci95


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


@pytest.mark.parametrize("measure", [ACCURACY, Mean("m", "correct", "dB", True)])
def test_intervals_hold_the_value_and_equal_a_bootstrap_written_out(measure: Any) -> None:
    rows = utterance_rows()
    metric = evaluate([measure], rows, seed=2)[measure.name]
    assert metric.ci95 is not None
    assert metric.ci95[0] < metric.value < metric.ci95[1]
    names = sorted({row["speaker"] for row in rows})
    scale = 100 if measure is ACCURACY else 1
    values = [
        scale
        * np.mean(np.repeat([row["correct"] for row in rows], [drawn[names.index(row["speaker"])] for row in rows]))
        for drawn in np.concatenate(list(multiplicities(len(names), 2, 1000)))
    ]
    np.testing.assert_allclose(metric.ci95, np.quantile(values, [0.025, 0.975]), rtol=1e-12)


def test_speakers_are_resampled_and_not_utterances() -> None:
    rows = [
        {"id": f"{s}-{k}", "speaker": f"s{s}", "correct": int(s % 3 > 0), "total": 1}
        for s in range(30)
        for k in range(20)
    ]
    by_speaker = evaluate([ACCURACY], rows)["accuracy"]
    by_row = evaluate([ACCURACY], [{**row, "speaker": None} for row in rows])["accuracy"]
    assert (by_speaker.clusters, by_row.clusters) == (30, 600)
    assert by_speaker.ci95 is not None and by_row.ci95 is not None
    assert np.ptp(by_speaker.ci95) > 3 * np.ptp(by_row.ci95)


def test_a_trial_weighs_the_product_of_its_two_speakers_and_once_a_single_speaker() -> None:
    rows: list[dict[str, Any]] = [
        {"id": "1", "speaker1": "a", "speaker2": "b"},
        {"id": "2", "speaker1": "b", "speaker2": "b"},
        {"id": "3", "speaker1": "c", "speaker2": "a"},
        {"id": "4", "speaker1": "c", "speaker2": None},
    ]
    table = Table(rows)
    assert table.clusters == 3
    assert table.weights()(np.array([[3, 2, 0], [1, 5, 2]])).tolist() == [[6, 2, 0, 0], [5, 5, 2, 2]]


def test_the_interval_of_speaker_trials_covers_the_truth_about_as_often_as_it_says() -> None:
    truth, hits, worlds = 30.8538, 0, 40  # 100 times the normal probability below -0.5
    for seed in range(worlds):
        ends = evaluate([Eer()], trial_rows(seed, speakers=25, trials=400, gap=1.0), seed=seed)["eer"].ci95
        assert ends is not None
        hits += ends[0] <= truth <= ends[1]
    assert hits >= 0.85 * worlds


def test_resamples_without_a_class_are_skipped_and_counted() -> None:
    rows = [{"id": f"p{i}", "speaker": "one", "target": 1, "score": float(i)} for i in range(4)]
    rows += [{"id": f"n{i}", "speaker": f"s{i}", "target": 0, "score": i - 0.5} for i in range(11)]
    metric = evaluate([Eer()], rows)["eer"]
    missed = sum(int(drawn[0, 0] == 0) for drawn in multiplicities(12, 0, 1))  # "one" sorts first
    assert missed > 200
    assert f"{missed} of 1000 resamples were skipped" in str(metric.note)


@pytest.mark.parametrize(
    ("right", "expected"), [(1.0, (100 * 0.025 ** (1 / 12), 100.0)), (0.0, (0.0, 100 * (1 - 0.025 ** (1 / 12))))]
)
def test_a_flawless_result_gets_the_clopper_pearson_bound_on_speakers(
    right: float, expected: tuple[float, float]
) -> None:
    metric = evaluate([ACCURACY], utterance_rows(right=right))["accuracy"]
    assert metric.ci95 == pytest.approx(expected, rel=1e-12)
    assert "Clopper-Pearson) on 12 clusters" in str(metric.note)


def test_the_exact_bound_equals_clopper_and_pearson_for_no_and_only_successes() -> None:
    beta = pytest.importorskip("scipy.stats").beta
    assert exact_interval(100, 9, 0, 100) == pytest.approx((100 * beta.ppf(0.025, 9, 1), 100))
    assert exact_interval(0, 9, 0, 100) == pytest.approx((0, 100 * beta.ppf(0.975, 1, 9)))


def test_no_interval_is_made_up_for_a_constant_without_bounds() -> None:
    metric = evaluate([Mean("gain", "gain", "dB", True)], [{"id": str(i), "gain": 3.0} for i in range(20)])["gain"]
    assert metric.ci95 is None
    assert "no interval can be given" in str(metric.note)


def test_few_speakers_are_called_unreliable() -> None:
    assert "9 clusters only" in str(evaluate([ACCURACY], utterance_rows(speakers=9))["accuracy"].note)
    assert evaluate([ACCURACY], utterance_rows(speakers=10))["accuracy"].note is None


def test_an_interval_that_holds_chance_is_recognised() -> None:
    assert evaluate([ACCURACY], utterance_rows(right=0.5))["accuracy"].includes_chance
    assert not evaluate([ACCURACY], utterance_rows(right=0.9))["accuracy"].includes_chance
    assert not Metric(50.0, "%", True, 3, (40.0, 60.0)).includes_chance


def test_a_paired_difference_is_judged_on_shared_resamples() -> None:
    rows = utterance_rows(speakers=20, each=20, right=0.6)
    better = [{**row, "correct": int(row["correct"] or i % 25 == 0)} for i, row in enumerate(rows)]
    gap = paired_difference(ACCURACY, better, rows[::-1])
    alone = evaluate([ACCURACY], rows)["accuracy"]
    assert gap.value == pytest.approx(evaluate([ACCURACY], better)["accuracy"].value - alone.value)
    assert gap.unit == "percentage points"
    assert gap.ci95 is not None and alone.ci95 is not None
    assert 0 < gap.ci95[0] < gap.value < gap.ci95[1]
    assert np.ptp(gap.ci95) < np.ptp(alone.ci95) / 2
    reverse = paired_difference(ACCURACY, rows, better)
    assert reverse.ci95 == pytest.approx((-gap.ci95[1], -gap.ci95[0]))


def test_equal_results_differ_by_nothing_within_the_exact_bound() -> None:
    rows = trial_rows()
    gap = paired_difference(Eer(), rows, rows)
    assert gap.value == 0
    assert gap.ci95 is not None and gap.ci95[0] < 0 < gap.ci95[1]
    assert "every resample gives the same value" in str(gap.note)


def test_a_paired_difference_names_the_ids_that_are_missing() -> None:
    rows = utterance_rows()
    with pytest.raises(
        DataError, match=r"5 of 120 ids are missing from the second result: 'u00-00', 'u00-01', 'u00-02', \.\.\."
    ):
        paired_difference(ACCURACY, rows, rows[5:])
    with pytest.raises(DataError, match="missing from the first result: 'u00-00'"):
        paired_difference(ACCURACY, rows[1:], rows)
    with pytest.raises(DataError, match="'u00-00' has the speaker 's0' in the first result and 'x' in the second"):
        paired_difference(ACCURACY, rows, [{**rows[0], "speaker": "x"}, *rows[1:]])


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
