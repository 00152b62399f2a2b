"""The level of separated sources, which a loss that is blind to scale leaves open. Signals are (..., C, T), mixtures (..., T)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_RIDGE = 1e-10  # of the mean energy: gains of sources that are (nearly) silent or alike stay small


def least_squares(estimates: Tensor, mixture: Tensor) -> Tensor:
    """The sources under the gains of which their sum comes nearest to the mixture: the one rule after which what is left of it means something."""
    return estimates * least_squares_gains(estimates, mixture)[..., None].to(estimates.dtype)


def least_squares_gains(estimates: Tensor, mixture: Tensor) -> Tensor:
    """(..., C) float64: of all g the one with the least |mixture - sum g_k s_k|; 0 for a silent source. A negative gain turns a source over."""
    s, x = estimates.double(), mixture.double()
    # Levels may lie a factor of millions apart: each source has an energy of one in the equations.
    levels = torch.linalg.vector_norm(s, dim=-1)
    scale = torch.where(levels > 0, 1 / levels, torch.zeros_like(levels))
    s = s * scale[..., None]
    products = s @ s.transpose(-1, -2) + _RIDGE * torch.eye(s.shape[-2], dtype=s.dtype, device=s.device)
    gains: Tensor = torch.linalg.solve(products, (s @ x[..., None])[..., 0])
    return gains * scale


def by_peak(estimates: Tensor, mixture: Tensor) -> Tensor:
    """Each source as loud as the mixture, by their peaks (JusperLee, LibriMix). The levels between sources are lost."""
    return estimates * _over(mixture.abs().amax(-1)[..., None, None], estimates.abs().amax(-1, keepdim=True))


def by_sum(estimates: Tensor, mixture: Tensor) -> Tensor:
    """One gain for all sources, so that their absolute values add up to the mixture's (asteroid)."""
    return estimates * _over(mixture.abs().sum(-1)[..., None, None], estimates.abs().sum((-2, -1), keepdim=True))


def unchanged(estimates: Tensor, mixture: Tensor) -> Tensor:
    """As they are, for models that were trained with a loss that sees the scale."""
    return estimates


def consistent(estimates: Tensor, mixture: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sources that add up to the mixture: what is missing is dealt among them (https://arxiv.org/abs/1811.08521).

    weights: (..., C), adding up to one; equal shares when not given; `powers` gives those by energy.
    """
    missing = (mixture - estimates.sum(-2))[..., None, :]
    return estimates + missing * (1 / estimates.shape[-2] if weights is None else weights[..., None])


def powers(estimates: Tensor) -> Tensor:
    """(..., C): each source's share of the energy; equal shares of silence."""
    energies = estimates.square().sum(-1)
    total = energies.sum(-1, keepdim=True)
    return torch.where(total > 0, energies / total, torch.full_like(energies, 1 / estimates.shape[-2]))


def _over(above: Tensor, below: Tensor) -> Tensor:
    """A quotient; 0 where nothing is below, which is silence."""
    return torch.where(below > 0, above / below, torch.zeros_like(below))


RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "least_squares": least_squares,
    "peak": by_peak,
    "sum": by_sum,
    "unchanged": unchanged,
}
