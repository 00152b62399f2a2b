"""Filters of the neural source-filter models: dilated blocks, and how harmonic and noise branch become one signal.

Signals are (B, samples), contexts (B, C, samples). All is causal, so what lies beyond an utterance never changes it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from headwater.vocoder.condition import Condition

# Halves of symmetric low-pass filters for voiced and unvoiced frames, centre last; the high-pass filters are these, modulated to Nyquist.
_LOW_VOICED = (
    0.08538414199291068,
    0.04920229475534168,
    -0.1470178606967731,
    0.24737764593887432,
    0.7103067853166558,
)
_LOW_UNVOICED = (
    0.00936455546502,
    0.0416254862901,
    0.0878313219556,
    0.146086321198,
    0.192602581136,
    0.211221591449,
)
_SINC_HALF = 15
_PIECE = (
    2**15
)  # samples filtered at once where nothing is trained: long files then need little more memory than short ones, and stay in caches


class FilterBlock(nn.Module):
    """Dilated causal convolutions that share a context, then a mix down to one channel which is added to the signal.

    Args:
        residual: whether the input is added, and the last layer squashed.
        bias: of all layers.
    """

    scale: Tensor

    def __init__(self, layers: int, channels: int, *, bias: bool, residual: bool = True) -> None:
        super().__init__()
        self.residual = residual
        self.reach = 2 * (2**layers - 1)  # samples of the past that a sample hears
        self.register_buffer("scale", torch.tensor([0.1]))
        self.expand = nn.Linear(1, channels, bias=bias)
        self.convs = nn.ModuleList(
            nn.Conv1d(channels, channels, 3, dilation=2**layer, bias=bias) for layer in range(layers)
        )
        self.squeeze = nn.Linear(channels, channels // 4, bias=bias)
        self.mix = nn.Linear(channels // 4, 1, bias=bias)

    def forward(self, signal: Tensor, context: Tensor) -> Tensor:
        if torch.is_grad_enabled() or signal.shape[1] <= _PIECE:
            return self._filtered(signal, context)
        # A piece begins early by what its first sample can hear; what it has too much is the same as in the piece before.
        pieces = []
        for begin in range(0, signal.shape[1], _PIECE):
            early = min(begin, self.reach)
            part = slice(begin - early, begin + _PIECE)
            pieces.append(self._filtered(signal[:, part], context[:, :, part])[:, early:])
        return torch.cat(pieces, 1)

    def _filtered(self, signal: Tensor, context: Tensor) -> Tensor:
        hidden = torch.tanh(pointwise(self.expand, signal[:, None]))
        for conv in self.convs:
            assert isinstance(conv, nn.Conv1d)
            past = functional.pad(hidden, (2 * conv.dilation[0], 0))
            hidden = hidden + torch.tanh(conv(past)) + context
        mixed = pointwise(self.mix, torch.tanh(pointwise(self.squeeze, self.scale * hidden)))[:, 0]
        return signal + torch.tanh(mixed) if self.residual else mixed


def pointwise(layer: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer over the channels of (B, C, T)."""
    return functional.conv1d(x, layer.weight[:, :, None], layer.bias)


class FixedMix(nn.Module):
    """Low-passed harmonic and high-passed noise branch, by fixed filters of their own for voiced and unvoiced samples (hn-nsf)."""

    def __init__(self) -> None:
        super().__init__()
        voiced, unvoiced = (
            torch.tensor([*half, *half[-2::-1]], dtype=torch.float64) for half in (_LOW_VOICED, _LOW_UNVOICED)
        )
        for name, taps in {
            "low_voiced": voiced,
            "low_unvoiced": unvoiced,
            "high_voiced": -_at_nyquist(unvoiced),
            "high_unvoiced": _at_nyquist(voiced),
        }.items():
            self.register_buffer(name, taps.float()[None, None])

    def forward(self, harmonic: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        weight = torch.sigmoid(10 * (condition.voiced - 0.5))
        voiced = self._filtered(harmonic, "low_voiced") + self._filtered(noise, "high_voiced")
        unvoiced = self._filtered(harmonic, "low_unvoiced") + self._filtered(noise, "high_unvoiced")
        return weight * voiced + (1 - weight) * unvoiced

    def _filtered(self, signal: Tensor, name: str) -> Tensor:
        taps = self.get_buffer(name)
        return functional.conv1d(functional.pad(signal[:, None], (taps.shape[2] - 1, 0)), taps)[:, 0]


class SincMix(nn.Module):
    """Low-passed harmonic and high-passed noise branch by sinc filters whose cut-off is predicted for each sample (Wang & Yamagishi, SSW 2019)."""

    def forward(self, harmonic: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        assert condition.cut_off is not None
        return sinc_filtered(harmonic, noise, condition.cut_off)


class Window(NamedTuple):
    """One pair of taps, at `distance` before and after the centre: its window, and its sign at Nyquist."""

    distance: int
    weight: float
    sign: int


# The published window divides by 31, the number of taps, where Hamming's would by 30.
_WINDOWS = tuple(
    Window(n, (0.54 + 0.46 * math.cos(2 * math.pi * n / (2 * _SINC_HALF + 1))) / (math.pi * n), (-1) ** n)
    for n in range(1, _SINC_HALF + 1)
)


def sinc_filtered(low: Tensor, high: Tensor, cut_off: Tensor) -> Tensor:
    """`low` low-passed plus `high` high-passed, each sample by windowed sinc filters of 31 taps and its own cut-off.

    All are (B, samples), `cut_off` a share of Nyquist. The low-pass filter has gain 1 at 0 Hz, the high-pass one at Nyquist. The output lags by 15 samples.

    Both filters are symmetric and, but for their centres, the negative of each other, so that fifteen sines a sample give all 62 taps, and none has to be kept.
    """
    low_before, high_before = (functional.pad(x, (2 * _SINC_HALF, 0)) for x in (low, high))
    size = low.shape[1]

    def around(x: Tensor, distance: int) -> Tensor:
        return x[:, _SINC_HALF - distance :][:, :size] + x[:, _SINC_HALF + distance :][:, :size]

    low_sum = cut_off * low_before[:, _SINC_HALF:][:, :size]
    high_sum = (1 - cut_off) * high_before[:, _SINC_HALF:][:, :size]
    low_gain, high_gain = cut_off, 1 - cut_off
    for distance, weight, sign in _WINDOWS:
        tap = weight * torch.sin(math.pi * distance * cut_off)
        low_sum = low_sum + tap * around(low_before, distance)
        high_sum = high_sum - tap * around(high_before, distance)
        low_gain = low_gain + 2 * tap
        high_gain = high_gain - 2 * sign * tap
    return low_sum / low_gain + high_sum / high_gain


def _at_nyquist(taps: Tensor) -> Tensor:
    return taps * (1 - 2 * (torch.arange(len(taps)) % 2))
