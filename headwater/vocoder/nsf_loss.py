"""The published losses of the neural source-filter family: log power spectra at three resolutions, and cyc-noise-nsf's masked ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headwater.vocoder.draws import Draws
from headwater.vocoder.nsf import Rendering, SourceFilter
from headwater.vocoder.source import sines
from headwater.vocoder.spectra import Resolution, frames, mean_of_frames, power, spectrum

RESOLUTIONS = (Resolution(512, 80, 320), Resolution(128, 40, 80), Resolution(2048, 640, 1920))
_FLOOR = 1e-5
_SILENT = 1e-7


def log_power_distances(wav: Tensor, target: Tensor, samples: Tensor) -> tuple[Tensor, ...]:
    """Mean squared difference of ln(|X|^2 + 1e-5) of each utterance, (B,) for each of `RESOLUTIONS`. Waveforms (B, samples), zero beyond their lengths."""
    return tuple(
        mean_of_frames(
            (_log(power(spectrum(wav, one))) - _log(power(spectrum(target, one)))).square(), frames(samples, one)
        )
        for one in RESOLUTIONS
    )


def nsf_loss(
    model: SourceFilter, rendering: Rendering, target: Tensor, f0: Tensor, lengths: Tensor, draws: Draws
) -> tuple[Tensor, Tensor]:
    """The member's training loss, as the sum over utterances and their number.

    Args:
        target: (B, frames * hop), zero beyond each utterance.
        f0: (B, T) in Hz. lengths: (B,) frames.
        draws: those the rendering was made of; cyc-noise-nsf goes on with them: uniform (harmonics), normal (samples, harmonics), whose result is not used.
    """
    hop = model.settings.hop
    samples = lengths * hop
    losses = torch.stack(log_power_distances(rendering.wav, target, samples)).sum(0)
    if model.traits.cyclic:
        initial = draws.uniform(model.settings.harmonics)
        draws.normal(samples.tolist(), model.settings.harmonics)
        mask = sines(f0, model.settings.harmonics, initial, hop, model.settings.sample_rate).mean(2)
        losses = losses + masked_distances(rendering.blocks, target, mask, samples)
    return losses.sum(), losses.new_tensor(len(losses))


def masked_distances(blocks: Sequence[Tensor], target: Tensor, sine: Tensor, samples: Tensor) -> Tensor:
    """(B,): distances of each block's output and the target where `sine` (B, samples) has its harmonics, over blocks and resolutions.

    The mask of a frame is the sine's power, divided by its largest; a frame whose mean power is at most 1e-7 has none.
    """
    total = torch.zeros(len(target), device=target.device)
    for one in RESOLUTIONS:
        strength = power(spectrum(sine, one))
        audible = strength.mean(2, keepdim=True) > _SILENT
        mask = torch.where(audible, strength / strength.amax(2, keepdim=True), 0.0).square()
        wanted = _log(power(spectrum(target, one)) * mask)
        for block in blocks:
            difference = _log(power(spectrum(block, one)) * mask) - wanted
            total = total + mean_of_frames(difference.square(), frames(samples, one))
    return total


def _log(power: Tensor) -> Tensor:
    return (power + _FLOOR).log()
