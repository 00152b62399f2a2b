"""The mel features of NII's vocoders, `.mfbsp` (S. Takaki's Melspec in project-NN-Pytorch-scripts; Wang, Takaki & Yamagishi, IEEE/ACM TASLP 2020).

They are not librosa's, nor Kaldi's: amplitudes instead of powers, a bank that is normalised a hertz but summed over bins, so that doubling the FFT adds ln 2 to
every band, a band 0 that is the DC bin alone, and no floor below the bank. Weights and features must agree in the size of the FFT: nothing fails where they
do not, the output only gets quieter and duller.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from headwater.audio.frontends.base import Framed
from headwater.audio.frontends.dynamics import STATIC
from headwater.errors import UsageError

Version = Literal[1, 2]

NSF_FFT = 2048  # what the published source-filter weights were evidently trained with: their own outputs fit it alone
_FLOOR = 1e-12
_INT16 = 32768.0
_LINEAR_BELOW_HZ = 1000.0


class NiiMel(Framed):
    """ln of mel amplitudes, 80 bands of frames every 5 ms. `samples // hop + 1` frames, frame k around sample `k * hop`, zeros beyond the ends.

    Args:
        version: 2, that of all published weights, scales the signal to the range of 16-bit integers and its window to unit energy; 1, the class's old default,
            does neither and squares the window.
        n_fft: at least `window`. 2048 for the published weights (`NSF_FFT`), 512 for the sample files of project-CURRENNT-scripts.
        window, hop: samples. Voice privacy and the vocoding package have a hop of 160 and an FFT of 1024.
    """

    window_shape: Tensor
    bank: Tensor

    def __init__(
        self,
        *,
        n_fft: int = NSF_FFT,
        version: Version = 2,
        sample_rate: int = 16000,
        window: int = 400,
        hop: int = 80,
        num_mels: int = 80,
    ) -> None:
        if not 1 < window <= n_fft or n_fft % 2 or hop < 1 or num_mels < 2:
            raise UsageError(
                f"mel features with an FFT of {n_fft}, a window of {window} and a hop of {hop} samples, {num_mels} bands: "
                "the FFT must be even and no shorter than the window, the hop at least 1, the bands at least 2"
            )
        if version not in (1, 2):
            raise UsageError(f"version {version!r} of NII's mel features; there are 1 and 2")
        super().__init__(
            sample_rate=sample_rate, window=window, stride=hop, dim=num_mels, dynamics=STATIC, margin=window // 2
        )
        self.n_fft = n_fft
        self.version = version
        shape = torch.blackman_window(window, periodic=False, dtype=torch.float64)
        shape = (shape if version == 2 else shape.square()) / shape.square().sum().sqrt()
        self.register_buffer("window_shape", shape, persistent=False)
        self.register_buffer("bank", nii_bank(num_mels, n_fft, sample_rate), persistent=False)

    def condition(self, wav: Tensor) -> Tensor:
        return wav * _INT16 if self.version == 2 else wav

    def spectrum(self, samples: Tensor) -> Tensor:
        # In float32 the rounding of loud bins would be heard in quiet ones: up to 1e-3 after the logarithm.
        frames = samples.double().unfold(0, self.window, self.stride) * self.window_shape
        return (torch.fft.rfft(frames, self.n_fft).abs().clamp(min=_FLOOR) @ self.bank).log().float()


def nii_bank(num_mels: int, n_fft: int, sample_rate: int) -> Tensor:
    """(n_fft // 2 + 1, num_mels) float64: column 0 has the DC bin alone, the others are triangles of area one in Hz up to half the sample rate.

    Edges are equally spaced in mel; up to the first one above 1 kHz they are then equally spaced in Hz instead. They are rounded to float32, as in the
    published features.
    """
    top = 1127.01048 * math.log(1.0 + sample_rate / 2 / 700.0)
    mels = torch.linspace(0.0, top, num_mels + 1, dtype=torch.float64)
    edges = (700.0 * ((mels / 1127.01048).exp() - 1.0)).float()
    knee = int((edges < _LINEAR_BELOW_HZ).sum())
    if knee < len(edges):
        edges[: knee + 1] = torch.linspace(float(edges[0]), float(edges[knee]), knee + 1, dtype=torch.float64).float()
    edges = edges.double()
    frequencies = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)[:, None]
    widths = edges.diff()
    rising = (frequencies - edges[:-2]) / widths[:-1]
    falling = (edges[2:] - frequencies) / widths[1:]
    bank = torch.zeros(len(frequencies), num_mels, dtype=torch.float64)
    bank[:, 1:] = torch.minimum(rising, falling).clamp(min=0) * 2 / (edges[2:] - edges[:-2])
    bank[0, 0] = n_fft / sample_rate
    return bank
