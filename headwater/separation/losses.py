"""How like sources and estimates are, all pairs at once, and which estimate is which source.

Everything comes of one matrix of inner products a mixture: with E the estimates and S the sources, G = E S^T and the energies |e|^2, |s|^2 say every distance
and every projection, in O(C^2 T) multiplications and without a tensor of (B, C, C, T). Products are float64: the difference |e|^2 |s|^2 - G^2 has few digits of
its own.

Signals are (B, C, T), of B mixtures with C sources; `lengths` (B,) are valid samples, what lies beyond them is never looked at. A pair (i, j) is estimate i
against source j; a permutation (B, C) says, for each source, which estimate is it: `reorder(estimates, permutation)[b, j]` stands for source j.

1e-8 is added to energies and ratios, as in asteroid and most training code, so that a silent source or estimate has -80 dB, not infinity.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import permutations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headwater.nn.lengths import mask

EPS = 1e-8
_LEAST = 1e-10  # of an energy of 1
EXHAUSTIVE = 3  # sources, up to which all orders are tried


class Gram(NamedTuple):
    """Inner products, float64: of estimates with sources (B, C, C), and energies of estimates and sources (B, C). `span` (B,): samples they run over."""

    products: Tensor
    estimates: Tensor
    sources: Tensor
    span: Tensor


def gram(estimates: Tensor, sources: Tensor, lengths: Tensor | None = None, *, zero_mean: bool = True) -> Gram:
    """Of signals (B, C, T), whose means over valid samples are taken off unless told otherwise (their numbers may differ)."""
    count, samples = estimates.shape[1:]
    kind = torch.promote_types(torch.promote_types(estimates.dtype, sources.dtype), torch.float32)
    signals = torch.cat([estimates.to(kind), sources.to(kind)], 1)
    span = torch.full((len(signals),), samples, device=signals.device) if lengths is None else lengths
    if lengths is not None:
        signals = signals.masked_fill(~mask(lengths, samples)[:, None], 0.0)
    products: Tensor = _Products.apply(signals)  # type: ignore[no-untyped-call]
    if zero_mean:
        # <x - m_x, y - m_y> = <x, y> - T m_x m_y: no centred copy of the signals is made.
        means = signals.sum(2, dtype=torch.float64) * span.double()[:, None].rsqrt()
        products = products - means[:, :, None] * means[:, None]
    energies = products.diagonal(dim1=1, dim2=2).clamp(min=0)
    return Gram(products[:, :count, count:], energies[:, :count], energies[:, count:], span)


class _Products(torch.autograd.Function):
    """All inner products (B, C, C) float64 of signals (B, C, T) with each other; their gradient in the signals' own type, which it is no less exact in."""

    @staticmethod
    def forward(ctx: Any, signals: Tensor) -> Tensor:
        ctx.save_for_backward(signals)
        wide = signals.double()
        return wide @ wide.transpose(1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (signals,) = ctx.saved_tensors
        both: Tensor = (gradient + gradient.transpose(1, 2)).to(signals.dtype)
        return both @ signals


def squared_error(g: Gram) -> Tensor:
    """(B, C, C): |e - s|^2."""
    return (g.estimates[:, :, None] - 2 * g.products + g.sources[:, None]).clamp(min=0)


def si_snr(g: Gram, eps: float = EPS) -> Tensor:
    """(B, C, C) dB: the energy of the estimate's projection on the source over that of the rest. Blind to scale and sign (https://arxiv.org/abs/1811.02508)."""
    target, rest = _projection(g, eps)
    return _decibels(target, rest, eps)


def si_sdr(g: Gram) -> Tensor:
    """(B, C, C) dB: `si_snr` as a score, of signals brought to an energy of 1, so that no level is too low. From -100 dB, which is silence, to 100 dB."""
    heard = [(energies > 0).to(energies) for energies in (g.estimates, g.sources)]
    levels = (g.estimates[:, :, None] * g.sources[:, None]).sqrt()
    products = torch.where(levels > 0, g.products / levels, torch.zeros_like(levels)).clamp(-1, 1)
    return si_snr(Gram(products, heard[0], heard[1], g.span), _LEAST)


def sd_sdr(g: Gram, eps: float = EPS) -> Tensor:
    """(B, C, C) dB: the same energy over that of the whole error, so that a wrong scale counts."""
    return _decibels(_projection(g, eps)[0], squared_error(g), eps)


def snr(g: Gram, eps: float = EPS, most: float | None = None) -> Tensor:
    """(B, C, C) dB: the source's energy over the error's. With `most` it stays below so many dB: a smaller error does not count (https://arxiv.org/abs/2006.12701)."""
    source = g.sources[:, None].expand_as(g.products)
    error = squared_error(g)
    return _decibels(source, error if most is None else error + 10 ** (-most / 10) * source, eps)


def _projection(g: Gram, eps: float) -> tuple[Tensor, Tensor]:
    """Energies of an estimate's part along a source, and of what is left of it."""
    along = g.products / (g.sources[:, None] + eps)
    target = along.square() * g.sources[:, None]
    return target, (g.estimates[:, :, None] - 2 * along * g.products + target).clamp(min=0)


def _decibels(signal: Tensor, noise: Tensor, eps: float) -> Tensor:
    return 10 * torch.log10(signal / (noise + eps) + eps)


def sa_sdr(errors: Tensor, sources: Tensor, eps: float = EPS) -> Tensor:
    """Source-aggregated SDR of (B, C) squared errors and energies: (B,) dB, one fraction for all sources, finite with a silent one (https://arxiv.org/abs/2110.15581)."""
    return _decibels(sources.sum(1), errors.sum(1), eps)


@cache
def _orders(sources: int) -> Tensor:
    return torch.tensor(list(permutations(range(sources))))


def assign(cost: Tensor) -> Tensor:
    """The permutation (B, C) int64 with the least sum of costs (B, C, C): all orders up to three sources, in one batch; the Hungarian method for more."""
    cost = cost.detach()
    sources = cost.shape[2]
    if sources <= EXHAUSTIVE:
        orders = _orders(sources).to(cost.device)
        sums = cost[:, orders, torch.arange(sources, device=cost.device)].sum(2)
        return orders[sums.argmin(1)]
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    # A cost that is no number is a loss that is none, too, and the training loop's to report.
    rows = np.nan_to_num(cost.double().transpose(1, 2).cpu().numpy(), posinf=1e300, neginf=-1e300)
    return torch.as_tensor(np.stack([linear_sum_assignment(row)[1] for row in rows]), device=cost.device)


def chosen(pairs: Tensor, permutation: Tensor) -> Tensor:
    """(B, C, C), (B, C) -> (B, C): for each source the value of its own estimate."""
    return pairs.gather(1, permutation[:, None])[:, 0]


def reorder(estimates: Tensor, permutation: Tensor) -> Tensor:
    """(B, C, ...) in the order of the sources."""
    index = permutation.reshape(*permutation.shape, *[1] * (estimates.ndim - 2))
    return estimates.gather(1, index.expand(-1, -1, *estimates.shape[2:]))


class Fit(NamedTuple):
    """loss (B,) float32, the lower the better; permutation (B, C)."""

    loss: Tensor
    permutation: Tensor


def pit(
    estimates: Tensor,
    sources: Tensor,
    lengths: Tensor | None = None,
    *,
    kind: str = "si_snr",
    permutation: Tensor | None = None,
) -> Fit:
    """Permutation-invariant loss of each mixture (https://arxiv.org/abs/1703.06284), for the best order or for one that is given.

    kind: one of `KINDS`: minus dB (si_snr, sd_sdr, snr; the mean over sources), minus sa_sdr, or mse over valid samples.
    """
    zero_mean, pairs, total = KINDS[kind]
    g = gram(estimates, sources, lengths, zero_mean=zero_mean)
    cost = pairs(g)
    order = assign(cost) if permutation is None else permutation
    return Fit(total(chosen(cost, order), g).float(), order)


def _mean(costs: Tensor, g: Gram) -> Tensor:
    return costs.mean(1)


# Whether means are taken off; the cost of a pair, of which the order with the least sum is sought; the loss of a mixture by its costs (B, C).
KINDS: dict[str, tuple[bool, Callable[[Gram], Tensor], Callable[[Tensor, Gram], Tensor]]] = {
    "si_snr": (True, lambda g: -si_snr(g), _mean),
    "sd_sdr": (True, lambda g: -sd_sdr(g), _mean),
    "snr": (False, lambda g: -snr(g), _mean),
    "snr30": (False, lambda g: -snr(g, most=30.0), _mean),
    "sa_sdr": (False, squared_error, lambda costs, g: -sa_sdr(costs, g.sources)),
    "mse": (False, squared_error, lambda costs, g: costs.mean(1) / g.span),
}


def masked_mse(masks: Tensor, mixture: Tensor, targets: Tensor, frames: Tensor | None = None) -> Fit:
    """PIT of masks on spectra: the squared error of mask times mixture against targets, summed over bins and divided by valid frames, mean over sources.

    Args:
        masks, targets: (B, C, K, F). mixture: (B, K, F) magnitudes. frames: (B,) valid ones.
    """
    bins = masks.shape[3]
    lengths = None if frames is None else frames * bins
    g = gram((masks * mixture[:, None]).flatten(2), targets.flatten(2), lengths, zero_mean=False)
    cost = squared_error(g)
    order = assign(cost)
    return Fit((chosen(cost, order).mean(1) * bins / g.span).float(), order)
