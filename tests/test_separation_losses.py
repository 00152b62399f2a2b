"""All pairs from one matrix: the values of other projects' code, the right estimate for each source, and what silence and padding do."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import Tensor

from headwater.separation.losses import (
    EPS,
    KINDS,
    assign,
    chosen,
    gram,
    masked_mse,
    pit,
    reorder,
    sd_sdr,
    si_snr,
    snr,
    squared_error,
)
from headwater.separation.onerest import one_and_rest_loss, take_all

DATA = ROOT / "tests/data/separation"
VALUES = json.loads((DATA / "cases.json").read_text())["losses"]
RANDOM = ["random_2src", "random_3src", "random_5src"]
REAL = ["real_2src", "real_3src", "real_5src"]
MEASURES = {"sisdr": si_snr, "sdsdr": sd_sdr, "snr": snr}


def signals(shared: Path | None, case: str) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Estimates, sources and the recorded values of a case."""
    arrays = np.load(DATA / "signals.npz" if shared is None else shared / "parity/separation/losses/losses.npz")
    values = VALUES if shared is None else json.loads((shared / "parity/separation/losses/losses.json").read_text())
    return torch.from_numpy(arrays[f"{case}_est"]), torch.from_numpy(arrays[f"{case}_ref"]), values[case]


def compare(estimates: Tensor, sources: Tensor, values: dict[str, Any]) -> None:
    for means_off in (False, True):
        g = gram(estimates, sources, zero_mean=means_off)
        for name, measure in MEASURES.items():
            cost = -measure(g)
            expected = torch.tensor(values[f"pairwise_neg_{name}_zm{int(means_off)}"], dtype=torch.float64)
            ordinary = (expected > -60) & (expected < 40)  # float32 itself is off by more beyond
            torch.testing.assert_close(cost[ordinary], expected[ordinary], atol=1e-3, rtol=0)
            recorded = values[f"pit_{name}_zm{int(means_off)}"]
            order = assign(cost)
            assert order.tolist() == recorded["batch_indices"] == recorded["hungarian_indices"]
            best = chosen(cost, order).mean(1)
            torch.testing.assert_close(best, torch.tensor(recorded["per_item"], dtype=torch.float64), atol=1e-3, rtol=0)
    g = gram(estimates, sources, zero_mean=False)
    expected = torch.tensor(values["pairwise_mse"], dtype=torch.float64)
    torch.testing.assert_close(squared_error(g) / estimates.shape[2], expected, atol=1e-9, rtol=1e-5)
    assert float(pit(estimates, sources, kind="mse").loss.mean()) == pytest.approx(values["pit_mse"], rel=1e-5)
    found = pit(estimates, sources, kind="sa_sdr")
    assert found.loss.tolist() == pytest.approx(values["sa_sdr_pit"]["per_item"], abs=1e-3)
    assert found.permutation.tolist() == values["sa_sdr_pit"]["best_permutation"]
    ordered = gram(reorder(estimates, pit(estimates, sources).permutation), sources, zero_mean=False)
    for most in (20, 30):
        expected = torch.tensor(values[f"graph_pit thresholded_sdr max_sdr={most} (reordered, none)"])
        bounded = snr(ordered, most=most).diagonal(dim1=1, dim2=2).float()
        torch.testing.assert_close(-bounded, expected, atol=1e-3, rtol=0)
        assert bool((bounded <= most).all())
    lengths = torch.tensor(values["kaituoxu cal_loss with lengths"]["lengths"])
    loss = pit(estimates, sources, lengths).loss.mean()
    assert float(loss) == pytest.approx(values["kaituoxu cal_loss with lengths"]["loss"], abs=1e-3)


@pytest.mark.parametrize("case", RANDOM)
def test_every_pair_has_the_value_that_other_code_gives_it(case: str) -> None:
    compare(*signals(None, case))


@pytest.mark.parametrize("case", REAL)
def test_every_pair_of_real_speech_has_the_value_that_other_code_gives_it(case: str, shared: Path) -> None:
    compare(*signals(shared, case))


def test_silence_and_perfection_are_finite_and_of_the_recorded_side() -> None:
    x = torch.from_numpy(np.load(DATA / "signals.npz")["edge_x"])
    cases = {
        "est0_ref_x": (0 * x, x),
        "est_x_ref_0": (x, 0 * x),
        "both_zero": (0 * x, 0 * x),
        "perfect": (x, x),
        "scaled_1000": (1000 * x, x),
        "negated": (-x, x),
    }
    for name, (estimate, source) in cases.items():
        g = gram(estimate, source)
        for kind, measure in MEASURES.items():
            value, expected = -float(measure(g)), VALUES["edge"][name][kind]
            if expected < -60:
                assert -400 < value < -60, (name, kind)
            else:
                assert value == pytest.approx(expected, abs=1e-3), (name, kind)


def naive(estimates: Tensor, sources: Tensor) -> tuple[float, tuple[int, ...]]:
    """The best mean SI-SNR of one mixture, written out: every order, every pair by the definition."""
    best = (-np.inf, ())
    for order in permutations(range(len(sources))):
        values = []
        for source, which in zip(sources, order):
            s, e = source - source.mean(), estimates[which] - estimates[which].mean()
            target = (e @ s) / (s @ s + EPS) * s
            values.append(float(10 * torch.log10(target @ target / ((e - target) @ (e - target) + EPS) + EPS)))
        best = max(best, (float(np.mean(values)), order))
    return best


@pytest.mark.parametrize("speakers", [1, 2, 3, 4, 5])
def test_the_best_order_and_its_loss_are_those_of_all_orders_written_out(speakers: int) -> None:
    generator = torch.Generator().manual_seed(speakers)
    sources = torch.randn(3, speakers, 300, generator=generator, dtype=torch.float64)
    mixing = torch.eye(speakers, dtype=torch.float64)[torch.randperm(speakers, generator=generator)]
    estimates = mixing @ sources + 0.7 * torch.randn(3, speakers, 300, generator=generator, dtype=torch.float64)
    found = pit(estimates, sources)
    for row in range(3):
        value, order = naive(estimates[row], sources[row])
        assert tuple(found.permutation[row].tolist()) == order
        assert float(found.loss[row]) == pytest.approx(-value, abs=1e-4)


def test_a_cycle_of_three_is_undone_by_reorder() -> None:
    sources = torch.randn(1, 3, 100, generator=torch.Generator().manual_seed(0))
    estimates = sources[:, [2, 0, 1]]
    order = pit(estimates, sources).permutation
    assert order.tolist() == [[1, 2, 0]]
    torch.testing.assert_close(reorder(estimates, order), sources)


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_beyond_the_lengths_changes_nothing_and_gets_no_gradient(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    estimates, sources = torch.randn(2, 2, 3, 200, generator=generator).unbind(0)
    lengths = torch.tensor([200, 130])
    estimates.requires_grad_()
    found = pit(estimates, sources, lengths, kind=kind)
    alone = pit(estimates[1:, :, :130], sources[1:, :, :130], kind=kind)
    torch.testing.assert_close(found.loss[1:], alone.loss)
    found.loss.sum().backward()
    assert estimates.grad is not None and bool((estimates.grad[1, :, 130:] == 0).all())
    assert bool((estimates.grad[1, :, :130] != 0).any())


def test_gradients_are_those_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(2)
    sources = torch.randn(2, 2, 50, generator=generator, dtype=torch.float64)
    estimates = (sources + torch.randn(2, 2, 50, generator=generator, dtype=torch.float64)).requires_grad_()
    pit(estimates, sources, permutation=torch.tensor([[0, 1], [0, 1]])).loss.sum().backward()
    own = estimates.grad
    again = estimates.detach().requires_grad_()
    e, s = again - again.mean(2, keepdim=True), sources - sources.mean(2, keepdim=True)
    target = (e * s).sum(2, keepdim=True) / s.square().sum(2, keepdim=True) * s
    (-10 * torch.log10(target.square().sum(2) / (e - target).square().sum(2))).mean(1).sum().backward()
    torch.testing.assert_close(own, again.grad, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("speakers", [2, 5])
def test_costs_that_are_no_numbers_make_a_loss_that_is_none_and_no_error(speakers: int) -> None:
    cost = torch.rand(2, speakers, speakers)
    cost[0, 1] = torch.nan
    order = assign(cost)
    assert sorted(order[0].tolist()) == list(range(speakers)) and bool(chosen(cost, order)[0].isnan().any())


def test_a_given_order_is_kept() -> None:
    sources = torch.randn(1, 2, 100, generator=torch.Generator().manual_seed(3))
    order = torch.tensor([[1, 0]])
    found = pit(sources, sources, permutation=order)
    assert found.permutation is order and float(found.loss) > 0


def test_masks_are_fitted_to_valid_frames_in_their_best_order() -> None:
    generator = torch.Generator().manual_seed(4)
    mixture, targets = torch.rand(2, 7, 5, generator=generator), torch.rand(2, 2, 7, 5, generator=generator)
    masks = targets.flip(1) / mixture[:, None] + 0.1
    masks[1, :, 4:] = 99.0
    found = masked_mse(masks, mixture, targets, torch.tensor([7, 4]))
    assert found.permutation.tolist() == [[1, 0], [1, 0]]
    expected = [(0.1 * mixture[row, :size]).square().sum() / size for row, size in enumerate((7, 4))]
    torch.testing.assert_close(found.loss, torch.stack(expected))


def test_one_and_rest_picks_the_source_that_was_taken_out() -> None:
    sources = torch.randn(2, 3, 400, generator=torch.Generator().manual_seed(5))
    sources[1, 2] = 0
    outputs = torch.stack([sources[:, 1], sources[:, 0] + sources[:, 2]], 1)
    found = one_and_rest_loss(outputs, sources, counts=torch.tensor([3, 2]))
    assert found.speaker.tolist() == [1, 1] and bool((found.loss < -100).all())
    wrong = one_and_rest_loss(outputs.flip(1), sources, counts=torch.tensor([3, 2]))
    assert float(wrong.loss[0]) > float(found.loss[0]) + 50
    assert int(wrong.speaker[1]) == 0  # of two speakers, the other one is the rest


@pytest.mark.parametrize("speakers", [0, 1, 2, 5])
def test_all_speakers_are_taken_out_at_their_own_levels_and_then_it_stops(speakers: int) -> None:
    sources = torch.linalg.qr(torch.randn(500, 5, generator=torch.Generator().manual_seed(6)))[0].T[:speakers]
    left = list(sources)

    def separate(mixture: Tensor) -> Tensor:
        one = left.pop(0)
        return torch.stack([0.01 * one, 300 * (mixture[0] - one)])[None]  # of a network that sees no scale

    found = take_all(sources.sum(0) if speakers else torch.zeros(500), separate)
    assert not found.heard and found.sources.shape == (speakers, 500)
    torch.testing.assert_close(found.sources, sources, atol=1e-4, rtol=0)


def test_taking_out_stops_at_a_cap_and_says_that_somebody_is_left() -> None:
    sources = torch.linalg.qr(torch.randn(500, 3, generator=torch.Generator().manual_seed(7)))[0].T
    left = list(sources)
    found = take_all(sources.sum(0), lambda x: torch.stack([left[0], x[0] - left.pop(0)])[None], most=2)
    assert found.heard and len(found.sources) == 2
