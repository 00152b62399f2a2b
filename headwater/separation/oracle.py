"""Masks of those who know the sources: bounds for masking systems, and a check of everything around them.

The paper of Conv-TasNet takes 32 ms windows, 8 ms apart: `Stft(256, 64)` at 8 kHz.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from headwater.errors import UsageError, nearest
from headwater.separation.spectrum import Stft

_EPS = 1e-12


def oracle_masks(kind: str, sources: Tensor, mixture: Tensor) -> Tensor:
    """Masks (..., C, K, F) of source spectra (..., C, K, F) for a mixture spectrum (..., K, F), both complex. `UsageError` for an unknown kind.

    IBM: 1 where a source is the loudest. IRM: its share of the magnitudes. WFM: its share of the powers. IAM: its magnitude over the mixture's.
    PSM: that times the cosine of the angle between them (phase-sensitive, Erdogan et al. 2015); NPSM: without its negative part; TPSM: cut to 0 and 1.
    """
    if kind not in MASKS:
        raise UsageError(f"{kind!r} is no oracle mask; they are {', '.join(MASKS)}.{nearest(kind, list(MASKS))}")
    return MASKS[kind](sources, mixture.unsqueeze(-3))


def oracle(kind: str, sources: Tensor, mixture: Tensor, stft: Stft) -> Tensor:
    """What a mask that is known gives: estimates (..., C, T) of sources (..., C, T) from a mixture (..., T)."""
    spectrum = stft.analyse(mixture)
    masks = oracle_masks(kind, stft.analyse(sources), spectrum)
    return stft.synthesise(masks * spectrum.unsqueeze(-3), mixture.shape[-1])


def _binary(sources: Tensor, mixture: Tensor) -> Tensor:
    loudest = sources.abs().argmax(-3, keepdim=True)
    index = torch.arange(sources.shape[-3], device=sources.device)[:, None, None]
    return (index == loudest).to(sources.real.dtype)


def _share(sources: Tensor, power: float) -> Tensor:
    levels = sources.abs() ** power
    return levels / (levels.sum(-3, keepdim=True) + _EPS)


def _along(sources: Tensor, mixture: Tensor) -> Tensor:
    """|S| cos(angle) / |X|, the real part of S / X."""
    return (sources * mixture.conj()).real / (mixture.abs().square() + _EPS)


MASKS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "IBM": _binary,
    "IRM": lambda sources, mixture: _share(sources, 1),
    "WFM": lambda sources, mixture: _share(sources, 2),
    "IAM": lambda sources, mixture: sources.abs() / (mixture.abs() + _EPS),
    "PSM": _along,
    "NPSM": lambda sources, mixture: _along(sources, mixture).clamp(min=0),
    "TPSM": lambda sources, mixture: _along(sources, mixture).clamp(0, 1),
}
