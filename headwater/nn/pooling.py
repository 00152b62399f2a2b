"""Frames -> one vector an utterance."""

from __future__ import annotations

from torch import Tensor

from headwater.nn.lengths import mask


def mean_pool(x: Tensor, lengths: Tensor) -> Tensor:
    """(B, T, D), (B,) -> (B, D): the mean over valid frames."""
    valid = mask(lengths, x.shape[1])[:, :, None]
    return x.masked_fill(~valid, 0.0).sum(1) / lengths[:, None].to(x.dtype)
