"""Centred short-time Fourier features: those of S3PRL's OnlinePreprocessor, and its plain magnitude.

Every utterance is reflected at its own ends. (S3PRL's padded batches let the last frames of a shorter utterance see
zeros instead, so there an utterance changes with its neighbours, by up to 1.1 after normalisation; what S3PRL gives for
an utterance alone is what we give always.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from headwater.audio.frontends import banks
from headwater.audio.frontends.base import Framed, Frontend, power, samples_in
from headwater.audio.frontends.dynamics import STATIC, Dynamics, regression
from headwater.audio.frontends.settings import Settings, choice, parse, require
from headwater.audio.frontends.waveform import Waveform

_LOG_EPS = 1e-10
_MFCC_LOG_EPS = 1e-6
_MFCC_MELS = 128
_MAGNITUDE_FLOOR = 1e-8
_DELTA_WINDOW = 5


class _Input(Settings):
    feat_type: str = "mel"
    channel: int = Field(
        default=0, ge=0
    )  # which copy of the waveform, in S3PRL's (input, target) pairs; there is one waveform here
    log: bool = False
    delta: int = Field(default=0, ge=0)
    cmvn: bool = False


class StftSettings(Settings):
    """S3PRL's names; times in milliseconds. `target_level` (dB, off by default) scales each waveform first (TERA)."""

    input: _Input
    win_ms: float = Field(default=25.0, gt=0)
    hop_ms: float = Field(default=10.0, gt=0)
    n_freq: int = Field(default=201, ge=2)
    n_mels: int = Field(default=40, gt=0)
    n_mfcc: int = Field(default=13, gt=0)
    sample_rate: int = Field(default=16000, gt=0)
    target_level: float | None = None


class Stft(Framed):
    """Frames of `fft_size` samples around each multiple of the stride (from it, if not `center`)."""

    window_shape: Tensor

    def __init__(
        self,
        *,
        sample_rate: int,
        fft_size: int,
        stride: int,
        window_size: int,
        window: str = "hann",
        center: bool = True,
        dim: int | None = None,
        dynamics: Dynamics = STATIC,
        target_level: float | None = None,
    ) -> None:
        super().__init__(
            sample_rate=sample_rate,
            window=fft_size,
            stride=stride,
            dim=fft_size // 2 + 1 if dim is None else dim,
            dynamics=dynamics,
            minimum=fft_size,
            margin=fft_size // 2 if center else 0,
            reflect=True,
            target_level=target_level,
        )
        shape = banks.window(window, window_size, periodic=True, fft_size=fft_size)
        self.register_buffer("window_shape", shape, persistent=False)

    def transform(self, samples: Tensor) -> Tensor:
        """Complex spectrum (T, fft_size // 2 + 1)."""
        return torch.fft.rfft(samples.unfold(0, self.window, self.stride) * self.window_shape)


class Online(Stft):
    """One feature of S3PRL's OnlinePreprocessor."""

    bank: Tensor
    cosines: Tensor

    def __init__(self, settings: StftSettings, *, dim: int) -> None:
        rate, chosen = settings.sample_rate, settings.input
        super().__init__(
            sample_rate=rate,
            fft_size=2 * (settings.n_freq - 1),
            stride=samples_in(settings.hop_ms, rate),
            window_size=samples_in(settings.win_ms, rate),
            dim=dim,
            dynamics=regression(chosen.delta, _DELTA_WINDOW, chosen.cmvn),
            target_level=settings.target_level,
        )
        self.feat_type = chosen.feat_type
        self.log = chosen.log
        if self.feat_type in ("mel", "mfcc"):
            num_mels = settings.n_mels if self.feat_type == "mel" else _MFCC_MELS
            self.register_buffer("bank", banks.htk_mel(num_mels, settings.n_freq, rate), persistent=False)
        if self.feat_type == "mfcc":
            self.register_buffer("cosines", banks.dct(_MFCC_MELS, settings.n_mfcc), persistent=False)

    def spectrum(self, samples: Tensor) -> Tensor:
        feature = self._feature(self.transform(samples))
        return (feature + _LOG_EPS).log() if self.log else feature

    def _feature(self, spectrum: Tensor) -> Tensor:
        if self.feat_type == "complx":
            return torch.view_as_real(spectrum).flatten(1)
        if self.feat_type == "phase":
            return spectrum.angle()
        if self.feat_type == "linear":
            return power(spectrum)
        mel = power(spectrum) @ self.bank
        return mel if self.feat_type == "mel" else (mel + _MFCC_LOG_EPS).log() @ self.cosines


class Magnitude(Stft):
    """|X|, or ln(max(|X|, 1e-8))."""

    def __init__(self, *, log: bool, **framing: Any) -> None:
        super().__init__(**framing)
        self.log = log

    def spectrum(self, samples: Tensor) -> Tensor:
        magnitude = self.transform(samples).abs()
        return magnitude.clamp(min=_MAGNITUDE_FLOOR).log() if self.log else magnitude


class _Magnitude(Settings):
    n_fft: int = Field(default=512, ge=2)
    hop_length: int = Field(default=320, gt=0)
    win_length: int = Field(default=512, gt=0)
    window: Literal["hann", "hamming", "blackman", "bartlett"] = "hann"
    center: bool = True
    log: bool = False


class MagnitudeSettings(Settings):
    spectrogram: _Magnitude
    sample_rate: int = Field(default=16000, gt=0)


def build_stft(config: Mapping[str, Any]) -> Frontend:
    """`{win_ms, hop_ms, n_freq, n_mels, n_mfcc, sample_rate, target_level, input: {feat_type, log, delta, cmvn}}`."""
    settings = parse(StftSettings, config)
    dims = {
        "mel": settings.n_mels,
        "linear": settings.n_freq,
        "mfcc": settings.n_mfcc,
        "complx": 2 * settings.n_freq,
        "phase": settings.n_freq,
        "wav": 1,
    }
    chosen, rate, fft_size = settings.input, settings.sample_rate, 2 * (settings.n_freq - 1)
    kind = choice(chosen.feat_type, dims, "input.feat_type")
    require(
        kind in ("mel", "linear") or not chosen.log,
        f"input.log is true, but {kind!r} (input.feat_type) can be negative and has no logarithm; leave it out.",
    )
    if kind == "wav":
        return Waveform(
            sample_rate=rate,
            dynamics=regression(chosen.delta, _DELTA_WINDOW, chosen.cmvn),
            target_level=settings.target_level,
        )
    size = samples_in(settings.win_ms, rate)
    require(
        1 <= size <= fft_size,
        f"win_ms is {settings.win_ms}, {size} samples at {rate} Hz; it must be 1 to {fft_size}, "
        f"the FFT that n_freq {settings.n_freq} stands for.",
    )
    require(samples_in(settings.hop_ms, rate) >= 1, f"hop_ms is {settings.hop_ms}, less than a sample at {rate} Hz.")
    require(
        kind != "mfcc" or settings.n_mfcc <= _MFCC_MELS,
        f"n_mfcc is {settings.n_mfcc}, more than the {_MFCC_MELS} mel bands it is made of.",
    )
    return Online(settings, dim=dims[kind])


def build_magnitude(config: Mapping[str, Any]) -> Magnitude:
    """`{spectrogram: {n_fft, hop_length, win_length, window, center, log}, sample_rate}`."""
    settings = parse(MagnitudeSettings, config)
    chosen = settings.spectrogram
    require(
        chosen.win_length <= chosen.n_fft,
        f"spectrogram.win_length is {chosen.win_length}, longer than spectrogram.n_fft ({chosen.n_fft}).",
    )
    return Magnitude(
        log=chosen.log,
        sample_rate=settings.sample_rate,
        fft_size=chosen.n_fft,
        stride=chosen.hop_length,
        window_size=chosen.win_length,
        window=chosen.window,
        center=chosen.center,
    )
