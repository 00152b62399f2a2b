"""A GRU layer for training on a CPU: torch's own adds up the gradient of its weights step by step, and takes some ten times as long."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence


def run(layer: nn.GRU, packed: PackedSequence) -> Tensor:
    """The output of one layer in one direction, as `layer(packed)[0].data`: (N, hidden)."""
    if not (torch.is_grad_enabled() and packed.data.device.type == "cpu"):
        return layer(packed)[0].data
    weights = (layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0)
    with torch.autocast("cpu", enabled=False):
        out: Tensor = _Gru.apply(packed.data.float(), packed.batch_sizes.tolist(), *weights)  # type: ignore[no-untyped-call]
        return out


class _Gru(torch.autograd.Function):
    """r, z = sigmoid of theirs; n = tanh(in + r * hidden); h' = n + z * (h - n). Frames are packed, step by step, the rows of each first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int], w: Tensor, u: Tensor, b: Tensor, c: Tensor) -> Tensor:
        given, hidden = torch.addmm(b, x, w.T), u.shape[1]
        gates, inner, before, out = (x.new_empty(len(x), dim) for dim in (2 * hidden, hidden, hidden, hidden))
        new = x.new_empty(len(x), hidden)
        h, start = x.new_zeros(sizes[0], hidden), 0
        for size in sizes:
            here, h = slice(start, start + size), h[:size]
            told = torch.addmm(c, h, u.T)
            both = torch.sigmoid(given[here, : 2 * hidden] + told[:, : 2 * hidden])
            r, z = both.chunk(2, 1)
            n = torch.tanh(given[here, 2 * hidden :] + r * told[:, 2 * hidden :])
            gates[here], inner[here], before[here], new[here] = both, told[:, 2 * hidden :], h, n
            h = torch.lerp(n, h, z)
            out[here] = h
            start += size
        ctx.save_for_backward(x, w, u, gates, inner, before, new)
        ctx.sizes = sizes
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, w, u, gates, inner, before, new = ctx.saved_tensors
        hidden = u.shape[1]
        r, z = gates.chunk(2, 1)
        to_new = (1 - z) * (1 - new * new)
        # What a change of h' is worth to each gate, of what is given and of what the hidden state tells; they differ in the last.
        given = torch.cat([to_new * inner * r * (1 - r), (before - new) * z * (1 - z), to_new], 1)
        told = torch.cat([given[:, : 2 * hidden], to_new * r], 1)
        carried, end = x.new_zeros(0, hidden), len(x)
        for size in reversed(ctx.sizes):
            here = slice(end - size, end)
            change = gradient[here].clone()
            change[: len(carried)] += carried
            for factors in (given, told):
                factors[here].view(size, 3, hidden).mul_(change[:, None])
            carried = torch.addmm(change * z[here], told[here], u)
            end -= size
        return given @ w, None, given.T @ x, told.T @ before, given.sum(0), told.sum(0)
