"""Where the random numbers of a source come from: generators, one an utterance, so that an utterance sounds the same alone and in any batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from headwater.nn.lengths import pad


class Draws(Protocol):
    """What a model asks for, in a fixed order that each source states. Tests and parity inject their own."""

    def uniform(self, channels: int) -> Tensor:
        """(B, channels) in [0, 1)."""

    def normal(self, lengths: Sequence[int], channels: int) -> Tensor:
        """(B, max of `lengths`, channels), standard normal; zero beyond each length."""


class Seeded:
    """Draws of one generator an utterance. Each makes its own utterance's numbers alone, on its own device."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = tuple(generators)

    @classmethod
    def of(cls, seeds: Sequence[int], device: torch.device | str = "cpu") -> Seeded:
        """Generators with these seeds, one an utterance. The CPU's give the same numbers everywhere."""
        return cls([torch.Generator(device).manual_seed(seed) for seed in seeds])

    def uniform(self, channels: int) -> Tensor:
        return torch.stack([torch.rand(channels, generator=one, device=one.device) for one in self.generators])

    def normal(self, lengths: Sequence[int], channels: int) -> Tensor:
        rows = [
            torch.randn(length, channels, generator=one, device=one.device)
            for one, length in zip(self.generators, lengths, strict=True)
        ]
        return pad(rows)[0]
