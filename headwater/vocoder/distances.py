"""How far a copy is from its original, one utterance at a time: mel-cepstra, mel bands, spectra, F0.

Each function takes waveforms (samples,) in [-1, 1], the original first, and cuts both to the shorter. Zero means equal; what is not defined is NaN. Every
number belongs to its definition: other orders, warpings, windows or alignments give other ones, which must not be compared with these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headwater.errors import DataError
from headwater.vocoder.alignment import BAND, warping_path
from headwater.vocoder.cepstra import ORDER, alpha_of, mel_cepstrum
from headwater.vocoder.f0 import Find, Tracking, track
from headwater.vocoder.mel import LogMel
from headwater.vocoder.objective import mel_distances, stft_distances
from headwater.vocoder.pitch import F0Errors, f0_errors
from headwater.vocoder.spectra import Resolution, power, spectrum
from headwater.vocoder.world import Array, envelope, samples_of

DECIBELS = 10 * math.sqrt(2) / math.log(10)  # of a Euclidean distance of mel-cepstra
TRACKING = Tracking("harvest", floor_hz=60.0, ceiling_hz=500.0)
_LSD = Resolution(1024, 256, 1024)
_LSD_FLOOR = 1e-10  # of a power


@dataclass(frozen=True)
class WorldDistances:
    """What is measured through WORLD, with F0 by harvest from 60 to 500 Hz every 5 ms.

    Attributes:
        mcd: mel-cepstral distortion in dB, frame by frame, mean over all frames: of CheapTrick's envelopes, as mel-cepstra of order 24 with the all-pass
            constant of the sample rate (0.41 at 16 kHz), without coefficient 0. NaN where one of the signals is digital silence, which has no envelope.
        mcd_dtw: the same along the cheapest warping path, mean over the path; for copies whose timing is their own.
        f0: errors of F0, frame by frame.
    """

    mcd: float
    mcd_dtw: float
    f0: F0Errors


def world_distances(
    original: Tensor, copy: Tensor, sample_rate: int, *, alpha: float | None = None, find: Find = track
) -> WorldDistances:
    """MCD and F0 errors; they share one analysis. Needs pyworld.

    find: what finds the F0 of the original, which other copies are measured against, too; `tracks.kept_track` keeps it on disk.

    Raises:
        UsageError: pyworld is missing, or no all-pass constant is customary at this sample rate and none is given.
        DataError: no samples, or values that are not finite.
    """
    alpha = alpha_of(sample_rate) if alpha is None else alpha
    pair = [samples_of(wav) for wav in (original, copy)]
    tracks = [each(x, sample_rate, TRACKING) for x, each in zip(pair, (find, track), strict=True)]
    cepstra = [
        mel_cepstrum(envelope(x, f0, sample_rate) if x.any() else np.empty((0, 2)), order=ORDER, alpha=alpha)
        for x, f0 in zip(pair, tracks, strict=True)
    ]
    return WorldDistances(
        mcd=mel_cepstral_distortion(*cepstra),
        mcd_dtw=mel_cepstral_distortion(*cepstra, align=True),
        f0=f0_errors(*tracks),
    )


def mel_cepstral_distortion(original: Array, copy: Array, *, align: bool = False, band: int = BAND) -> float:
    """10 / ln 10 * sqrt(2 * sum of squared differences) in dB of two mel-cepstra (frames, order + 1), coefficient 0 left out.

    Cut to the shorter; or, with `align`, of whole sequences along their warping path (`warping_path`), the mean being that over the path. NaN without frames.
    """
    if not len(original) or not len(copy):
        return math.nan
    if align:
        return DECIBELS * float(warping_path(original[:, 1:], copy[:, 1:], band=band)[1].mean())
    frames = min(len(original), len(copy))
    return DECIBELS * float(np.linalg.norm(original[:frames, 1:] - copy[:frames, 1:], axis=1).mean())


def mel_l1(original: Tensor, copy: Tensor, sample_rate: int) -> float:
    """Mean |difference| of ln mel magnitudes: 80 Slaney bands up to 8 kHz, FFT 1024, hop 256, floor 1e-5 (`LogMel`)."""
    wav, target, samples = _pair(copy, original)
    mel = LogMel(sample_rate, high_hz=min(8000.0, sample_rate / 2))
    return float(mel_distances(wav, target, samples, mel)[0])


def stft_distance(original: Tensor, copy: Tensor) -> float:
    """Multi-resolution STFT distance: spectral convergence plus L1 of log magnitudes, over three resolutions (`objective.stft_distances`).

    NaN for an original that is silent throughout: convergence is relative to it.
    """
    wav, target, samples = _pair(copy, original)
    return float(stft_distances(wav, target, samples)[0]) if bool(target.any()) else math.nan


def log_spectral_distance(original: Tensor, copy: Tensor) -> float:
    """Mean over frames of the root mean square over bins of 20 log10 |X| - 20 log10 |X'|, in dB: FFT and Hann window 1024, hop 256, power not below 1e-10."""
    wav, target, _ = _pair(copy, original)
    levels = [10 * power(spectrum(x, _LSD))[0].clamp(min=_LSD_FLOOR).log10() for x in (target, wav)]
    return float((levels[0] - levels[1]).square().mean(1).sqrt().mean())


def _pair(wav: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As batches of one: (1, samples) twice and (1,)."""
    size = min(len(wav), len(target))
    if not size:
        raise DataError("a distance needs at least one sample of both waveforms")
    return wav[None, :size].float(), target[None, :size].float(), torch.tensor([size], device=wav.device)
