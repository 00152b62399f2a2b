"""WORLD (Morise et al., IEICE 2016) through the package pyworld: an optional extra, imported on first use."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from headwater.errors import DataError, UsageError

# pyworld 0.3.5 asks pkg_resources for its own version, which setuptools 81 and later do not have; the prebuilt wheels of the same code do not.
INSTALL = "pip install pyworld-prebuilt, or pyworld with 'setuptools<81'"

FRAME_PERIOD_MS = 5.0
FLOOR_HZ, CEILING_HZ = 71.0, 800.0

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Analysis:
    """What WORLD says of a signal: `f0` (frames,) in Hz, 0 where unvoiced; `envelope` (frames, bins), power; `aperiodicity` (frames, bins), 0 to 1."""

    f0: Array
    envelope: Array
    aperiodicity: Array


def pyworld() -> ModuleType:
    """The package, or a `UsageError` that says how to install it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pkg_resources complains of its own age
            return importlib.import_module("pyworld")
    except ImportError as error:
        missing = "pyworld is not installed" if error.name == "pyworld" else f"pyworld cannot be imported ({error})"
        raise UsageError(f"F0 and WORLD need pyworld, and {missing}: {INSTALL}") from None


def samples_of(wav: Tensor) -> Array:
    """(samples,) float64, as WORLD wants them. `DataError` for no samples or values that are not finite, `UsageError` for another shape."""
    if wav.dim() != 1 or not wav.is_floating_point():
        raise UsageError(
            f"a waveform must be a 1-D floating tensor in [-1, 1], not {wav.dtype} of shape {tuple(wav.shape)}"
        )
    if not len(wav):
        raise DataError("a waveform has no samples")
    samples: Array = wav.detach().cpu().double().contiguous().numpy()
    if not np.isfinite(samples).all():
        raise DataError("a waveform has samples that are NaN or infinite")
    return samples


def times(frames: int, frame_period_ms: float = FRAME_PERIOD_MS) -> Array:
    """Centres of the frames in seconds, (frames,)."""
    seconds: Array = np.arange(frames, dtype=np.float64) * (frame_period_ms / 1000)
    return seconds


def envelope(samples: Array, f0: Array, sample_rate: int, *, frame_period_ms: float = FRAME_PERIOD_MS) -> Array:
    """CheapTrick: the smooth power spectrum around each frame, (frames, bins). The FFT is the one that holds three periods of `FLOOR_HZ`."""
    return _spectral(pyworld().cheaptrick, samples, f0, sample_rate, frame_period_ms)


def analyse(samples: Array, f0: Array, sample_rate: int, *, frame_period_ms: float = FRAME_PERIOD_MS) -> Analysis:
    """Envelope and aperiodicity for an F0 of the same frames."""
    power = envelope(samples, f0, sample_rate, frame_period_ms=frame_period_ms)
    return Analysis(f0, power, _spectral(pyworld().d4c, samples, f0, sample_rate, frame_period_ms))


def synthesise(
    analysis: Analysis, sample_rate: int, samples: int, *, frame_period_ms: float = FRAME_PERIOD_MS
) -> Array:
    """The signal of an analysis, (samples,) float64: cut, or followed by zeros."""
    signal: Array = pyworld().synthesize(
        analysis.f0, analysis.envelope, analysis.aperiodicity, sample_rate, frame_period_ms
    )[:samples]
    return np.pad(signal, (0, samples - len(signal)))


def _spectral(function: Any, samples: Array, f0: Array, sample_rate: int, frame_period_ms: float) -> Array:
    result: Array = function(samples, f0, times(len(f0), frame_period_ms), sample_rate)
    return result
