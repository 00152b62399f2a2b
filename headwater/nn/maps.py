"""Maps (B, C, T, F), channels over time and frequency, that give an utterance the same values alone and in a padded batch.

They are laid out with channels last, which halves the time of convolutions on a CPU. `lengths` (B,) are valid steps of time, or None where all T are valid in
all rows: then nothing has to be masked.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from headwater.nn.lengths import mask


def as_map(frames: Tensor) -> Tensor:
    """(B, T, F) -> (B, 1, T, F), in the layout that what follows keeps."""
    return frames[..., None].permute(0, 3, 1, 2)


def silence_maps(x: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, C, T, F) with zeros beyond the lengths, as a convolution sees beyond the end of an utterance alone."""
    return x if lengths is None else x.masked_fill(~mask(lengths, x.shape[2])[:, None, :, None], 0.0)


def max_feature_map(x: Tensor) -> Tensor:
    """(B, 2 C, ...) -> (B, C, ...): the larger of two channels, one of each half (https://arxiv.org/abs/1511.02683)."""
    one, other = x.chunk(2, 1)
    return torch.where(one > other, one, other)  # a gradient in half the time of that of torch.maximum


class MapBatchNorm(nn.BatchNorm2d):
    """Batch norm whose statistics, in training, are those of valid time. A batch of one value a channel has no variance: it is normalised as in evaluation."""

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if not self.training:
            return super().forward(x)
        valid = None if lengths is None else mask(lengths, x.shape[2])
        rows = x if valid is None else x.permute(0, 2, 3, 1)[valid].flatten(0, 1)[..., None, None]
        if rows.numel() == rows.shape[1]:
            return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        rows = super().forward(rows)
        if valid is None:
            return rows
        y = rows.new_zeros(len(x), *x.shape[2:], x.shape[1])
        y[valid] = rows.view(-1, *y.shape[2:])
        return y.permute(0, 3, 1, 2)
