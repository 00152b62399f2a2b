"""Losses of the probe vocoder: multi-resolution STFT (Yamamoto et al., Parallel WaveGAN, ICASSP 2020) and L1 of log mel magnitudes. Exact in padded batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from headwater.vocoder.mel import LogMel
from headwater.vocoder.spectra import Resolution, frames, mean_of_frames, power, spectrum

RESOLUTIONS = (Resolution(1024, 120, 600), Resolution(2048, 240, 1200), Resolution(512, 50, 240))
_FLOOR = 1e-7  # of a power


def stft_distances(wav: Tensor, target: Tensor, samples: Tensor) -> Tensor:
    """Spectral convergence plus mean absolute difference of log magnitudes, averaged over `RESOLUTIONS`; of each utterance, (B,).

    Waveforms are (B, T), zero beyond `samples` (B,). Zeros follow beyond the ends, where Parallel WaveGAN's code reflects: so an utterance of any length has a
    value, the same alone and in a batch. Spectral convergence is an utterance's own, not that of a batch.
    """
    total = torch.zeros(len(wav), device=wav.device)
    for one in RESOLUTIONS:
        made, wanted = (_magnitude(signal, one) for signal in (wav, target))
        lengths = frames(samples, one)
        # Means over the same frames: their ratio is that of the sums.
        convergence = (
            mean_of_frames((wanted - made).square(), lengths) / mean_of_frames(wanted.square(), lengths)
        ).sqrt()
        total = total + convergence + mean_of_frames((made.log() - wanted.log()).abs(), lengths)
    return total / len(RESOLUTIONS)


def mel_distances(wav: Tensor, target: Tensor, samples: Tensor, mel: LogMel) -> Tensor:
    """Mean absolute difference of log mel magnitudes over frames and bands, of each utterance, (B,). Waveforms as in `stft_distances`."""
    return mean_of_frames((mel(wav) - mel(target)).abs(), mel.frames(samples))


class ProbeLoss(nn.Module):
    """`stft_weight` times `stft_distances` plus `mel_weight` times `mel_distances`."""

    def __init__(self, sample_rate: int, *, stft_weight: float = 1.0, mel_weight: float = 1.0) -> None:
        super().__init__()
        self.stft_weight, self.mel_weight = stft_weight, mel_weight
        self.mel = LogMel(sample_rate, high_hz=min(8000.0, sample_rate / 2))

    def forward(self, wav: Tensor, target: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """The sum over utterances and their number, for the loop to divide. Waveforms (B, T), zero beyond `samples` (B,)."""
        losses = self.stft_weight * stft_distances(wav, target, samples)
        losses = losses + self.mel_weight * mel_distances(wav, target, samples, self.mel)
        return losses.sum(), losses.new_tensor(len(losses))


def _magnitude(wav: Tensor, resolution: Resolution) -> Tensor:
    # Clamped before the root, whose slope at zero is infinite.
    return power(spectrum(wav, resolution)).clamp(min=_FLOOR).sqrt()
