"""The identity, for systems that learn their own front-end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field
from torch import Tensor

from headwater.audio.frontends.base import Frontend
from headwater.audio.frontends.dynamics import STATIC, Dynamics
from headwater.audio.frontends.settings import Settings, parse


class _NoSettings(Settings):
    pass


class WaveformSettings(Settings):
    waveform: _NoSettings = _NoSettings()
    sample_rate: int = Field(default=16000, gt=0)


class Waveform(Frontend):
    """Samples as frames of one number: stride 1, offset 0."""

    def __init__(
        self, *, sample_rate: int = 16000, dynamics: Dynamics = STATIC, target_level: float | None = None
    ) -> None:
        super().__init__(
            sample_rate=sample_rate, stride=1, offset=0.0, dim=1, dynamics=dynamics, target_level=target_level
        )

    def frames(self, samples: int) -> int:
        return samples

    def static(self, wavs: list[Tensor]) -> Sequence[Tensor]:
        return [wav[:, None] for wav in wavs]


def build_waveform(config: Mapping[str, Any]) -> Waveform:
    """`{waveform: {}, sample_rate}`."""
    return Waveform(sample_rate=parse(WaveformSettings, config).sample_rate)
