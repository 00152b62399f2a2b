"""Sources of the neural source-filter models: harmonics of F0 (hn-nsf, hn-sinc-nsf), decaying noise behind each pulse (cyc-noise-nsf).

Phases are sums over frames in float64, wrapped before anything is rounded: after a minute they are as exact as at the start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from headwater.vocoder.draws import Draws

SINE_AMPLITUDE = 0.1
NOISE_STD = 0.003
DECAY = 0.870  # beta of Wang & Yamagishi, Interspeech 2020
_BURST_DECAYS = 4.6  # a burst ends where e^-4.6, one percent, would be left at a decay of 1


class Sources(NamedTuple):
    """(B, samples) each: what the harmonic branch and the noise branch of the filters start from."""

    harmonic: Tensor
    noise: Tensor


def phase(f0: Tensor, hop: int, sample_rate: int, *, restart: bool = False) -> Tensor:
    """The phase of F0 in cycles, wrapped into [0, 1).

    Args:
        f0: (B, T) in Hz, 0 where unvoiced: there the phase stands still.
        hop: samples a frame, through which F0 is constant.
        restart: every voiced run begins anew.

    Returns (B, T * hop) float64: the inclusive sum of the cycles of all samples so far.
    """
    step = f0.double() / sample_rate
    ends = (hop * step).cumsum(1)
    before = ends - hop * step
    if restart:
        voiced = f0 > 0
        begins = voiced & ~torch.nn.functional.pad(voiced, (1, -1))
        before = before - torch.where(begins, before, 0.0).cummax(1).values
    inside = torch.arange(1, hop + 1, device=f0.device, dtype=torch.float64)
    return (before[:, :, None] % 1 + step[:, :, None] * inside).flatten(1) % 1


def sines(f0: Tensor, harmonics: int, initial: Tensor, hop: int, sample_rate: int) -> Tensor:
    """F0 and its overtones without noise, (B, samples, harmonics) float32, amplitude `SINE_AMPLITUDE`, zero where unvoiced.

    Args:
        initial: (B, harmonics) phases in cycles; the first is taken as 0.
    """
    order = torch.arange(1, harmonics + 1, device=f0.device)
    start = initial.to(f0.device) * (order > 1)
    cycles = phase(f0, hop, sample_rate).float()[:, :, None] * order + start[:, None]
    voiced = (f0 > 0).repeat_interleave(hop, 1)
    return SINE_AMPLITUDE * torch.sin(2 * math.pi * cycles) * voiced[:, :, None]


class HarmonicSource(nn.Module):
    """Sines of F0 and its overtones with a little noise, merged into one; the noise branch gets white noise.

    Draws, in order: uniform (harmonics) for phases, normal (samples, harmonics), normal (samples, 1).
    """

    def __init__(self, harmonics: int, hop: int, sample_rate: int) -> None:
        super().__init__()
        self.harmonics, self.hop, self.sample_rate = harmonics, hop, sample_rate
        self.merge = nn.Linear(harmonics, 1)

    def forward(self, f0: Tensor, lengths: Sequence[int], draws: Draws) -> Sources:
        """F0 (B, T) in Hz, frames of each utterance."""
        samples = [length * self.hop for length in lengths]
        clean = sines(f0, self.harmonics, draws.uniform(self.harmonics), self.hop, self.sample_rate)
        voiced = (f0 > 0).repeat_interleave(self.hop, 1)[:, :, None]
        level = torch.where(voiced, NOISE_STD, SINE_AMPLITUDE / 3)
        noisy = clean + level * draws.normal(samples, self.harmonics).to(clean)
        noise = draws.normal(samples, 1).to(clean)[:, :, 0] * (SINE_AMPLITUDE / 3)
        return Sources(torch.tanh(self.merge(noisy))[:, :, 0], noise)


class CyclicNoiseSource(nn.Module):
    """One burst of decaying noise behind each pulse of F0, and white noise where unvoiced (Wang & Yamagishi, Interspeech 2020).

    The burst's length and decay follow the mean F0 of an utterance's voiced samples, also in batches: the published code takes that of the batch, which its
    recipe has one utterance in. An utterance without any voiced frame gets no burst, and only noise.

    Draws, in order: uniform (1) and normal (samples, 1), whose results the published model cancels; normal (samples, 1) for noise at pulses and where unvoiced,
    normal (burst, 1), normal (samples, 1) for the noise branch.
    """

    def __init__(self, hop: int, sample_rate: int) -> None:
        super().__init__()
        self.hop, self.sample_rate = hop, sample_rate

    def forward(self, f0: Tensor, lengths: Sequence[int], draws: Draws) -> Sources:
        """F0 (B, T) in Hz, frames of each utterance."""
        samples = [length * self.hop for length in lengths]
        draws.uniform(1)
        draws.normal(samples, 1)
        noise = draws.normal(samples, 1).to(f0)[:, :, 0] * NOISE_STD
        voiced = (f0 > 0).repeat_interleave(self.hop, 1)
        pulses = self.pulses(f0)
        train = pulses + noise * (pulses != 0)
        cyclic = causal_convolution(train, self.bursts(f0, draws)) + noise * ~voiced
        return Sources(cyclic, draws.normal(samples, 1).to(f0)[:, :, 0] * (NOISE_STD / 3))

    def pulses(self, f0: Tensor) -> Tensor:
        """(B, samples): the value of a cosine of F0 at its peaks within voiced runs, and at the first sample of each; zero elsewhere."""
        cycles = phase(f0, self.hop, self.sample_rate, restart=True)
        voiced = (f0 > 0).repeat_interleave(self.hop, 1)
        wave = torch.cos(2 * math.pi * cycles) * voiced
        # Beyond both ends it is unvoiced.
        wave_before, wave_after = (nn.functional.pad(wave, way) for way in ((1, -1), (-1, 1)))
        voiced_before, voiced_after = (nn.functional.pad(voiced, way) for way in ((1, -1), (-1, 1)))
        peak = (wave > wave_before) & (wave > wave_after) & voiced_before & voiced_after
        return (wave * (voiced & (peak | ~voiced_before))).float()

    def bursts(self, f0: Tensor, draws: Draws) -> Tensor:
        """(B, samples of the longest burst), zero beyond the end of each."""
        voiced = f0 > 0
        mean = (f0.double() * voiced).sum(1) / voiced.sum(1)  # NaN where there is none
        sizes = [int(_BURST_DECAYS * self.sample_rate / one) if one == one else 0 for one in mean.tolist()]
        if not any(sizes):
            return f0.new_zeros(len(f0), 1)
        drawn = draws.normal(sizes, 1).to(f0)[:, :, 0] * NOISE_STD
        time = torch.arange(drawn.shape[1], device=f0.device)
        decay = torch.exp(-time * (mean.nan_to_num(1.0) / (DECAY * self.sample_rate))[:, None])
        return drawn * decay.to(f0)


def causal_convolution(x: Tensor, kernel: Tensor) -> Tensor:
    """(B, T) with (B, L), row by row -> (B, T)."""
    size = x.shape[1] + kernel.shape[1]
    product = torch.fft.rfft(x, size) * torch.fft.rfft(kernel, size)
    return torch.fft.irfft(product, size)[:, : x.shape[1]]
