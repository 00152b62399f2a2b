"""Mel-cepstra of power spectra: the real cepstrum on a warped frequency axis (Tokuda et al., ICSLP 1994; `sp2mc` of SPTK)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.signal import lfilter

from headwater.errors import UsageError
from headwater.vocoder.world import Array

ORDER = 24
# The all-pass constants that come nearest to mel; 0.42 at 16 kHz is in use, too, and gives other distances.
ALPHA = {16000: 0.41, 22050: 0.455, 24000: 0.466, 48000: 0.554}


def alpha_of(sample_rate: int) -> float:
    """The all-pass constant for a sample rate in Hz. `UsageError` where none is customary."""
    if sample_rate not in ALPHA:
        raise UsageError(
            f"no all-pass constant for {sample_rate} Hz; there are some for {', '.join(map(str, ALPHA))} Hz. Give one, or resample"
        )
    return ALPHA[sample_rate]


def mel_cepstrum(power: Array, *, order: int = ORDER, alpha: float) -> Array:
    """(frames, bins) power spectra, 0 Hz to half the sample rate -> (frames, order + 1); coefficient 0 is the level."""
    cepstrum = np.fft.irfft(np.log(power))[:, : power.shape[1]]
    cepstrum[:, 0] /= (
        2  # the cepstrum of a power is twice that of a magnitude; its causal part is kept, which doubles all but the first
    )
    warped: Array = cepstrum @ warping(power.shape[1], order, alpha)
    return warped


@lru_cache(maxsize=8)
def warping(size: int, order: int, alpha: float) -> Array:
    """(size, order + 1): row n is the series of ((z + alpha) / (1 + alpha z))^n, z being a delay on the warped axis, up to the power `order`."""
    row = np.zeros(order + 1)
    row[0] = 1.0
    rows = [row]
    for _ in range(size - 1):
        rows.append(lfilter([alpha, 1.0], [1.0, alpha], rows[-1]))
    matrix = np.stack(rows)
    matrix.flags.writeable = False
    return matrix
