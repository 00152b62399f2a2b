"""Intervals and differences: resampled speakers, exact bounds, what no interval can be given for, and what cannot be compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scored_rows import ACCURACY, trial_rows, utterance_rows

from headwater.errors import DataError
from headwater.metrics import Eer, Mean, Measure, Metric, MinDcf, evaluate, paired_difference
from headwater.metrics.bootstrap import exact_interval, multiplicities
from headwater.metrics.rows import Table


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


def test_speakers_of_a_mixture_are_resampled_together() -> None:
    rows = [
        {"id": f"{one}-{two}", "speaker1": f"s{one}", "speaker2": f"s{two}", "gain": float(3 * (one == 0) + 3 * (two == 0) + two % 2)}
        for one in range(8) for two in range(8) if one < two
    ]  # fmt: skip
    measure = Mean("gain", "gain", "dB", higher_is_better=True)
    joint = evaluate([measure], rows)["gain"]
    alone = evaluate([measure], [{"id": row["id"], "gain": row["gain"]} for row in rows])["gain"]
    assert joint.clusters == 8 and alone.clusters == len(rows) and joint.ci95 and alone.ci95
    # One speaker who is easy is in many mixtures: as rows they look independent, and are not.
    assert joint.ci95[1] - joint.ci95[0] > 1.5 * (alone.ci95[1] - alone.ci95[0])


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
