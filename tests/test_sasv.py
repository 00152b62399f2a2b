"""Three classes of trials: values of the published packages, and the t-EER against its definition written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spoof_parity import arrays, close, everywhere, expected, same_threshold

from headwater.errors import DataError, UsageError
from headwater.metrics import AdcfCosts, AsvRates, a_dcf, asv_rates, min_tdcf, sasv_eers, t_eer
from headwater.metrics.sasv import ASVSPOOF5_ADCF
from headwater.metrics.tandem import ASVSPOOF5_ASV

COSTS = ("Ptrg", "Pnontrg", "Pspf", "Cmiss", "Cfa_asv", "Cfa_cm")

classes = st.tuples(*[st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=8)] * 3)


def lists(folder: Path, case: str, system: str) -> Any:
    return tuple(arrays(folder)[f"{case}/{system}_{kind}"] for kind in ("target", "nontarget", "spoof"))


@everywhere
def test_values_are_those_of_the_published_packages(folder: Path) -> None:
    for case, reference in expected(folder)["sasv"].items():
        one, asv, cm = (lists(folder, case, system) for system in ("sasv", "asv", "cm"))
        rates = sasv_eers(*one)
        for name in ("sasv", "sv", "spf"):
            assert close(getattr(rates, name), reference[f"sasv.{name}_eer"]), case
        priced = [key.removesuffix(".costs") for key in reference if key.endswith(".costs")]
        assert len(priced) == 4
        for name in priced:
            value, threshold = a_dcf(*one, AdcfCosts(*(reference[f"{name}.costs"][key] for key in COSTS)))
            assert close(value, reference[f"{name}.min"]), (case, name)
            assert same_threshold(threshold, reference[f"{name}.threshold"]), (case, name)
        assert close(a_dcf(*one, ASVSPOOF5_ADCF)[0], reference["asvspoof5.track2.adcf"]), case
        concurrent = 100 * t_eer(asv, cm).concurrent
        for name in ("teer.concurrent_percent", "teer.asvspoof5_accelerated_percent", "asvspoof5.track2.teer_percent"):
            assert close(concurrent, reference[name]), (case, name)
        for rho in ("0", "0.5", "1"):
            assert close(t_eer(asv, cm, float(rho)).minimum, reference[f"teer.min_rho{rho}"]), (case, rho)
        bonafide = np.concatenate(cm[:2])
        precomputed = min_tdcf(bonafide, cm[2], ASVSPOOF5_ASV)
        assert close(precomputed, reference["asvspoof5.track2.min_tdcf_precomputed_asv"]), case
        # The package takes the share of spoofs that the ASV rejects for the one it accepts.
        own = asv_rates(*asv)
        assert own.spoof is not None
        slip = min_tdcf(bonafide, cm[2], AsvRates(own.miss, own.false_alarm, 1 - own.spoof))
        assert close(slip, reference["asvspoof5.track2.min_tdcf_own_asv_AS_CODED"]), case


def plain_curve(positives: Any, *others: Any) -> list[tuple[float, ...]]:
    """(miss, false alarm of each of the others) after each of the ranked trials, positives first among equal scores."""
    ranked = sorted((score, kind) for kind, part in enumerate((positives, *others)) for score in part)
    points = []
    for rejected in range(len(ranked) + 1):
        kinds = [kind for _, kind in ranked[:rejected]]
        miss = kinds.count(0) / len(positives)
        points.append((miss, *(1 - kinds.count(k) / len(part) for k, part in enumerate(others, start=1))))
    return points


@settings(max_examples=60)
@given(classes, classes, st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_the_tandem_error_rate_is_what_trying_all_pairs_of_thresholds_gives(asv: Any, cm: Any, rho: float) -> None:
    path = []
    for miss_asv, impostors, spoofs in plain_curve(*asv):
        if not miss_asv < (1 - rho) * impostors + rho * spoofs:
            continue
        pairs = [
            (miss + (1 - miss) * miss_asv, (1 - rho) * (1 - miss) * impostors + rho * false_alarm * spoofs)
            for miss, false_alarm in plain_curve([*cm[0], *cm[1]], cm[2])
        ]
        nearest = min(abs(a - b) for a, b in pairs)
        path.append([(a + b) / 2 for a, b in pairs if abs(a - b) <= nearest + 1e-12])
    if not path:
        with pytest.raises(DataError, match="no t-EER"):
            t_eer(asv, cm, rho)
        return
    found = t_eer(asv, cm, rho)
    assert len(found.t_eer) == len(path)
    for value, candidates in zip(found.t_eer, path, strict=True):
        assert min(abs(value - candidate) for candidate in candidates) < 1e-12
    assert found.minimum == min(found.t_eer)


@given(classes)
def test_a_dcf_lies_between_0_and_the_better_blind_decision(trials: Any) -> None:
    value, _ = a_dcf(*trials)
    assert 0 <= value <= 1 + 1e-12
    assert a_dcf(*(np.exp(part) for part in trials))[0] == pytest.approx(value)


def test_a_system_that_parts_all_three_classes_makes_no_error() -> None:
    trials = [5.0, 6.0], [1.0, 2.0], [0.0, 1.5]
    assert sasv_eers(*trials).sasv == 0
    value, threshold = a_dcf(*trials)
    assert (value, threshold) == (0, 2.0)


@pytest.mark.parametrize("broken", [[], [np.nan]])
def test_three_classes_are_needed_and_must_be_numbers(broken: Any) -> None:
    for function in (sasv_eers, a_dcf):
        with pytest.raises(DataError, match=r"no spoof trial|not finite"):
            function([1.0], [0.0], broken)  # type: ignore[operator]
    with pytest.raises(DataError, match=r"no spoof trial|not finite"):
        t_eer(([1.0], [0.0], [0.0]), ([1.0], [0.0], broken))


def test_costs_and_prevalences_without_meaning_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="sum to 1"):
        AdcfCosts(p_target=0.5)
    with pytest.raises(UsageError, match="free"):
        AdcfCosts(c_miss=0.0)
    with pytest.raises(UsageError, match="prevalence"):
        t_eer(([1.0], [0.0], [0.0]), ([1.0], [0.0], [0.0]), 1.5)
