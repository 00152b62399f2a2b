"""Long sounds in windows, as prediction answers them: exactly as long as they came, who is who kept, levels kept; rules for levels of other projects."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count, permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from headwater.downstream.separation.expert import Separation
from headwater.downstream.separation.settings import SeparationConfig
from torch import Tensor

from headwater.config import DataConfig
from headwater.errors import UsageError
from headwater.separation.overlap import join, overlap_add
from headwater.separation.rescale import (
    RULES,
    by_peak,
    by_sum,
    consistent,
    least_squares,
    least_squares_gains,
    powers,
)
from headwater.settings import validate
from headwater.train.windows import Block, Windows

SIGNALS = np.load(ROOT / "tests/data/separation/signals.npz")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Moody:
    """Knows the sources of a mixture, and gives them in another order, at other levels, in each window."""

    def __init__(self, sources: Tensor, gains: tuple[float, float] = (0.01, 300.0)) -> None:
        self.sources, self.gains, self.calls = sources, torch.tensor(gains)[:, None], 0
        self.places = {round(float(x), 6): at for at, x in enumerate(sources.sum(0).tolist())}

    def __call__(self, mixture: Tensor) -> Tensor:
        at = self.places[round(float(mixture[0, 0]), 6)]
        self.calls += 1
        made = (1 + self.calls % 3) * self.gains * self.sources[:, at : at + mixture.shape[1]]
        return (made.flip(0) if self.calls % 3 == 2 else made)[None]


def separated(mixture: Tensor, separate: Callable[[Tensor], Tensor], windows: Windows) -> Tensor:
    """(C, T) of a mixture (T,), as `-m predict` answers a long file: cut, each window at its level, joined in one order."""
    task = Separation(SeparationConfig(system="convtasnet"), DataConfig(), 0)
    rule = RULES[task.config.rescale]

    def blocks() -> Iterator[Block]:
        for first, piece in windows.cut(mixture.split(777), len(mixture)):
            made = rule(separate(piece[None])[0], piece)
            yield Block(first, piece, {f"source{number}": one for number, one in enumerate(made, start=1)})

    return torch.cat([torch.stack(list(part.values())) for part in task.join(blocks(), windows)], 1)


@pytest.mark.parametrize("size", [500, 1000, 4000])
def test_order_and_levels_are_kept_and_nothing_is_lost_at_any_length(size: int) -> None:
    sources = noise(2, 9000)
    sources[1] *= 10 ** (-20 / 20) * sources[0].norm() / sources[1].norm()
    for length in (size, size + 1, size * 3 // 2, size * 3 // 2 + 1, 2 * size - 1, 9000):
        own = sources[:, :length]
        made = separated(own.sum(0), Moody(sources), Windows(size, size / 2, 1))
        assert made.shape == (2, length)
        torch.testing.assert_close(made, own, atol=1e-5, rtol=1e-5)
    level = 20 * torch.log10(made[0].norm() / made[1].norm())
    assert float(level) == pytest.approx(20.0, abs=1e-3)


def test_three_speakers_who_change_places_from_window_to_window_are_kept_apart() -> None:
    sources = noise(3, 6000)
    orders = list(permutations(range(3)))
    turns = count()

    def shuffled(mixture: Tensor) -> Tensor:
        turn = next(turns)
        return sources[list(orders[turn % len(orders)]), 500 * turn : 500 * turn + 1000][None]

    made = separated(sources.sum(0), shuffled, Windows(1000, 500, 1))
    torch.testing.assert_close(made, sources, atol=1e-4, rtol=1e-4)
    assert next(turns) == 11


@pytest.mark.parametrize(("size", "hop"), [(1000, 250), (1000, 900), (64, 48)])
def test_any_hop_gives_the_same_level(size: int, hop: int) -> None:
    sources = noise(2, 3000)
    made = separated(sources.sum(0), Moody(sources), Windows(size, hop, 1))
    torch.testing.assert_close(made, sources, atol=1e-4, rtol=1e-4)


def test_the_order_stays_where_two_windows_share_silence() -> None:
    sources = noise(2, 3000)
    sources[:, 950:1550] = 0  # the whole of what the second and the third window share
    starts = iter((0, 500, 1000, 1500, 2000))

    def steady(mixture: Tensor) -> Tensor:
        """In another order from the second window on."""
        at = next(starts)
        return (sources if at == 0 else sources.flip(0))[None, :, at : at + 1000]

    torch.testing.assert_close(separated(sources.sum(0), steady, Windows(1000, 500, 1)), sources, atol=1e-4, rtol=1e-4)


def test_silence_stays_silence() -> None:
    def halves(mixture: Tensor) -> Tensor:
        return torch.stack([mixture, mixture], 1) / 2

    made = separated(torch.zeros(2500), halves, Windows(1000, 500, 1))
    assert made.shape == (2, 2500) and bool((made == 0).all())
    assert list(join([])) == []


def test_windows_of_less_than_two_samples_are_refused() -> None:
    with pytest.raises(UsageError, match=r"window_seconds 0\.0001 is less than two samples"):
        validate(SeparationConfig, {"window_seconds": 1e-4, "rate": 8000})


class Recorded:
    """The separator of the fixtures: it swaps its outputs in every third call."""

    calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        made = torch.stack([x, 0.5 * torch.roll(x, 3, -1) - 2 * x.square()], 1)
        return made.flip(1) if self.calls % 3 == 0 else made


def test_overlap_add_in_asteroids_form_is_asteroids(shared: Path) -> None:
    folder = shared / "parity/separation/inference"
    arrays, cases = np.load(folder / "inference.npz"), json.loads((folder / "inference.json").read_text())["ola"]
    mixture = torch.from_numpy(arrays["ola_in"])[:, 0]
    for name, case in cases.items():
        size, hop = case["window_size"], case["hop_size"] or case["window_size"] // 2
        made = overlap_add(
            mixture, Recorded(), size, hop, hann=case["window"] == "hann", reordered=case["reorder_chunks"]
        )
        torch.testing.assert_close(made, torch.from_numpy(arrays[f"ola_{name}"]), atol=1e-6, rtol=0)


def test_levels_are_those_of_other_projects_rules() -> None:
    estimates, mixture = (torch.from_numpy(SIGNALS[f"rescale_{name}"]) for name in ("est", "mix"))
    for name, rule in {"jusper": by_peak, "asteroid": by_sum, "lstsq": least_squares}.items():
        torch.testing.assert_close(rule(estimates, mixture), torch.from_numpy(SIGNALS[f"rescale_{name}"]))


def test_sources_are_made_to_add_up_as_asteroid_does() -> None:
    estimates, mixture = (torch.from_numpy(SIGNALS[f"rescale_{name}"]) for name in ("est", "mix"))
    by_power = consistent(estimates, mixture, powers(estimates))
    torch.testing.assert_close(by_power, torch.from_numpy(SIGNALS["mixcons_uniform"])[0])  # its default
    given = consistent(estimates, mixture, torch.tensor([0.3, 0.7]))
    torch.testing.assert_close(given, torch.from_numpy(SIGNALS["mixcons_weighted_0.3_0.7"])[0])
    for made in (by_power, given, consistent(estimates, mixture)):
        torch.testing.assert_close(made.sum(0), mixture)


def test_least_squares_gives_back_levels_that_a_loss_could_not_see() -> None:
    sources = noise(4, 3, 2000)
    estimates = sources * torch.tensor([0.01, 300.0, -1e-4])[:, None]
    torch.testing.assert_close(least_squares(estimates, sources.sum(1)), sources, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_silent_sources_stay_silent_and_harm_no_other(rule: str) -> None:
    sources = noise(2, 500)
    sources[1] = 0
    made = RULES[rule](sources, sources.sum(0))
    torch.testing.assert_close(made, sources)
    assert bool((RULES[rule](0 * sources, sources.sum(0)) == 0).all())
    assert bool(powers(0 * sources).isfinite().all())


def test_two_estimates_of_one_source_share_its_level() -> None:
    x = noise(500)
    gains = least_squares_gains(torch.stack([x, 2 * x]), x)
    assert float(gains @ torch.tensor([1.0, 2.0], dtype=torch.float64)) == pytest.approx(1.0)
    assert bool((gains.abs() < 1).all())
