"""Lengths, masks and time: the one place where frames and samples meet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mask(lengths: Tensor, size: int) -> Tensor:
    """(B,) valid counts -> (B, size) bool, true where valid."""
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]


def pad(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Tensors (T_i, ...) of equal trailing shape -> (B, max T, ...) filled with zeros, and lengths (B,) int64."""
    lengths = torch.tensor([len(item) for item in sequences], device=sequences[0].device)
    if len(sequences) == 1:
        return sequences[0][None], lengths
    return torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True), lengths


def zero_beyond(x: Tensor, lengths: Tensor) -> Tensor:
    """(B, T, D) with what lies beyond each length set to zero."""
    return x.masked_fill(~mask(lengths, x.shape[1])[:, :, None], 0.0)


def frame_index(centres: Tensor, lengths: Tensor, stride: int, offset: float) -> Tensor:
    """The frame that lies nearest in time to each label.

    Parameters
    ----------
    centres: (B, L) int64, centres of the labels in samples.
    lengths: (B,) int64, valid frames.
    stride, offset: samples between frames, and the centre of frame 0 in samples (a multiple of one half).

    Returns (B, L) int64: `clamp(round((centre - offset) / stride), 0, length - 1)`, in integers, a tie going to the later frame.
    """
    doubled = 2 * centres - round(2 * offset)
    index = torch.div(doubled + stride, 2 * stride, rounding_mode="floor")
    return torch.minimum(index.clamp(min=0), lengths[:, None] - 1)
