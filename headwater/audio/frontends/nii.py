"""The front-ends of NII's spoofing countermeasures (project-NN-Pytorch-scripts; Wang & Yamagishi, arXiv 2103.11326); and the settings of all of NII's.

Pre-emphasis over the whole signal (its first sample kept), then frames of `frame_length` samples under a periodic
Hamming window in the middle of an FFT of `n_fft`, around each multiple of `frame_shift`, zeros beyond the ends. No
normalisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from headwater.audio.frontends import banks
from headwater.audio.frontends.base import Framed, power
from headwater.audio.frontends.dynamics import STATIC, Dynamics
from headwater.audio.frontends.melspec import NSF_FFT, NiiMel
from headwater.audio.frontends.settings import Settings, choice, parse, require

_EPS = torch.finfo(torch.float32).eps
_PREEMPHASIS = 0.97


class PowerSettings(Settings):
    """In samples. `max_freq` is the share of the spectrum that is used.

    The ASVspoof 2021 baselines have n_fft 1024 and max_freq 0.5.
    """

    feat_type: str
    frame_length: int = Field(default=320, gt=0)
    frame_shift: int = Field(default=160, gt=0)
    n_fft: int = Field(default=512, ge=2)
    max_freq: float = Field(default=1.0, gt=0, le=1)


class LfbSettings(PowerSettings):
    n_filters: int = Field(default=60, gt=0)


class LfccSettings(PowerSettings):
    n_filters: int = Field(default=20, gt=0)
    energy: bool = True
    delta: bool = True


class MelSettings(Settings):
    """Of NII's vocoders; see `NiiMel`."""

    feat_type: str
    frame_length: int = Field(default=400, gt=1)
    frame_shift: int = Field(default=80, gt=0)
    n_fft: int = Field(default=NSF_FFT, ge=2)
    n_mels: int = Field(default=80, ge=2)
    version: Literal[1, 2] = 2


class Power(Framed):
    """Power spectrum, the `spec2` of the NII systems."""

    window_shape: Tensor

    def __init__(
        self, settings: PowerSettings, *, sample_rate: int, dim: int | None = None, dynamics: Dynamics = STATIC
    ) -> None:
        self.fft_size = settings.n_fft
        self.num_freqs = int(settings.max_freq * (settings.n_fft // 2 + 1))
        self.top = settings.max_freq * sample_rate / 2
        super().__init__(
            sample_rate=sample_rate,
            window=settings.n_fft,
            stride=settings.frame_shift,
            dim=self.num_freqs if dim is None else dim,
            dynamics=dynamics,
            margin=settings.n_fft // 2,
        )
        shape = banks.window("hamming", settings.frame_length, periodic=True, fft_size=settings.n_fft)
        self.register_buffer("window_shape", shape, persistent=False)

    def condition(self, wav: Tensor) -> Tensor:
        return torch.cat([wav[:1], wav[1:] - _PREEMPHASIS * wav[:-1]])

    def powers(self, samples: Tensor) -> Tensor:
        """(T, num_freqs)."""
        frames = samples.unfold(0, self.window, self.stride) * self.window_shape
        return power(torch.fft.rfft(frames)[:, : self.num_freqs])

    def spectrum(self, samples: Tensor) -> Tensor:
        return self.powers(samples)


class Lfb(Power):
    """Decimal logarithm of linear filter bank energies."""

    bank: Tensor

    def __init__(self, settings: LfbSettings | LfccSettings, *, sample_rate: int, dynamics: Dynamics = STATIC) -> None:
        super().__init__(settings, sample_rate=sample_rate, dim=settings.n_filters, dynamics=dynamics)
        self.register_buffer("bank", banks.linear_bank(settings.n_filters, self.num_freqs, self.top), persistent=False)

    def bands(self, powers: Tensor) -> Tensor:
        """(T, num_freqs) -> (T, n_filters)."""
        return (powers @ self.bank + _EPS).log10()

    def spectrum(self, samples: Tensor) -> Tensor:
        return self.bands(self.powers(samples))


class Lfcc(Lfb):
    """Linear frequency cepstra; coefficient 0 becomes the log energy. Deltas are plain differences, x[t+1] - x[t-1]."""

    cosines: Tensor

    def __init__(self, settings: LfccSettings, *, sample_rate: int) -> None:
        dynamics = Dynamics(order=2 if settings.delta else 0, reach=1, divisor=1.0)
        super().__init__(settings, sample_rate=sample_rate, dynamics=dynamics)
        self.energy = settings.energy
        self.register_buffer("cosines", banks.dct(settings.n_filters, settings.n_filters), persistent=False)

    def spectrum(self, samples: Tensor) -> Tensor:
        powers = self.powers(samples)
        cepstra = self.bands(powers) @ self.cosines
        if not self.energy:
            return cepstra
        energy = (powers.sum(dim=1, keepdim=True) / self.fft_size + _EPS).log10()
        return torch.cat([energy, cepstra[:, 1:]], dim=1)


class _Raw(Settings):
    nii: dict[str, Any]
    sample_rate: int = Field(default=16000, gt=0)


def build_nii(config: Mapping[str, Any]) -> Framed:
    """`{nii: {feat_type, frame_length, frame_shift, n_fft, max_freq, n_filters, energy, delta}, sample_rate}`; of `mel` with n_mels and version."""
    outer = parse(_Raw, config)
    kinds: dict[str, type[PowerSettings] | type[MelSettings]] = {
        "lfcc": LfccSettings,
        "lfb": LfbSettings,
        "power": PowerSettings,
        "mel": MelSettings,
    }
    settings = parse(kinds[choice(outer.nii.get("feat_type"), kinds, "nii.feat_type")], outer.nii, "nii")
    if isinstance(settings, MelSettings):
        return NiiMel(
            n_fft=settings.n_fft,
            version=settings.version,
            sample_rate=outer.sample_rate,
            window=settings.frame_length,
            hop=settings.frame_shift,
            num_mels=settings.n_mels,
        )
    require(
        settings.frame_length <= settings.n_fft,
        f"nii.frame_length is {settings.frame_length}, longer than nii.n_fft ({settings.n_fft}).",
    )
    require(
        int(settings.max_freq * (settings.n_fft // 2 + 1)) >= 2,
        f"nii.max_freq {settings.max_freq} leaves fewer than two of the bins of nii.n_fft {settings.n_fft}.",
    )
    if isinstance(settings, LfccSettings):
        return Lfcc(settings, sample_rate=outer.sample_rate)
    if isinstance(settings, LfbSettings):
        return Lfb(settings, sample_rate=outer.sample_rate)
    return Power(settings, sample_rate=outer.sample_rate)
