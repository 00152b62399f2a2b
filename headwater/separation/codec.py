"""Waveforms to frames of learned filters and back: the encoder and the decoder of separation in the time domain.

Frames are (B, N, K); `lengths` (B,) are valid ones, or None where all are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from headwater.errors import DataError
from headwater.nn.convolution import silence_beyond
from headwater.separation.settings import Architecture, Padding

Count = TypeVar("Count", int, Tensor)


@dataclass(frozen=True)
class Framing:
    """How frames of `length` samples, `hop` apart, lie over a waveform.

    cut: every frame that touches the waveform, so that each sample lies in as many; what sticks out is cut off (torchaudio's for even lengths).
    odd: torchaudio's for odd lengths. naplab: the authors' code. zeros, short: whole frames only; what they miss at the end is zero, or is not there.
    """

    length: int
    hop: int
    padding: Padding = "cut"

    @property
    def before(self) -> int:
        """Zeros before the first sample."""
        return {"cut": self.length - self.hop, "odd": self.hop, "naplab": self.hop}.get(self.padding, 0)

    def frames(self, samples: Count) -> Count:
        """How many frames so many samples, at least 1, give."""
        if self.padding == "cut":
            return -(-(samples + self.length - self.hop) // self.hop)
        if self.padding == "odd":
            return -((1 - samples) // self.hop) + 1
        if self.padding == "naplab":
            rest = self.length - (self.hop + samples % self.length) % self.length
            return (samples + rest + 2 * self.hop - self.length) // self.hop + 1
        return (samples - self.length) // self.hop + 1

    def samples(self, count: Count) -> Count:
        """That many frames span."""
        return (count - 1) * self.hop + self.length

    def centre(self) -> float:
        """Of frame 0, in samples."""
        return self.length / 2 - self.before

    def answered(self, samples: int) -> int:
        """Samples that a waveform of so many comes back with: as many, but for `short`."""
        return self.samples(self.frames(samples)) if self.padding == "short" else samples


def framing_of(config: Architecture) -> Framing:
    return Framing(config.L, config.hop, config.padding)


class DeepLayer(nn.Module):
    """A convolution of three frames, or a transposed one, and PReLU; as many frames out as in."""

    def __init__(self, channels: int, dilation: int, *, transposed: bool, causal: bool, bias: bool) -> None:
        super().__init__()
        self.dilation, self.transposed, self.causal = dilation, transposed, causal
        kind = nn.ConvTranspose1d if transposed else nn.Conv1d
        self.conv = kind(channels, channels, 3, dilation=dilation, bias=bias)
        self.activation = nn.PReLU()

    @property
    def reach(self) -> int:
        """Frames before the present one that a causal layer needs."""
        return 2 * self.dilation

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        before = self.reach if self.causal else self.dilation
        return self._convolve(functional.pad(silence_beyond(x, lengths), (before, self.reach - before)), x.shape[2])

    def stream(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """As `Depthwise.stream`."""
        seen = torch.cat([context, x], 2)
        return self._convolve(seen, x.shape[2]), seen[:, :, x.shape[2] :]

    def _convolve(self, padded: Tensor, frames: int) -> Tensor:
        y = self.conv(padded)
        # A transposed convolution gives what its input has a part in; the frames that see all of their neighbours lie in the middle.
        y = y[:, :, self.reach : self.reach + frames] if self.transposed else y
        answer: Tensor = self.activation(y)
        return answer


class Encoder(nn.Module):
    """(B, T) -> (B, N, K)."""

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        self.framing = framing_of(config)
        self.conv = nn.Conv1d(1, config.N, config.L, config.hop, bias=config.codec_bias)
        causal = config.causal and not config.codec_lookahead
        self.layers = nn.ModuleList(
            DeepLayer(config.N, dilation, transposed=False, causal=causal, bias=config.codec_bias)
            for dilation in config.deep
        )
        self.rectifies = config.encoder_activation == "relu"

    def forward(self, mixture: Tensor, lengths: Tensor | None) -> Tensor:
        """Lengths are those of frames."""
        framing, samples = self.framing, mixture.shape[1]
        frames = framing.frames(samples)
        if frames < 1:
            raise DataError(
                f"a waveform of {samples} samples is shorter than one frame of {framing.length}, which the code of this file asks for"
            )
        # A negative pad cuts: where only whole frames are taken, the rest is not looked at.
        x = functional.pad(mixture, (framing.before, framing.samples(frames) - framing.before - samples))
        x = self.filter(x)
        for layer in self.layers:
            x = layer(x, lengths)
        return x

    def filter(self, x: Tensor) -> Tensor:
        """(B, T) -> (B, N, K) by the filters alone, whole frames without padding."""
        w: Tensor = self.conv(x[:, None])
        return w.relu() if self.rectifies else w


class Decoder(nn.Module):
    """(B, N, K) -> (B, samples)."""

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        self.framing = framing_of(config)
        causal = config.causal and not config.codec_lookahead
        self.layers = nn.ModuleList(
            DeepLayer(config.N, dilation, transposed=True, causal=causal, bias=config.codec_bias)
            for dilation in reversed(config.deep)
        )
        self.conv = nn.ConvTranspose1d(config.N, 1, config.L, config.hop, bias=config.codec_bias)

    def forward(self, x: Tensor, lengths: Tensor | None, samples: int) -> Tensor:
        for layer in self.layers:
            x = layer(x, lengths)
        y = self.biased(self.overlap(self.pieces(silence_beyond(x, lengths))))[:, self.framing.before :]
        answered = self.framing.answered(samples)
        return functional.pad(y, (0, answered - y.shape[1]))

    def pieces(self, x: Tensor) -> Tensor:
        """(B, N, K) -> (B, L, K): each frame as samples, without the bias."""
        return torch.matmul(self.conv.weight[:, 0].t(), x)

    def overlap(self, pieces: Tensor) -> Tensor:
        """(B, L, K) -> (B, (K - 1) hop + L): their sum, each at its place. On CPUs, torch's transposed convolution to one channel is slower."""
        size = self.framing.samples(pieces.shape[2])
        return functional.fold(pieces, (1, size), (1, self.framing.length), stride=(1, self.framing.hop))[:, 0, 0]

    def biased(self, y: Tensor) -> Tensor:
        """With the decoder's bias, where it has one."""
        return y if self.conv.bias is None else y + self.conv.bias
