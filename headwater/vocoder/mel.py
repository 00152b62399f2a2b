"""Log mel magnitudes as HiFi-GAN and most vocoders since have them: Slaney's mel scale and area norm, natural logarithm."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from headwater.errors import UsageError

_LINEAR_TOP_HZ, _HZ_A_MEL, _LOG_STEP = 1000.0, 200.0 / 3, math.log(6.4) / 27  # Slaney, Auditory Toolbox 1998


def slaney_mel(num_bins: int, n_fft: int, sample_rate: int, low_hz: float, high_hz: float) -> Tensor:
    """Triangles of area one in Hz, (n_fft // 2 + 1, num_bins) float32. Edges are linear below 1 kHz and logarithmic above."""
    edges = _hertz(torch.linspace(_mel(low_hz), _mel(high_hz), num_bins + 2, dtype=torch.float64))
    frequencies = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return (torch.minimum(rising, falling).clamp(min=0) * 2 / (edges[2:] - edges[:-2])).float()


def _mel(hertz: float) -> float:
    if hertz < _LINEAR_TOP_HZ:
        return hertz / _HZ_A_MEL
    return _LINEAR_TOP_HZ / _HZ_A_MEL + math.log(hertz / _LINEAR_TOP_HZ) / _LOG_STEP


def _hertz(mel: Tensor) -> Tensor:
    knee = _LINEAR_TOP_HZ / _HZ_A_MEL
    return torch.where(mel < knee, mel * _HZ_A_MEL, _LINEAR_TOP_HZ * ((mel - knee) * _LOG_STEP).exp())


class LogMel(nn.Module):
    """ln(max(mel magnitude, floor)) of waveforms, frames at the multiples of `hop`, zeros beyond the ends.

    With its defaults this is the mel distance's and mel loss's front-end at 16 kHz: HiFi-GAN's settings (Kong et al., NeurIPS 2020), but with centred frames.
    """

    window: Tensor
    bank: Tensor

    def __init__(
        self,
        sample_rate: int,
        *,
        n_fft: int = 1024,
        hop: int = 256,
        num_mels: int = 80,
        low_hz: float = 0.0,
        high_hz: float | None = 8000.0,
        floor: float = 1e-5,
    ) -> None:
        super().__init__()
        high_hz = sample_rate / 2 if high_hz is None else high_hz
        if not 0 <= low_hz < high_hz <= sample_rate / 2:
            raise UsageError(
                f"mel bands from {low_hz:g} to {high_hz:g} Hz: they must rise and end at half the sample rate ({sample_rate / 2:g} Hz) at most"
            )
        self.sample_rate, self.n_fft, self.hop, self.num_mels, self.floor = sample_rate, n_fft, hop, num_mels, floor
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("bank", slaney_mel(num_mels, n_fft, sample_rate, low_hz, high_hz), persistent=False)

    def frames(self, samples: Tensor) -> Tensor:
        """Frames for so many samples, elementwise."""
        return 1 + samples // self.hop

    def forward(self, wav: Tensor) -> Tensor:
        """(..., samples) float32 -> (..., 1 + samples // hop, num_mels)."""
        spectrum = torch.stft(wav, self.n_fft, self.hop, window=self.window, pad_mode="constant", return_complex=True)
        return (spectrum.abs().transpose(-1, -2) @ self.bank).clamp(min=self.floor).log()

    def magnitude_of(self, log_mel: Tensor) -> Tensor:
        """(..., T, num_mels) -> (..., T, n_fft // 2 + 1): the least-squares magnitudes, those below zero set to it."""
        inverse = torch.linalg.pinv(self.bank.double()).float()
        return (log_mel.exp() @ inverse).clamp(min=0)
