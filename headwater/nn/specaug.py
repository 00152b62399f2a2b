"""SpecAugment (https://arxiv.org/abs/1904.08779), without time warping."""

from __future__ import annotations

import torch
from torch import Tensor


def spec_augment(
    x: Tensor, lengths: Tensor, *, time_masks: int, time_width: int, frequency_masks: int, frequency_width: int
) -> Tensor:
    """(B, T, D) -> (B, T, D) with bands of frames and of dims set to zero, drawn for each utterance from torch's default generator.

    A time mask covers up to `time_width` frames, and at most the utterance; a frequency mask up to `frequency_width` dims.
    """
    batch, size, dims = x.shape
    keep = torch.ones(batch, size, dims, dtype=torch.bool, device=x.device)
    for count, width, extent, axis in (
        (time_masks, time_width, lengths, 1),
        (frequency_masks, frequency_width, torch.full_like(lengths, dims), 2),
    ):
        position = torch.arange(x.shape[axis], device=x.device)
        for _ in range(count):
            length = torch.minimum((torch.rand(batch, device=x.device) * (width + 1)).long(), extent)
            start = (torch.rand(batch, device=x.device) * (extent - length + 1)).long()
            band = (position >= start[:, None]) & (position < (start + length)[:, None])
            keep &= ~(band[:, :, None] if axis == 1 else band[:, None, :])
    return x * keep
