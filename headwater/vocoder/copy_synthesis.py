"""Copy-synthesis without a network: what analysis and synthesis alone lose. It bounds every trained vocoder from one side or the other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from headwater.errors import UsageError
from headwater.vocoder.f0 import Find, Tracking, track
from headwater.vocoder.mel import LogMel
from headwater.vocoder.world import analyse, samples_of, synthesise

ITERATIONS = 32
HARVEST = Tracking("harvest")
MOMENTUM = 0.99  # Perraudin et al., WASPAA 2013


def world(wav: Tensor, sample_rate: int, tracking: Tracking = HARVEST, *, find: Find = track) -> Tensor:
    """WORLD's analysis and synthesis of (samples,): F0 by `tracking`, CheapTrick, D4C. Returns (samples,) float32 on the CPU.

    The same input gives the same bits. Raises as `extract_f0`.
    """
    samples = samples_of(wav)
    f0 = find(samples, sample_rate, tracking)
    analysis = analyse(samples, f0, sample_rate, frame_period_ms=tracking.period_ms)
    return torch.from_numpy(synthesise(analysis, sample_rate, len(samples), frame_period_ms=tracking.period_ms)).float()


def griffin_lim(
    wav: Tensor,
    sample_rate: int,
    *,
    n_fft: int | None = None,
    hop: int | None = None,
    iterations: int = ITERATIONS,
    generator: torch.Generator,
) -> Tensor:
    """The magnitudes of (samples,) with phases found by Griffin-Lim. Returns (samples,) float32.

    Args:
        n_fft: samples of the FFT and its Hann window; by default the least power of two of 50 ms or more.
        hop: samples between frames, by default a quarter of `n_fft`.
        generator: draws the first phases, on the device of `wav`.

    Raises:
        UsageError: no waveform, or a hop that leaves gaps.
    """
    samples_of(wav)
    n_fft = n_fft or 2 ** math.ceil(math.log2(0.05 * sample_rate))
    hop = hop or n_fft // 4
    magnitude = _stft(wav.float(), n_fft, hop).abs()
    return phases_found(magnitude, hop, len(wav), iterations=iterations, generator=generator)


def mel_bound(wav: Tensor, mel: LogMel, *, iterations: int = ITERATIONS, generator: torch.Generator) -> Tensor:
    """(samples,) by way of its log mel magnitudes, the pseudo-inverse of the filter bank and Griffin-Lim: what mel frames say without any training.

    Returns (samples,) float32. Raises as `griffin_lim`.
    """
    samples_of(wav)
    magnitude = mel.magnitude_of(mel(wav.float()))
    return phases_found(magnitude.T, mel.hop, len(wav), iterations=iterations, generator=generator)


def phases_found(magnitude: Tensor, hop: int, samples: int, *, iterations: int, generator: torch.Generator) -> Tensor:
    """A signal (samples,) whose centred STFT under a periodic Hann window has nearly this `magnitude` (bins, 1 + samples // hop).

    Fast Griffin-Lim (Perraudin et al., WASPAA 2013): each estimate is pushed on along its last change.
    """
    n_fft = 2 * (magnitude.shape[0] - 1)
    if not 0 < hop <= n_fft // 2:
        raise UsageError(
            f"a hop of {hop} samples does not go with an FFT of {n_fft}: at most half of it, or gaps remain"
        )
    if iterations < 0:
        raise UsageError(f"Griffin-Lim is to run {iterations} iterations; 0 is the least")
    window = torch.hann_window(n_fft, device=magnitude.device)
    phase = 2 * math.pi * torch.rand(magnitude.shape, generator=generator, device=magnitude.device)
    estimate = torch.polar(magnitude, phase)
    last = torch.zeros_like(estimate)
    for _ in range(iterations):
        consistent = _stft(torch.istft(estimate, n_fft, hop, window=window, length=samples), n_fft, hop)
        pushed = consistent + MOMENTUM * (consistent - last)
        last = consistent
        estimate = magnitude * torch.sgn(pushed)
    return torch.istft(estimate, n_fft, hop, window=window, length=samples)


def _stft(wav: Tensor, n_fft: int, hop: int) -> Tensor:
    """(bins, 1 + samples // hop), zeros beyond the ends: a reflection would need as many samples as half the window."""
    window = torch.hann_window(n_fft, device=wav.device)
    return torch.stft(wav, n_fft, hop, window=window, pad_mode="constant", return_complex=True)
