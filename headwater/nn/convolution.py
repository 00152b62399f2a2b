"""Convolutions over time that give an utterance the same frames alone and in a padded batch.

Frames are (B, C, T) here. `lengths` (B,) are valid frames, or None where all T are valid in all rows: then nothing has to be masked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from headwater.nn.lengths import mask

Activation = Callable[[Tensor], Tensor]


class Window(NamedTuple):
    """One convolution's view of time, in its input frames."""

    kernel: int
    stride: int = 1
    padding: int = 0


def needed(windows: Sequence[Window], frames: int = 1) -> int:
    """The fewest input frames of which a chain of convolutions makes `frames`."""
    for window in reversed(windows):
        frames = max(1, (frames - 1) * window.stride + window.kernel - 2 * window.padding)
    return frames


def timing(windows: Sequence[Window]) -> tuple[int, float]:
    """Input frames between output frames, and the centre of output frame 0, in input frames from the edge of frame 0."""
    stride, span, before = 1, 1, 0
    for window in windows:
        span += (window.kernel - 1) * stride
        before += window.padding * stride
        stride *= window.stride
    return stride, span / 2 - before


def output_lengths(lengths: Tensor, window: Window) -> Tensor:
    """(B,) input frames -> (B,) output frames."""
    return (lengths + 2 * window.padding - window.kernel) // window.stride + 1


def where_padded(x: Tensor, lengths: Tensor) -> Tensor | None:
    """The lengths of (B, C, T), or None where nothing is padded."""
    return None if bool((lengths == x.shape[2]).all()) else lengths


def silence_beyond(x: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, C, T) with zeros beyond the lengths, as a convolution sees beyond the end of an utterance alone."""
    return x if lengths is None else x.masked_fill(~mask(lengths, x.shape[2])[:, None], 0.0)


class TimeNorm(nn.Module):
    """Group norm whose statistics run over valid time, too (https://arxiv.org/abs/1803.08494). Computed in float32."""

    def __init__(self, groups: int, channels: int, *, affine: bool = True, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        if lengths is None:
            # torch.nn's would refuse a single frame, which has a norm all the same: zero.
            return torch.group_norm(x.float(), self.groups, self.weight, self.bias, self.eps).type_as(x)
        grouped = x.float().unflatten(1, (self.groups, -1))
        valid = mask(lengths, x.shape[2])[:, None, None].to(grouped)
        count = lengths.to(grouped)[:, None, None, None] * grouped.shape[2]
        mean = (grouped * valid).sum((2, 3), keepdim=True) / count
        centred = (grouped - mean) * valid
        variance = centred.square().sum((2, 3), keepdim=True) / count
        y = (centred * torch.rsqrt(variance + self.eps)).flatten(1, 2)
        if self.weight is not None and self.bias is not None:
            y = y * self.weight[:, None] + self.bias[:, None]
        return y.type_as(x)


class ChannelNorm(nn.Module):
    """Every frame is normalised over its channels; `unbiased` divides by one channel less (CPC_audio)."""

    def __init__(self, channels: int, *, unbiased: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        self.unbiased, self.eps = unbiased, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        frames = x.float()
        variance, mean = torch.var_mean(frames, 1, correction=int(self.unbiased), keepdim=True)
        y = (frames - mean) * torch.rsqrt(variance + self.eps) * self.weight[:, None] + self.bias[:, None]
        return y.type_as(x)


class FrameBatchNorm(nn.BatchNorm1d):
    """Batch norm whose statistics, in training, are those of valid frames; `total`, where it is set, sums over the processes that train together."""

    total: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if self.training and self.total is not None:
            return self._together(x, lengths, self.total)
        if not self.training or lengths is None:
            return super().forward(x)
        valid = mask(lengths, x.shape[2])
        y = torch.zeros_like(x.transpose(1, 2))
        y[valid] = super().forward(x.transpose(1, 2)[valid])
        return y.transpose(1, 2)

    def _together(self, x: Tensor, lengths: Tensor | None, total: Callable[[Tensor], Tensor]) -> Tensor:
        frames = x.float()
        valid = (
            frames.new_ones(len(x), 1, x.shape[2]) if lengths is None else mask(lengths, x.shape[2])[:, None].to(frames)
        )
        count = total(valid.sum())
        mean = total((frames * valid).sum((0, 2))) / count
        centred = (frames - mean[:, None]) * valid
        variance = total(centred.square().sum((0, 2))) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            self.running_mean.lerp_(mean, self.momentum)  # type: ignore[union-attr, arg-type]
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)  # type: ignore[union-attr, arg-type]
        y = centred * torch.rsqrt(variance + self.eps)[:, None] * self.weight[:, None] + self.bias[:, None]
        return (y * valid).type_as(x)


class ConvLayer(nn.Module):
    """Convolution, dropout, norm, activation. `norm` takes (x, lengths)."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        window: Window,
        *,
        bias: bool,
        norm: nn.Module | None,
        activation: Activation,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.window = window
        self.conv = nn.Conv1d(in_dim, out_dim, window.kernel, window.stride, window.padding, bias=bias)
        self.dropout = nn.Dropout(dropout)
        self.norm = norm
        self.activation = activation

    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(B, C, T), (B,) -> (B, C', T'), (B,)."""
        # Without padding, no valid output frame sees anything invalid.
        x = self.conv(silence_beyond(x, lengths) if self.window.padding else x)
        lengths = None if lengths is None else output_lengths(lengths, self.window)
        x = self.dropout(x)
        return self.activation(x if self.norm is None else self.norm(x, lengths)), lengths


def ready(samples: Tensor, lengths: Tensor, windows: Sequence[Window]) -> tuple[Tensor, Tensor, Tensor | None]:
    """What a chain of convolutions on waveforms starts from.

    Waveforms (B, T, 1) and (B,) -> (B, 1, T'), where each has at least as many samples, zeros at its end, as one frame needs; the lengths of the frames
    (B,); and the lengths of the waveforms (B,), or None where nothing is padded.
    """
    least = needed(windows)
    x = silence_beyond(samples.transpose(1, 2), where_padded(samples.transpose(1, 2), lengths))
    if x.shape[2] < least:
        x = functional.pad(x, (0, least - x.shape[2]))
    lengths = lengths.clamp(min=least)
    frames = lengths
    for window in windows:
        frames = output_lengths(frames, window)
    return x, frames, where_padded(x, lengths)


def frame_counts(samples: Tensor, windows: Sequence[Window]) -> Tensor:
    """(B,) samples -> (B,) frames, at least 1."""
    lengths = samples.clamp(min=needed(windows))
    for window in windows:
        lengths = output_lengths(lengths, window)
    return lengths
