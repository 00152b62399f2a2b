"""Error rates and costs of detection: against plain definitions, resampled trial by trial, and against published implementations."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import DataError, UsageError
from headwater.metrics import Eer, MinDcf, SortedScores, det_curve, eer, min_dcf
from headwater.metrics.resampled import Resampled

PARITY = SHARED / "parity" / "spoof_metrics"

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
