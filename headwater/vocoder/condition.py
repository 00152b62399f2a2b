"""From frames to samples: smoothed upsampling, and the condition module of the neural source-filter models.

Frames and samples are (B, C, T) inside. `lengths` (B,) are frames.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from headwater.nn.convolution import silence_beyond, where_padded
from headwater.nn.lengths import mask
from headwater.nn.recurrent import pack, unpack

Padding = Literal["zeros", "replicate"]


class Condition(NamedTuple):
    """What the filters get, at the rate of samples.

    Attributes:
        context: (B, C, samples).
        voiced: (B, samples), 1 where F0 is above 0, else 0.
        cut_off: (B, samples), of the sinc filters as a share of Nyquist; None where a model has fixed filters.
        frames: (B, C', T), the module's output before it is upsampled.
    """

    context: Tensor
    voiced: Tensor
    cut_off: Tensor | None
    frames: Tensor


def moving_average(x: Tensor, window: int, padding: Padding) -> Tensor:
    """(B, C, T) -> (B, C, T): the mean of `window` values, of which `(window - 1) // 2` lie before."""
    before = (window - 1) // 2
    around = functional.pad(x, (before, window - 1 - before), mode="constant" if padding == "zeros" else padding)
    return functional.avg_pool1d(around, window, stride=1)


def hold_beyond(x: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, C, T) whose last valid value stands beyond the lengths, too."""
    if lengths is None:
        return x
    last = x.gather(2, (lengths - 1)[:, None, None].expand(-1, x.shape[1], 1))
    return torch.where(mask(lengths, x.shape[2])[:, None], x, last)


class SmoothUpsample(nn.Module):
    """Each frame `factor` times, then two moving averages of `factor` samples.

    That is a quadratic spline: a sample depends on its own frame and the two beside it, so it is computed from frames, without the averages. Where they are
    padded with zeros, the second one misses what the first would have beyond the ends; this concerns the first and the last frame alone.
    """

    weight: Tensor
    at_start: Tensor
    at_end: Tensor

    def __init__(self, factor: int, padding: Padding) -> None:
        super().__init__()
        self.factor, self.padding = factor, padding
        unit = torch.eye(5, dtype=torch.float64)[:, None].repeat_interleave(factor, 2)
        held, cut = (
            moving_average(moving_average(unit, factor, kind), factor, kind)[:, 0].unflatten(1, (5, factor))
            for kind in ("replicate", "zeros")
        )
        self.register_buffer("weight", held[1:4, 2].T[:, None].float(), persistent=False)
        self.register_buffer("at_start", (held[2, 2] - cut[0, 0]).float(), persistent=False)
        self.register_buffer("at_end", (held[2, 2] - cut[4, 4]).float(), persistent=False)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, C, T) -> (B, C, T * factor)."""
        held = self.padding == "replicate"
        x = hold_beyond(x, lengths) if held else silence_beyond(x, lengths)
        around = functional.pad(x.flatten(0, 1)[:, None], (1, 1), mode="replicate" if held else "constant")
        y = functional.conv1d(around, self.weight).transpose(1, 2).unflatten(0, x.shape[:2])
        if not held:
            row = torch.arange(len(x), device=x.device)
            last = torch.full_like(row, x.shape[2] - 1) if lengths is None else lengths - 1
            y[:, :, 0] -= x[:, :, :1] * self.at_start
            y[row, :, last] -= x[row, :, last][:, :, None] * self.at_end
        return y.flatten(2)


class ConditionModule(nn.Module):
    """A BLSTM and a convolution over normalised mel and F0 frames, upsampled (Wang, Takaki & Yamagishi, IEEE/ACM TASLP 2020).

    Args:
        in_dim: of a frame, F0 being its last value.
        channels: of the context.
        hop: samples a frame.
        padding: of the moving averages: zeros in hn-nsf, the edge values in later models.
        cut_off: whether one more value a frame is the hidden cut-off of sinc filters.
        f0_in_context: whether the smoothed normalised F0 is the last channel of the context.
    """

    def __init__(
        self, in_dim: int, channels: int, hop: int, *, padding: Padding, cut_off: bool, f0_in_context: bool
    ) -> None:
        super().__init__()
        self.hop, self.cut_off, self.f0_in_context = hop, cut_off, f0_in_context
        out_dim = channels + cut_off - f0_in_context
        self.blstm = nn.LSTM(in_dim, channels // 2, bidirectional=True, batch_first=True)
        self.conv = nn.Conv1d(channels, out_dim, 3, padding=1)
        self.upsample = SmoothUpsample(hop, padding)

    def forward(self, features: Tensor, f0: Tensor, lengths: Tensor) -> Condition:
        """Normalised features (B, T, in_dim), F0 (B, T) in Hz, frames (B,)."""
        valid = where_padded(features.transpose(1, 2), lengths)
        recurrent = (
            self.blstm(features)[0]
            if valid is None
            else unpack(self.blstm(pack(features, lengths))[0], features.shape[1])
        )
        frames = torch.tanh(self.conv(recurrent.transpose(1, 2)))
        voiced = (f0 > 0).to(frames).repeat_interleave(self.hop, 1)
        if not self.cut_off:
            return Condition(self.upsample(frames, valid), voiced, None, frames)
        contexts = [frames[:, :-1], features[:, :, -1:].transpose(1, 2)] if self.f0_in_context else [frames[:, :-1]]
        upsampled = self.upsample(torch.cat([*contexts, frames[:, -1:]], 1), valid)
        hidden = 0.2 * upsampled[:, -1:] + 0.4 * voiced[:, None] + 0.3
        smooth = moving_average(
            hold_beyond(hidden, None if valid is None else valid * self.hop), 4 * self.hop, "replicate"
        )
        return Condition(upsampled[:, :-1], voiced, smooth[:, 0], frames)
