"""Settings of models on acoustic features, and S3PRL's form of their front-end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from headwater.audio.frontends import Frontend, build_frontend
from headwater.config import Section
from headwater.errors import UsageError
from headwater.nn.upstream import NoFrontend
from headwater.settings import truth


def log_mel(bins: int = 80, *, length: float = 25.0, shift: float = 10.0, cmvn: bool = True) -> dict[str, Any]:
    """Kaldi's log mel bins under a Hamming window, of waveforms in [-1, 1]: the front-end of S3PRL's APC, VQ-APC, NPC and DeCoAR 2.0."""
    bank = {"num_mel_bins": bins, "frame_length": length, "frame_shift": shift, "window_type": "hamming"}
    return {"kaldi": {"feat_type": "fbank", "fbank": bank}, "cmvn": {"use_cmvn": cmvn}}


class FeatureSettings(Section):
    """audio: settings of the front-end; empty for a model on precomputed features."""

    audio: dict[str, Any] = Field(default_factory=log_mel)
    input_dim: int = Field(-1, ge=-1, le=10**6, description="dims of an input frame; -1 takes them from the front-end")


def frontend_of(settings: FeatureSettings, name: str = "model") -> Frontend | NoFrontend:
    """The front-end, or what stands for it where there is none.

    Raises:
        UsageError: its settings are wrong, or `input_dim` is not what it gives.
    """
    if not settings.audio:
        if settings.input_dim < 1:
            raise UsageError("there is no front-end (audio is empty): input_dim must be the dims of the features")
        return NoFrontend(name, settings.input_dim)
    frontend = build_frontend(settings.audio)
    if settings.input_dim not in (-1, frontend.out_dim):
        raise UsageError(
            f"input_dim is {settings.input_dim}, yet the front-end that `audio` describes gives {frontend.out_dim} dims"
        )
    return frontend


def from_s3prl(audio: Mapping[str, Any]) -> dict[str, Any]:
    """`audio` of what S3PRL's files have under `config.data.audio`. `UsageError` for features that these models do not have."""
    kind = audio.get("feat_type", "fbank")
    if kind != "fbank":
        raise UsageError(f"audio.feat_type is {kind!r}; these models are on fbank")
    strange = sorted(set(audio) - {"feat_type", "feat_dim", "frame_length", "frame_shift", "decode_wav", "cmvn"})
    if strange or truth(audio, "decode_wav"):
        raise UsageError(f"audio.{[*strange, 'decode_wav'][0]}: features with this setting are not known here")
    return log_mel(
        audio.get("feat_dim", 80),
        length=audio.get("frame_length", 25),
        shift=audio.get("frame_shift", 10),
        cmvn=truth(audio, "cmvn", missing=True),
    )
