"""Depthwise convolutions over time, fast on CPUs.

torch's takes about twice as long, or more, as the few multiplications and additions of whole rows that it stands for (`bench/separation.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Depthwise(nn.Module):
    """A convolution of each channel with its own kernel, as many frames out as in: zeros stand before the first and, unless causal, after the last.

    A kernel of even size reaches one step further ahead than back.
    """

    def __init__(self, channels: int, kernel: int, dilation: int, *, causal: bool, bias: bool) -> None:
        super().__init__()
        # Weights as in torch's own, for its initial values and the keys of foreign files.
        made = nn.Conv1d(channels, channels, kernel, groups=channels, bias=bias)
        self.weight, self.bias = made.weight, made.bias
        self.dilation = dilation
        self.reach = (kernel - 1) * dilation
        self.before = self.reach if causal else self.reach // 2

    def forward(self, x: Tensor, *, after: int | None = None) -> Tensor:
        """(B, C, K) -> (B, C, K); with `after`, zeros that stand behind the last frame, K + before + after - reach frames."""
        return self._convolve(x, self.before, self.reach - self.before if after is None else after)

    def stream(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """The next frames (B, C, K), the `reach` frames before them (zeros at first) -> as many, and the context of what comes then."""
        seen = torch.cat([context, x], 2)
        return self._convolve(seen, 0, 0), seen[:, :, x.shape[2] :]

    def _convolve(self, x: Tensor, before: int, after: int) -> Tensor:
        if x.device.type == "cpu":
            weight, bias = self.weight[:, 0].to(x.dtype), self.bias
            y: Tensor = _Shifted.apply(x, weight, self.dilation, before, after)  # type: ignore[no-untyped-call]
            return y if bias is None else y + bias.to(x.dtype)[:, None]
        padded = functional.pad(x, (before, after)) if before != after else x
        padding = before if before == after else 0
        return functional.conv1d(padded, self.weight, self.bias, 1, padding, self.dilation, x.shape[1])


class _Shifted(torch.autograd.Function):
    """Sums of shifted rows, each times one tap of the kernels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: int, before: int, after: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.framing = dilation, before
        frames = x.shape[2] + before + after - (weight.shape[1] - 1) * dilation
        y = x.new_zeros(*x.shape[:2], max(0, frames))
        for tap, out, seen in _overlaps(weight.shape[1], dilation, before, y.shape[2], x.shape[2]):
            y[:, :, out].addcmul_(x[:, :, seen], weight[:, tap, None])
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dilation, before = ctx.framing
        along, across = torch.zeros_like(x), torch.zeros_like(weight)
        for tap, out, seen in _overlaps(weight.shape[1], dilation, before, gradient.shape[2], x.shape[2]):
            along[:, :, seen].addcmul_(gradient[:, :, out], weight[:, tap, None])
            across[:, tap] = (gradient[:, :, out] * x[:, :, seen]).sum((0, 2))
        return along, across, None, None, None


def _overlaps(kernel: int, dilation: int, before: int, outputs: int, inputs: int) -> Iterator[tuple[int, slice, slice]]:
    """For each tap that meets input: the outputs it has a part in, and the inputs that it takes there."""
    for tap in range(kernel):
        shift = tap * dilation - before
        first, last = max(0, -shift), min(outputs, inputs - shift)
        if first < last:
            yield tap, slice(first, last), slice(first + shift, last + shift)
