"""Short-time spectra of padded batches: frames that an utterance alone would have, and means over these."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from headwater.nn.lengths import mask


class Resolution(NamedTuple):
    """One STFT, in samples."""

    n_fft: int
    hop: int
    window: int


def spectrum(wav: Tensor, resolution: Resolution) -> Tensor:
    """(B, samples) -> (B, 1 + samples // hop, n_fft // 2 + 1) complex: periodic Hann windows around the multiples of the hop, zeros beyond the ends.

    A batch must be zero beyond its lengths; then each utterance has the frames it has alone, `frames` of them.
    """
    n_fft, hop, size = resolution
    window = torch.hann_window(size, device=wav.device)
    return torch.stft(wav, n_fft, hop, size, window, center=True, pad_mode="constant", return_complex=True).transpose(
        1, 2
    )


def power(spectrum: Tensor) -> Tensor:
    """|X|^2 of a complex tensor."""
    return spectrum.real.square() + spectrum.imag.square()


def frames(samples: Tensor, resolution: Resolution) -> Tensor:
    """(B,) samples -> (B,) frames."""
    return 1 + torch.div(samples, resolution.hop, rounding_mode="floor")


def mean_of_frames(values: Tensor, lengths: Tensor) -> Tensor:
    """(B, T, ...) -> (B,): the mean over valid frames and whatever is in them."""
    valid = mask(lengths, values.shape[1]).to(values)
    per_frame = values.flatten(2).mean(2) if values.dim() > 2 else values
    return (per_frame * valid).sum(1) / lengths
