"""Acoustic front-ends: batched, differentiable, the same for an utterance alone and in any batch.

`build_frontend` takes S3PRL's own form of configuration; the key that is there says which kind it is:

    {kaldi: {feat_type: fbank, fbank: {num_mel_bins: 80}}, delta: {order: 2}, cmvn: {use_cmvn: true}}    Kaldi
    {input: {feat_type: mel, log: true, cmvn: true}, n_mels: 80, win_ms: 25, hop_ms: 10}    centred STFT features
    {spectrogram: {n_fft: 512, hop_length: 320, log: true}}                                 STFT magnitude
    {nii: {feat_type: lfcc}}                                                                NII's LFCC, LFB, power, mel
    {waveform: {}}                                                                          the samples themselves
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from headwater.audio.frontends.base import Framed, Frontend, normalise_level
from headwater.audio.frontends.kaldi import build_kaldi
from headwater.audio.frontends.nii import build_nii
from headwater.audio.frontends.stft import build_magnitude, build_stft
from headwater.audio.frontends.waveform import Waveform, build_waveform
from headwater.errors import UsageError, nearest

__all__ = ["Framed", "Frontend", "Waveform", "build_frontend", "normalise_level"]

_BUILDERS: dict[str, Callable[[Mapping[str, Any]], Frontend]] = {
    "kaldi": build_kaldi,
    "input": build_stft,
    "spectrogram": build_magnitude,
    "nii": build_nii,
    "waveform": build_waveform,
}


def build_frontend(config: Mapping[str, Any]) -> Frontend:
    """The front-end that `config` describes, on the CPU, in float32.

    Raises:
        UsageError: an unknown key (named in full, with the nearest known one), a wrong type, or a senseless value.
    """
    if not isinstance(config, Mapping):
        raise UsageError(f"Front-end settings must be a mapping, not {config!r}.")
    kinds = [key for key in _BUILDERS if key in config]
    if len(kinds) != 1:
        has = (
            f"more than one: {', '.join(kinds)}"
            if kinds
            else f"none of them ({', '.join(map(str, config)) or 'it is empty'})"
        )
        hint = "".join(nearest(str(key), list(_BUILDERS)) for key in config) if not kinds else ""
        raise UsageError(
            f"Front-end settings need exactly one of the keys {', '.join(_BUILDERS)}; there is {has}.{hint}"
        )
    return _BUILDERS[kinds[0]](config)
