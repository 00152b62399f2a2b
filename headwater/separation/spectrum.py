"""The spectra that masks lie on: centred short-time Fourier transforms with zeros beyond the ends, and back, as librosa has them.

Waveforms are (..., T) floats, spectra (..., K, F) complex with K = 1 + T // hop frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Stft:
    """`fft_size`, `hop` and `window` (Hann, in the middle of a frame) in samples; window None is as long as a frame."""

    fft_size: int
    hop: int
    window: int | None = None

    @property
    def bins(self) -> int:
        return self.fft_size // 2 + 1

    def frames(self, samples: Tensor) -> Tensor:
        """(B,) samples -> (B,) frames."""
        return samples // self.hop + 1

    def analyse(self, wavs: Tensor) -> Tensor:
        """(..., T) -> (..., K, F)."""
        margin = self.fft_size // 2
        padded = functional.pad(wavs, (margin, margin))
        return torch.fft.rfft(padded.unfold(-1, self.fft_size, self.hop) * self._shape(wavs))

    def synthesise(self, spectra: Tensor, samples: int) -> Tensor:
        """(..., K, F) -> (..., samples): the signal whose frames are nearest to these (Griffin and Lim 1984); zero where none of them reaches."""
        shape = self._shape(spectra.real)
        count, margin = spectra.shape[-2], self.fft_size // 2
        frames = torch.fft.irfft(spectra, self.fft_size) * shape
        y = self._overlap(frames.reshape(-1, count, self.fft_size))
        weight = self._overlap(shape.square().expand(1, count, -1))
        # Where the windows all but end, a sum is left as it is rather than divided by nothing.
        y = torch.where(weight > torch.finfo(weight.dtype).tiny, y / weight, y)[:, margin : margin + samples]
        return functional.pad(y, (0, samples - y.shape[1])).reshape(*spectra.shape[:-2], samples)

    def _overlap(self, frames: Tensor) -> Tensor:
        """(B, K, fft_size) -> (B, (K - 1) hop + fft_size): their sum, each at its place."""
        size = (frames.shape[1] - 1) * self.hop + self.fft_size
        return functional.fold(frames.transpose(1, 2), (1, size), (1, self.fft_size), stride=(1, self.hop))[:, 0, 0]

    def _shape(self, like: Tensor) -> Tensor:
        width = self.fft_size if self.window is None else self.window
        shape = torch.hann_window(width, dtype=like.dtype, device=like.device)
        before = (self.fft_size - width) // 2
        return functional.pad(shape, (before, self.fft_size - width - before))
