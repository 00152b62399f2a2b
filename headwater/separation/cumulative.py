"""The cumulative layer norm: each frame is normalised by all channels of all frames up to it (the cLN of https://arxiv.org/abs/1809.07454; asteroid's cgLN).

Sums over time are float64, so that hours do not drift, and a gradient of its own keeps it as cheap as a norm over the whole utterance.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Statistics(NamedTuple):
    """Of each frame and all before it, (B, K) float64: how many, their mean, one over their deviation; `clamped` where rounding made it less than nothing.

    `state` is what `statistics` takes for the frames that follow.
    """

    number: Tensor
    mean: Tensor
    scale: Tensor
    clamped: Tensor
    state: Tensor


def statistics(x: Tensor, state: Tensor, eps: float) -> Statistics:
    """Of frames (B, C, K) float32 that follow those of `state` (B, 3): frames seen, the sum of their means and the sum of their mean squares."""
    channels = x.shape[1]
    centre = x.sum(1, keepdim=True) / channels
    # Squares of what is centred: the difference of two large sums would lose the variance of frames that are almost constant.
    spread = (x - centre).square_().sum(1).double() / channels
    means = centre[:, 0].double()
    count = state[:, :1] + torch.arange(1, x.shape[2] + 1, device=x.device, dtype=torch.float64)
    first = state[:, 1:2] + means.cumsum(1)
    second = state[:, 2:] + (spread + means.square()).cumsum(1)
    mean = first / count
    variance = second / count - mean.square()
    scale = torch.rsqrt(variance.clamp(min=0) + eps)
    kept = torch.stack([count[:, -1], first[:, -1], second[:, -1]], 1)
    return Statistics(count, mean, scale, variance < 0, kept)


def normalise(x: Tensor, known: Statistics, weight: Tensor, bias: Tensor) -> Tensor:
    """(B, C, K) float32 -> the same."""
    y = torch.addcmul((-known.mean * known.scale).float()[:, None], x, known.scale.float()[:, None])
    return torch.addcmul(bias[:, None], y, weight[:, None])


class _Cumulative(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        known = statistics(x, x.new_zeros(len(x), 3, dtype=torch.float64), eps)
        ctx.save_for_backward(x, weight, *known[:4])
        return normalise(x, known, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, count, mean, scale, clamped = ctx.saved_tensors
        product = gradient * x
        # Sums over channels, of what the normalised frames' gradient is.
        rows = weight.expand(len(x), 1, -1)
        plain, times = (torch.bmm(rows, part)[:, 0].double() for part in (gradient, product))
        variance = (-0.5 * scale**3 * (times - mean * plain)).masked_fill(clamped, 0.0)
        centre = -scale * plain - 2 * mean * variance
        # A frame has a part in the sums of all that follow it.
        along, square = (_from_end(part / count).float()[:, None] / x.shape[1] for part in (centre, variance))
        back = torch.addcmul(along, x, 2 * square)
        back.addcmul_(gradient, weight[:, None] * scale.float()[:, None])
        gain = product @ scale.float()[:, :, None] - gradient @ (mean * scale).float()[:, :, None]
        return back, gain.sum((0, 2)), gradient.sum((0, 2)), None


def _from_end(x: Tensor) -> Tensor:
    """(B, K): sums of each element and all that follow it."""
    return x.flip(1).cumsum(1).flip(1)


class CumulativeNorm(nn.Module):
    """Frames are (B, C, K). It needs no lengths: nothing that follows a frame has a part in it."""

    def __init__(self, channels: int, *, affine: bool = True, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps = eps
        for name, value in {"weight": torch.ones(channels), "bias": torch.zeros(channels)}.items():
            if affine:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value, persistent=False)

    weight: Tensor
    bias: Tensor

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        y: Tensor = _Cumulative.apply(x.float(), self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        return y.type_as(x)

    def stream(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """The next frames (B, C, K), and what is known of those before (B, 3), None at first -> the same frames normalised, and what is known then."""
        before = x.new_zeros(len(x), 3, dtype=torch.float64) if state is None else state
        known = statistics(x, before, self.eps)
        return normalise(x, known, self.weight, self.bias), known.state
