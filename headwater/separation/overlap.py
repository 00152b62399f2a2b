"""Separated windows of a sound as one: a generator in, a generator out, memory for one window.

A network does not say which of its outputs is whom, and may change its mind from window to window. So the sources of each take the order in which they fit
those of the window before, where the two overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from headwater.separation.losses import assign, gram, reorder

Separate = Callable[[Tensor], Tensor]  # (B, W) -> (B, C, W)

# An overlap that has so much less energy than its window says nothing of who is who: the order stays.
QUIET = 1e-4


def join(windows: Iterable[tuple[int, Tensor]]) -> Iterator[Tensor]:
    """Separated windows, each with the sample that it begins at, and its sources (C, W) -> the sources in consecutive stretches (C, m).

    Sources take the order in which they fit those of the window before. Windows are added under a fade, and divided by the sum of their fades, so that any hop
    gives the same level. Of no windows nothing comes.
    """
    tail: _Tail | None = None
    for first, sources in windows:
        fade = _fade(sources.shape[1], sources)
        if tail is None:
            tail = _Tail(first, sources, torch.arange(len(sources)), sources * fade, fade)
            continue
        final = first - tail.first
        order = _order(tail, sources, final)
        sources = sources[order.to(sources.device)]
        yield tail.summed[:, :final] / tail.weight[:final]
        grown = sources.shape[1] - (tail.summed.shape[1] - final)
        tail = _Tail(
            first,
            sources,
            order,
            functional.pad(tail.summed[:, final:], (0, grown)) + sources * fade,
            functional.pad(tail.weight[final:], (0, grown)) + fade,
        )
    if tail is not None:
        yield tail.summed / tail.weight


class _Tail(NamedTuple):
    """The last window: where it starts, its sources in the order of the output, that order, and what has been summed from its start on."""

    first: int
    sources: Tensor
    order: Tensor
    summed: Tensor
    weight: Tensor


def _fade(size: int, like: Tensor) -> Tensor:
    """(size,): how much each sample of a window counts, least at its ends, never nothing."""
    place = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    return (torch.pi * place).sin().square().to(like)


def _order(tail: _Tail, sources: Tensor, final: int) -> Tensor:
    """The order (C,) in which sources (C, W) fit those of the last window, by their correlation where the two overlap."""
    past = tail.sources[:, final:]
    if float(past.double().square().mean()) <= QUIET * float(tail.sources.double().square().mean()):
        return tail.order
    g = gram(sources[None, :, : past.shape[1]], past[None])
    levels = (g.estimates[:, :, None] * g.sources[:, None]).sqrt()
    alike = torch.where(levels > 0, g.products / levels, torch.zeros_like(levels))[0].cpu()
    # Where nothing speaks for another order, it stays.
    alike[tail.order, torch.arange(len(alike))] += 1e-6
    return assign(-alike[None])[0]


def overlap_add(
    mixture: Tensor, separate: Separate, size: int, hop: int, *, hann: bool = True, reordered: bool = True
) -> Tensor:
    """Asteroid's LambdaOverlapAdd, (B, T) -> (B, C, T), to compare with it: a window of zeros on both sides; order by inner products; no levels; windows are
    multiplied by a Hann window, or by hop over size, and summed, so that a Hann window a quarter apart doubles the level.
    """
    pieces = functional.pad(mixture, (size, size)).unfold(1, size, hop)
    shape = torch.hann_window(size, dtype=mixture.dtype) if hann else torch.full((size,), hop / size)
    made: list[Tensor] = []
    for piece in pieces.unbind(1):
        sources = separate(piece)
        if made and reordered:
            past, now = made[-1][..., hop:], sources[..., : size - hop]
            sources = reorder(sources, assign(-gram(now, past).products))
        made.append(sources * shape.to(sources))
    stacked = torch.stack(made, 2)
    span = (stacked.shape[2] - 1) * hop + size
    y = functional.fold(stacked.flatten(0, 1).transpose(1, 2), (1, span), (1, size), stride=(1, hop))
    y = functional.pad(y[:, 0, 0, size:], (0, max(0, size + mixture.shape[1] - span)))[:, : mixture.shape[1]]
    return y.unflatten(0, (len(mixture), -1))
