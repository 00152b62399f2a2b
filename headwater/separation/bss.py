"""BSS-eval, version 3 (Vincent, Gribonval, Fevotte 2006), of any number of mixtures at once; and what an improvement is.

An estimate is split by projections: on its source delayed by 0 to 511 samples (the target), and on all sources so delayed (target and interference); the rest
is artefacts. The projections need only correlations, by FFT, and one system of equations a mixture, whose matrix has Toeplitz blocks; no signal is ever
filtered. All of it is float64. mir_eval and museval's v3 give the same numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from headwater.nn.lengths import mask
from headwater.separation.losses import assign, chosen, gram, si_sdr

TAPS = 512
LIMIT = 100.0  # dB: improvements are of ratios up to this, as SI-SDR's are


class BssEval(NamedTuple):
    """dB, (B, C) float64 by source, of its own estimate: `permutation` (B, C) has the best mean SIR. NaN in mixtures with a silent source or estimate."""

    sdr: Tensor
    sir: Tensor
    sar: Tensor
    permutation: Tensor


class _Energies(NamedTuple):
    """Of each signal (B, M), of its part along all sources (B, M), and along each one (B, M, C)."""

    whole: Tensor
    along_all: Tensor
    along: Tensor


def bss_eval(estimates: Tensor, sources: Tensor, lengths: Tensor | None = None, *, taps: int = TAPS) -> BssEval:
    """Of estimates and sources (B, C, T), of which (B,) samples are valid."""
    e, s = _valid(estimates, lengths), _valid(sources, lengths)
    energies = _project(e, s, taps)
    sdr, sir, sar = _ratios(energies)
    silent = (_powers(e) == 0).any(1) | (_powers(s) == 0).any(1)
    order = assign(-sir.masked_fill(silent[:, None, None], 0.0))
    own = [chosen(ratio, order).masked_fill(silent[:, None], torch.nan) for ratio in (sdr, sir, sar)]
    return BssEval(own[0], own[1], own[2], order)


def mixture_sdr(mixture: Tensor, sources: Tensor, lengths: Tensor | None = None, *, taps: int = TAPS) -> Tensor:
    """SDR of the unprocessed mixtures (B, T) for each source: (B, C) dB, what an SDRi is measured from. NaN as in `bss_eval`."""
    x, s = _valid(mixture[:, None], lengths), _valid(sources, lengths)
    sdr = _ratios(_project(x, s, taps))[0][:, 0]
    silent = (_powers(x)[:, 0] == 0) | (_powers(s) == 0).any(1)
    return sdr.masked_fill(silent[:, None], torch.nan)


class Improvement(NamedTuple):
    """Of each source (B, C) dB float64: the metric of its estimate less that of the mixture; and of the estimates, which is whose (B, C)."""

    value: Tensor
    mixture: Tensor
    permutation: Tensor


def si_snr_improvement(
    estimates: Tensor,
    sources: Tensor,
    mixture: Tensor,
    lengths: Tensor | None = None,
    *,
    permutation: Tensor | None = None,
) -> Improvement:
    """SI-SNRi, in the order with the best mean or a given one. S3PRL's SI-SDRi is the same: its evaluation takes the means off, too (pb_bss_eval 0.0.2)."""
    own = si_sdr(gram(estimates, sources, lengths))
    before = si_sdr(gram(mixture[:, None], sources, lengths))[:, 0]
    order = assign(-own) if permutation is None else permutation
    return Improvement(chosen(own, order) - before, before, order)


def sdr_improvement(
    estimates: Tensor, sources: Tensor, mixture: Tensor, lengths: Tensor | None = None, *, taps: int = TAPS
) -> Improvement:
    """SDRi, in the order with the best mean SIR; ratios end at -100 and 100 dB. NaN as in `bss_eval`."""
    found, before = bss_eval(estimates, sources, lengths, taps=taps), mixture_sdr(mixture, sources, lengths, taps=taps)
    own, before = (ratio.clamp(-LIMIT, LIMIT) for ratio in (found.sdr, before))
    return Improvement(own - before, before, found.permutation)


def _valid(x: Tensor, lengths: Tensor | None) -> Tensor:
    x = x.double()
    return x if lengths is None else x.masked_fill(~mask(lengths, x.shape[2])[:, None], 0.0)


def _powers(x: Tensor) -> Tensor:
    return torch.einsum("bct,bct->bc", x, x)


def _ratios(energies: _Energies) -> tuple[Tensor, Tensor, Tensor]:
    """SDR, SIR, SAR in dB, (B, M, C). Projections are orthogonal, so that energies of differences are differences of energies."""
    whole, along_all, along = energies.whole[:, :, None], energies.along_all[:, :, None], energies.along
    return (
        _decibels(along, whole - along),
        _decibels(along, along_all - along),
        _decibels(along_all, whole - along_all).expand_as(along),
    )


def _decibels(signal: Tensor, noise: Tensor) -> Tensor:
    # Rounding can make nothing a little less; a ratio beyond that of float64 is not known.
    tiny = torch.finfo(torch.float64).tiny
    floor = (signal * torch.finfo(torch.float64).eps ** 2).clamp(min=tiny)
    return 10 * torch.log10(signal.clamp(min=tiny) / torch.maximum(noise, floor))


def _project(signals: Tensor, sources: Tensor, taps: int) -> _Energies:
    """Of signals (B, M, T) by sources (B, C, T), each delayed by 0 to taps - 1 samples."""
    count = sources.shape[1]
    size = _fft_size(sources.shape[2] + taps - 1)
    heard, played = torch.fft.rfft(signals, size), torch.fft.rfft(sources, size)
    # <source j delayed by k, signal i>, and the same among sources, where lags go both ways.
    with_signals = torch.fft.irfft(played.conj()[:, None] * heard[:, :, None], size)[..., :taps]
    among = torch.fft.irfft(played.conj()[:, :, None] * played[:, None], size)
    delay = torch.arange(taps, device=sources.device)
    # Block (j, l) at (m, n): source j delayed by m with source l delayed by n, a lag of m - n.
    blocks = among[..., (delay[:, None] - delay[None, :]) % size]
    matrix = blocks.permute(0, 1, 3, 2, 4).flatten(3, 4).flatten(1, 2)
    sides = with_signals.flatten(2)
    along_all = (_solve(matrix, sides.transpose(1, 2)).transpose(1, 2) * sides).sum(2)
    own = torch.stack([blocks[:, source, source] for source in range(count)], 1)
    each = with_signals.permute(0, 2, 3, 1)
    along = (_solve(own, each) * each).sum(2).transpose(1, 2)
    return _Energies(_powers(signals), along_all, along)


def _solve(matrix: Tensor, sides: Tensor) -> Tensor:
    """matrix^-1 sides; the shortest least-squares solution where the matrix has no inverse (sources that are alike, or silent)."""
    # By Cholesky, as these are Gram matrices: half the work of LU, whose pivots torch 2.13 once refused on a busy machine, and not again.
    factor, info = torch.linalg.cholesky_ex(matrix)
    answer = torch.cholesky_solve(sides, factor)
    singular = (info != 0) | ~answer.isfinite().flatten(-2).all(-1)
    if bool(singular.any()):
        answer = answer.clone()
        answer[singular] = torch.linalg.pinv(matrix[singular], hermitian=True) @ sides[singular]
    return answer


def _fft_size(least: int) -> int:
    from scipy.fft import next_fast_len

    return int(next_fast_len(least, real=True))
