"""Kaldi's features as torchaudio's `compliance.kaldi`, hence S3PRL, has them.

Waveforms are in [-1, 1], not times 32768; no dither.
Frames lie wholly inside the waveform (snip_edges). A frame loses its mean, is pre-emphasised and windowed, then
transformed with the next power of two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from headwater.audio.frontends import banks
from headwater.audio.frontends.base import Framed, power, samples_in
from headwater.audio.frontends.dynamics import Dynamics, regression
from headwater.audio.frontends.settings import Settings, choice, parse, require

_FLOOR = torch.finfo(torch.float32).eps


class FrameSettings(Settings):
    """Settings that every Kaldi feature has; lengths in milliseconds."""

    frame_length: float = Field(default=25.0, gt=0)
    frame_shift: float = Field(default=10.0, gt=0)
    preemphasis_coefficient: float = Field(default=0.97, ge=0, le=1)
    remove_dc_offset: bool = True
    window_type: Literal["povey", "hanning", "hamming", "blackman", "rectangular"] = "povey"


class MelSettings(FrameSettings):
    """Settings of the mel bank, in Hz; `high_freq` <= 0 counts down from half the sample rate."""

    num_mel_bins: int = Field(default=23, gt=0)
    low_freq: float = Field(default=20.0, ge=0)
    high_freq: float = 0.0


class FbankSettings(MelSettings):
    use_log_fbank: bool = True
    use_power: bool = True


class MfccSettings(MelSettings):
    num_ceps: int = Field(default=13, gt=0)
    cepstral_lifter: float = Field(default=22.0, ge=0)


class SpectrogramSettings(FrameSettings):
    energy_floor: float = Field(default=1.0, ge=0)


class _Feature(Settings):
    feat_type: str = "fbank"
    fbank: FbankSettings = FbankSettings()
    mfcc: MfccSettings = MfccSettings()
    spectrogram: SpectrogramSettings = SpectrogramSettings()


class _Delta(Settings):
    order: int = Field(default=0, ge=0)
    win_length: int = Field(default=5, ge=3)


class _Cmvn(Settings):
    use_cmvn: bool = False


class KaldiSettings(Settings):
    kaldi: _Feature
    delta: _Delta = _Delta()
    cmvn: _Cmvn = _Cmvn()
    sample_rate: int = Field(default=16000, gt=0)


class Kaldi(Framed):
    """Frames up to their complex spectrum; what becomes of it is the business of the three features below."""

    window_shape: Tensor

    def __init__(
        self, settings: FrameSettings, *, sample_rate: int, dynamics: Dynamics, dim: int | None = None
    ) -> None:
        size = samples_in(settings.frame_length, sample_rate)
        self.fft_size = 1 << (size - 1).bit_length()
        dim = self.fft_size // 2 + 1 if dim is None else dim
        super().__init__(
            sample_rate=sample_rate,
            window=size,
            stride=samples_in(settings.frame_shift, sample_rate),
            dim=dim,
            dynamics=dynamics,
            minimum=size,
        )
        self.preemphasis = settings.preemphasis_coefficient
        self.remove_dc_offset = settings.remove_dc_offset
        self.register_buffer("window_shape", banks.window(settings.window_type, size, periodic=False), persistent=False)

    def transform(self, samples: Tensor) -> Tensor:
        """Complex spectrum (T, fft_size // 2 + 1).

        Fused into one expression this is quicker, but only this order of roundings keeps quiet bands within 1e-4 of the
        published features.
        """
        frames = self.centred(samples)
        if self.preemphasis:
            frames = frames - self.preemphasis * torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
        return torch.fft.rfft(frames * self.window_shape, self.fft_size)

    def centred(self, samples: Tensor) -> Tensor:
        """Frames (T, window) less their mean."""
        frames = samples.unfold(0, self.window, self.stride)
        return frames - frames.mean(dim=1, keepdim=True) if self.remove_dc_offset else frames


class Fbank(Kaldi):
    """(Log) mel filter bank energies."""

    bank: Tensor

    def __init__(self, settings: FbankSettings, *, sample_rate: int, dynamics: Dynamics) -> None:
        super().__init__(settings, sample_rate=sample_rate, dynamics=dynamics, dim=settings.num_mel_bins)
        self.use_power = settings.use_power
        self.use_log = settings.use_log_fbank
        self.register_buffer("bank", mel_bank(settings, self.fft_size, sample_rate), persistent=False)

    def spectrum(self, samples: Tensor) -> Tensor:
        spectrum = self.transform(samples)
        energies = (power(spectrum) if self.use_power else spectrum.abs()) @ self.bank
        return energies.clamp(min=_FLOOR).log() if self.use_log else energies


class Mfcc(Kaldi):
    """Cepstra of the log mel energies, liftered; coefficient 0 is kept, not replaced by the energy."""

    bank: Tensor
    cosines: Tensor

    def __init__(self, settings: MfccSettings, *, sample_rate: int, dynamics: Dynamics) -> None:
        super().__init__(settings, sample_rate=sample_rate, dynamics=dynamics, dim=settings.num_ceps)
        cosines = banks.dct(settings.num_mel_bins, settings.num_ceps)
        if settings.cepstral_lifter:
            cosines = cosines * banks.lifter(settings.num_ceps, settings.cepstral_lifter)
        self.register_buffer("bank", mel_bank(settings, self.fft_size, sample_rate), persistent=False)
        self.register_buffer("cosines", cosines, persistent=False)

    def spectrum(self, samples: Tensor) -> Tensor:
        return (power(self.transform(samples)) @ self.bank).clamp(min=_FLOOR).log() @ self.cosines


class Spectrogram(Kaldi):
    """Log power spectrum whose bin 0 is the log energy of the frame before pre-emphasis, not below ln(energy_floor)."""

    def __init__(self, settings: SpectrogramSettings, *, sample_rate: int, dynamics: Dynamics) -> None:
        super().__init__(settings, sample_rate=sample_rate, dynamics=dynamics)
        self.energy_floor = max(settings.energy_floor, _FLOOR)

    def spectrum(self, samples: Tensor) -> Tensor:
        energy = self.centred(samples).square().sum(dim=1, keepdim=True).clamp(min=self.energy_floor).log()
        log_power = power(self.transform(samples)[:, 1:]).clamp(min=_FLOOR).log()
        return torch.cat([energy, log_power], dim=1)


def mel_bank(settings: MelSettings, fft_size: int, sample_rate: int) -> Tensor:
    """Kaldi's bank for these settings."""
    high = settings.high_freq if settings.high_freq > 0 else sample_rate / 2 + settings.high_freq
    return banks.kaldi_mel(settings.num_mel_bins, fft_size, sample_rate, settings.low_freq, high)


def build_kaldi(config: Mapping[str, Any]) -> Kaldi:
    """`{kaldi: {feat_type, fbank, mfcc, spectrogram}, delta: {order, win_length}, cmvn: {use_cmvn}, sample_rate}`."""
    settings = parse(KaldiSettings, config)
    kind = choice(
        settings.kaldi.feat_type, {"fbank": Fbank, "mfcc": Mfcc, "spectrogram": Spectrogram}, "kaldi.feat_type"
    )
    require(settings.delta.win_length % 2 == 1, f"delta.win_length is {settings.delta.win_length}; it must be odd.")
    rate = settings.sample_rate
    chosen: FrameSettings = getattr(settings.kaldi, kind)
    for key in ("frame_length", "frame_shift"):
        least = 2 if key == "frame_length" else 1
        require(
            samples_in(getattr(chosen, key), rate) >= least,
            f"kaldi.{kind}.{key} is {getattr(chosen, key)} ms, less than {least} sample(s) at {rate} Hz.",
        )
    if isinstance(chosen, MelSettings):
        high = chosen.high_freq if chosen.high_freq > 0 else rate / 2 + chosen.high_freq
        require(
            chosen.low_freq < high <= rate / 2,
            f"kaldi.{kind}.low_freq is {chosen.low_freq} and kaldi.{kind}.high_freq {chosen.high_freq} "
            f"(that is {high:g} Hz); they must rise and end at {rate / 2:g} Hz, half the sample rate, at most.",
        )
    if isinstance(chosen, MfccSettings):
        require(
            chosen.num_ceps <= chosen.num_mel_bins,
            f"kaldi.mfcc.num_ceps is {chosen.num_ceps}, more than kaldi.mfcc.num_mel_bins ({chosen.num_mel_bins}).",
        )
    dynamics = regression(settings.delta.order, settings.delta.win_length, settings.cmvn.use_cmvn)
    if isinstance(chosen, FbankSettings):
        return Fbank(chosen, sample_rate=rate, dynamics=dynamics)
    if isinstance(chosen, MfccSettings):
        return Mfcc(chosen, sample_rate=rate, dynamics=dynamics)
    assert isinstance(chosen, SpectrogramSettings)
    return Spectrogram(chosen, sample_rate=rate, dynamics=dynamics)
