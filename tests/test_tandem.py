"""Tandem cost and calibration: published values, what the extremes cost, and what resampling makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spoof_parity import arrays, asv_lists, close, everywhere, expected, same_threshold, two_classes

from headwater.errors import DataError, UsageError
from headwater.metrics import (
    ActDcf,
    AsvRates,
    Cllr,
    Eer,
    MinDcf,
    MinTdcf,
    act_dcf,
    asv_rates,
    bayes_threshold,
    cllr,
    det_curve,
    eer,
    evaluate,
    measure_from_json,
    min_dcf,
    min_tdcf,
    paired_difference,
    tandem_costs,
)
from headwater.metrics.rows import Table
from headwater.metrics.tandem import Year, asv_threshold, tandem_point

ASV = AsvRates(miss=0.02, false_alarm=0.03, spoof=0.4)
MEASURES = (
    Eer(convention="asvspoof"),
    MinDcf("min_dcf", 0.95, 1, 10),
    ActDcf("act_dcf", 0.95, 1, 10),
    Cllr(),
    MinTdcf("tdcf_2019", ASV.miss, ASV.false_alarm, 0.4, 2019),
    MinTdcf("tdcf_2021", ASV.miss, ASV.false_alarm, 0.4, 2021),
)

scores = st.lists(st.integers(-8, 8).map(float), min_size=3, max_size=25)
shares = st.floats(0.01, 0.9)


def detection_rows(seed: int = 0, speakers: int = 30, each: int = 40, effect: float = 0.0) -> list[dict[str, Any]]:
    """Bona fide speech and spoofs of speakers; `effect` shifts all scores of a speaker."""
    generator = np.random.default_rng(seed)
    shift = effect * generator.normal(size=speakers)
    return [
        {
            "id": f"u{s:02d}-{k:03d}",
            "speaker": f"s{s:02d}",
            "target": k % 2,
            "score": float(generator.normal(2 * (k % 2) + shift[s])),
        }
        for s in range(speakers)
        for k in range(each)
    ]


@everywhere
def test_two_class_values_are_those_of_the_published_packages(folder: Path) -> None:
    for case, reference in expected(folder)["two_class"].items():
        bonafide, spoof = two_classes(folder, case)
        curve = det_curve(bonafide, spoof, "asvspoof")
        assert close(curve.eer(), reference["asvspoof.eer"]), case
        assert same_threshold(curve.eer_threshold(), reference["asvspoof.eer_threshold"]), case
        assert close(eer(-bonafide, -spoof, "asvspoof"), reference["asvspoof.eer_negated_scores"]), case
        assert close(eer(bonafide, spoof), reference["sklearn_brentq.eer"]), case
        # Both weights over the normaliser, 0.5.
        value, threshold = curve.cheapest(1 * 0.95 / 0.5, 10 * 0.05 / 0.5)
        assert close(value, reference["asvspoof5.min_dcf"]), case
        assert close(min_dcf(bonafide, spoof, 0.95, 1, 10), reference["asvspoof5.min_dcf"]), case
        assert same_threshold(threshold, reference["asvspoof5.min_dcf_threshold"]), case
        assert close(act_dcf(bonafide, spoof, 0.95, 1, 10), reference["asvspoof5.act_dcf"]), case
        assert same_threshold(bayes_threshold(0.95, 1, 10), reference["asvspoof5.act_dcf_threshold"]), case
        bits = cllr(bonafide, spoof)
        # Where the packages overflow, a stable sum is finite.
        assert np.isfinite(bits) if reference["asvspoof5.cllr"] == "inf" else close(bits, reference["asvspoof5.cllr"])


@everywhere
def test_det_curves_are_those_of_the_published_package(folder: Path) -> None:
    for case, reference in expected(folder)["det"].items():
        curve = det_curve(*two_classes(folder, case), "asvspoof")
        for ours, theirs in ((curve.miss, "frr"), (curve.false_alarm, "far"), (curve.thresholds, "thresholds")):
            np.testing.assert_allclose(ours, reference[theirs], rtol=1e-12, atol=0)


def check_tandem(bonafide: Any, spoof: Any, asv: Any, reference: dict[str, Any], case: str) -> None:
    rates = asv_rates(*asv)
    assert close(rates.miss, reference["asv.Pmiss"]), case
    assert close(rates.false_alarm, reference["asv.Pfa"]), case
    if reference["asv.Pfa_spoof"] is None:
        assert rates.spoof is None, case
    else:
        assert rates.spoof is not None
        assert close(rates.spoof, reference["asv.Pfa_spoof"]), case
        assert close(1 - rates.spoof, reference["asv.Pmiss_spoof"]), case
    assert same_threshold(asv_threshold(*asv[:2]), reference["asv.threshold"]), case
    assert close(eer(*asv[:2], "asvspoof"), reference["asv.eer"]), case
    for year in (2019, 2021):
        value = reference[f"tdcf{year}.min"]
        if isinstance(value, dict) or value == "nan":  # refused, or 0 / 0
            with pytest.raises(DataError):
                min_tdcf(bonafide, spoof, rates, year)  # type: ignore[arg-type]
            continue
        found, threshold = tandem_point(det_curve(bonafide, spoof, "asvspoof"), rates, year)  # type: ignore[arg-type]
        costs = tandem_costs(rates, year)  # type: ignore[arg-type]
        assert close(found, value), (case, year)
        assert same_threshold(threshold, reference[f"tdcf{year}.threshold"]), (case, year)
        assert close(costs.of_miss, reference[f"tdcf{year}.C1"]), (case, year)
        assert close(costs.of_false_alarm, reference[f"tdcf{year}.C2"]), (case, year)
        assert close(costs.fixed, reference.get(f"tdcf{year}.C0", 0.0)), (case, year)


@everywhere
def test_tandem_costs_are_those_of_the_published_packages(folder: Path) -> None:
    cases = expected(folder)["tandem"]
    assert len(cases) > 20
    for case, reference in cases.items():
        system, asv = case.split(" | ")
        check_tandem(*two_classes(folder, system), asv_lists(folder, asv), reference, case)


def test_tandem_costs_of_single_attacks_are_those_of_the_published_packages(shared: Path) -> None:
    folder = shared / "parity" / "spoof_metrics"
    prefix = "with_asv_spoof_of_same_attack."
    for case, reference in expected(folder)["per_attack"].items():
        system, attack = case.split(" | ")
        bonafide, spoof = two_classes(folder, system)
        spoof = spoof[arrays(folder)[f"{system}/attack"] == attack]
        curve = det_curve(bonafide, spoof, "asvspoof")
        assert close(curve.eer(), reference["asvspoof.eer"]), case
        assert same_threshold(curve.eer_threshold(), reference["asvspoof.eer_threshold"]), case
        assert close(eer(-bonafide, -spoof, "asvspoof"), reference["asvspoof.eer_negated_scores"]), case
        value, threshold = curve.cheapest(1.9, 1.0)
        assert close(value, reference["asvspoof5.min_dcf"]), case
        assert same_threshold(threshold, reference["asvspoof5.min_dcf_threshold"]), case
        assert close(act_dcf(bonafide, spoof, 0.95, 1, 10), reference["asvspoof5.act_dcf"]), case
        assert same_threshold(bayes_threshold(0.95, 1, 10), reference["asvspoof5.act_dcf_threshold"]), case
        assert close(cllr(bonafide, spoof), reference["asvspoof5.cllr"]), case
        behind = {key.removeprefix(prefix): value for key, value in reference.items() if key.startswith(prefix)}
        check_tandem(bonafide, spoof, asv_lists(folder, "asv_real_la_dev", attack), behind, case)


def test_the_asv_of_2019_has_the_published_error_rate(shared: Path) -> None:
    target, nontarget, _ = asv_lists(shared / "parity" / "spoof_metrics", "asv_real_la_dev")
    assert round(100 * eer(target, nontarget, "asvspoof"), 2) == 2.43


@given(st.integers(2, 20), st.integers(2, 20), shares, shares, shares, st.sampled_from([2019, 2021]))
def test_a_flawless_countermeasure_costs_the_floor_and_a_useless_one_1(
    bonafide: int, spoofs: int, miss: float, false_alarm: float, spoof: float, year: Any
) -> None:
    asv = AsvRates(miss, false_alarm, spoof)
    low, high = np.arange(spoofs) / spoofs, 2 + np.arange(bonafide) / bonafide
    try:
        floor = tandem_costs(asv, year).floor
    except DataError:
        assert 0.9405 * (1 - miss) < 0.095 * false_alarm
        return
    assert min_tdcf(high, low, asv, year) == pytest.approx(floor)
    assert (floor == 0) == (year == 2019)
    assert min_tdcf(low, high, asv, year) == pytest.approx(1)


@given(scores, scores, st.sampled_from([2019, 2021]))
def test_only_the_order_of_scores_matters_to_the_tandem_cost(
    bonafide: list[float], spoof: list[float], year: Any
) -> None:
    if len({*bonafide, *spoof}) < 3:
        return
    value = min_tdcf(bonafide, spoof, ASV, year)
    assert 0 <= value <= 1
    assert min_tdcf(np.exp(bonafide), np.exp(spoof), ASV, year) == value


@given(scores, scores)
def test_calibration_is_what_its_sums_say(positives: list[float], negatives: list[float]) -> None:
    bits = [np.log2(1 + np.exp(-np.array(positives))).mean(), np.log2(1 + np.exp(np.array(negatives))).mean()]
    assert cllr(positives, negatives) == pytest.approx(sum(bits) / 2)
    threshold = bayes_threshold(0.3, 2, 5)
    rates = [
        sum(s < threshold for s in positives) / len(positives),
        sum(s >= threshold for s in negatives) / len(negatives),
    ]
    cost = (2 * 0.3 * rates[0] + 5 * 0.7 * rates[1]) / min(2 * 0.3, 5 * 0.7)
    assert act_dcf(positives, negatives, 0.3, 2, 5) == pytest.approx(cost)
    assert act_dcf(positives, negatives, 0.3, 2, 5) >= min_dcf(positives, negatives, 0.3, 2, 5) - 1e-12


def test_scores_of_nothing_cost_one_bit() -> None:
    assert cllr([0.0, 0.0], [0.0]) == 1.0


@pytest.mark.parametrize(
    ("bonafide", "spoof", "asv", "year", "said"),
    [
        ([1.0, 1.0], [0.0], ASV, 2021, "2 distinct scores"),
        ([1.0, 2.0], [0.0], AsvRates(0.02, 0.03, None), 2021, "no spoofed trial"),
        ([1.0, 2.0], [0.0], AsvRates(0.02, 0.03, 0.0), 2019, "lets no spoof through"),
        ([1.0, 2.0], [0.0], AsvRates(1.0, 1.0, 0.5), 2019, "higher for the same speaker"),
        ([1.0, 2.0], [], ASV, 2021, "no negative trial"),
        ([1.0, np.nan], [0.0], ASV, 2021, "1 of 3 scores"),
    ],
)
def test_a_tandem_cost_without_meaning_is_refused(bonafide: Any, spoof: Any, asv: Any, year: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        min_tdcf(bonafide, spoof, asv, year)


def test_wrong_rates_and_years_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="miss rate"):
        AsvRates(2.4, 0.0, 0.0)
    with pytest.raises(UsageError, match="2019, 2021"):
        min_tdcf([1.0, 2.0], [0.0], ASV, 2020)  # type: ignore[arg-type]


def test_an_asv_that_lets_no_spoof_through_leaves_the_revised_cost_at_1() -> None:
    assert min_tdcf([1.0, 2.0], [0.0], AsvRates(0.02, 0.03, 0.0), 2021) == 1.0


def test_measures_equal_the_functions_they_declare() -> None:
    rows = detection_rows()
    lists = [np.array([row["score"] for row in rows if row["target"] == kind]) for kind in (1, 0)]
    metrics = evaluate(MEASURES, rows)
    assert metrics["eer"].value == pytest.approx(100 * eer(*lists, "asvspoof"))
    assert metrics["act_dcf"].value == pytest.approx(act_dcf(*lists, 0.95, 1, 10))
    assert metrics["cllr"].value == pytest.approx(cllr(*lists))
    for year in (2019, 2021):
        assert metrics[f"tdcf_{year}"].value == pytest.approx(min_tdcf(*lists, ASV, year))  # type: ignore[arg-type]
    assert all(metric.clusters == 30 for metric in metrics.values())


# Not the EER of ranked trials: there a trial that is drawn twice is one step of the curve, and two equal ones are two.
@pytest.mark.parametrize("measure", MEASURES[1:], ids=lambda measure: measure.name)
@pytest.mark.parametrize("sides", [1, 2])
def test_a_resample_is_its_trials_repeated(measure: Any, sides: int) -> None:
    rows = detection_rows(speakers=6, each=10)
    if sides == 2:
        rows = [
            {**row, "speaker": None, "speaker1": row["speaker"], "speaker2": f"s{k % 6:02d}"}
            for k, row in enumerate(rows)
        ]
    table = Table(rows)
    drawn = np.random.default_rng(0).multinomial(6, [1 / 6] * 6, size=20)
    for value, times in zip(measure.statistic(table)(drawn), table.weights()(drawn), strict=True):
        repeated = [
            {**row, "id": f"{row['id']}-{k}", "speaker": None} for row, n in zip(table.rows, times) for k in range(n)
        ]
        if {row["target"] for row in repeated} == {0, 1}:
            assert value == pytest.approx(measure.value(Table(repeated)))
        else:
            assert np.isnan(value)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_resampling_speakers_is_wider_than_resampling_trials(measure: Any) -> None:
    rows = detection_rows(speakers=15, each=60, effect=1.0)
    by_speaker, by_trial = evaluate([measure], rows), evaluate([measure], [{**row, "speaker": None} for row in rows])
    ends = [found[measure.name].ci95 for found in (by_speaker, by_trial)]
    assert ends[0] is not None and ends[1] is not None
    assert np.ptp(ends[0]) > 1.5 * np.ptp(ends[1])


@pytest.mark.parametrize("measure", MEASURES[2:], ids=lambda measure: measure.name)
def test_two_systems_are_compared_on_the_same_resamples(measure: Any) -> None:
    rows = detection_rows(effect=1.0)
    worse = [{**row, "score": row["score"] + 0.3 * np.sin(k)} for k, row in enumerate(rows)]
    difference = paired_difference(measure, rows, worse)
    apart = evaluate([measure], rows)[measure.name]
    assert difference.ci95 is not None and apart.ci95 is not None
    assert difference.value == pytest.approx(apart.value - measure.value(Table(worse)))
    assert np.ptp(difference.ci95) < np.ptp(apart.ci95)


@pytest.mark.parametrize(
    "measure",
    [*MEASURES, MinTdcf("t", 0.1, 0.1, 0.3, 2019, {"attack": {"A01": 0.2}})],
    ids=lambda measure: measure.name,
)
def test_measures_survive_json(measure: Any) -> None:
    assert measure_from_json(measure.to_json()) == measure


@pytest.mark.parametrize("year", [2019, 2021])
def test_a_trained_countermeasure_that_gives_all_the_same_score_is_useless_and_not_an_error(year: Year) -> None:
    rows = [{"id": str(number), "target": number % 2, "score": 0.5} for number in range(8)]
    measure = MinTdcf("t_dcf", ASV.miss, ASV.false_alarm, float(ASV.spoof or 0), year)
    found = evaluate([measure], rows)["t_dcf"]
    assert found.value == pytest.approx(1.0)
