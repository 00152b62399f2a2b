"""SUPERB-SG's separation head (https://arxiv.org/abs/2203.06849): masks on the mixture's spectrum, by a recurrent net on an upstream's frames.

The spectrum has the upstream's stride, so that a frame of it is a frame of features. Two versions are in S3PRL: the first masks the spectrum, the second its
log1p magnitude; both are trained with the best order of speakers for each utterance. `enhancement` is the same with one speaker.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from headwater.config import Section, Share
from headwater.errors import UsageError
from headwater.nn.lengths import mask, zero_beyond
from headwater.nn.recurrent import pack, unpack
from headwater.separation.losses import Fit, assign, chosen, masked_mse
from headwater.separation.spectrum import Stft

Target = Literal["AM", "PSM", "NPSM"]

# Features may be so many frames more or fewer than the spectrum's; more is another stride.
TOLERANCE = 4
_END = 512  # samples that `quiet_end` looks at
_SILENT_END = 2048  # zeros at the end, with which it has nothing to do


class SuperbConfig(Section):
    """S3PRL's `separation_stft` by default; `separation_stft2` has 1024, 1024, 256, 0.1, sigmoid and log1p."""

    speakers: int = Field(2, ge=1, le=6)
    n_fft: int = Field(512, ge=2, le=2**16, multiple_of=2)
    win_length: int = Field(512, ge=32, le=2**16)
    rnn: Literal["LSTM", "GRU"] = "LSTM"
    layers: int = Field(3, ge=1, le=100)
    hidden: int = Field(896, ge=1, le=10**5)
    dropout: Share = 0.5
    bidirectional: bool = True
    activation: Literal["relu", "sigmoid"] = Field("relu", description="of the masks")
    target: Target = Field(
        "NPSM", description="AM: the sources' magnitudes; PSM: their part in phase with the mixture; NPSM: not below 0"
    )
    loss: Literal["MSE", "L1"] = "MSE"
    log1p: bool = Field(False, description="masks and targets are of ln(1 + magnitude)")

    @model_validator(mode="after")
    def _fits(self) -> SuperbConfig:
        if self.win_length > self.n_fft:
            raise ValueError(f"win_length {self.win_length} is longer than n_fft {self.n_fft}")
        if self.log1p and self.target == "PSM":
            raise ValueError("log1p is not defined for target PSM, which goes below -1; use NPSM or AM")
        return self

    def stft(self, hop: int) -> Stft:
        return Stft(self.n_fft, hop, self.win_length)


class SuperbHead(nn.Module):
    """Frames (B, K, D) -> masks (B, speakers, K, n_fft / 2 + 1), zero beyond the lengths. Parameters have S3PRL's names."""

    def __init__(self, in_dim: int, config: SuperbConfig) -> None:
        super().__init__()
        self.config = config
        kind = nn.LSTM if config.rnn == "LSTM" else nn.GRU
        self.rnn = kind(
            in_dim,
            config.hidden,
            config.layers,
            batch_first=True,
            # torch warns of dropout between the layers of one.
            dropout=config.dropout if config.layers > 1 else 0.0,
            bidirectional=config.bidirectional,
        )
        self.drop = nn.Dropout(config.dropout)
        width = config.hidden * (1 + config.bidirectional)
        self.linear = nn.ModuleList(nn.Linear(width, config.n_fft // 2 + 1) for _ in range(config.speakers))

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        hidden = self.drop(unpack(self.rnn(pack(frames, lengths))[0], frames.shape[1]))
        scores = torch.stack([linear(hidden) for linear in self.linear], 1)
        masks = scores.relu() if self.config.activation == "relu" else scores.sigmoid()
        return masks.masked_fill(~mask(lengths, frames.shape[1])[:, None, :, None], 0.0)


def match_frames(features: Tensor, lengths: Tensor, wanted: Tensor, repeat: int = 1) -> Tensor:
    """Features (B, T, D) of which (B,) are valid, each taken `repeat` times -> (B, max wanted, D): cut, or followed by zeros, to `wanted` (B,) frames.

    Raises:
        UsageError: more than four frames are missing or left: the spectrum does not have the features' stride.
    """
    x, found = features.repeat_interleave(repeat, 1), lengths * repeat
    # A frame that is repeated stands for one of the features.
    off = (found - wanted).abs() > TOLERANCE * repeat
    if bool(off.any()):
        row = int(off.nonzero()[0])
        raise UsageError(
            f"{int(found[row])} frames of features stand against {int(wanted[row])} of the spectrum: its hop must be the upstream's stride, "
            "or a whole part of it"
        )
    size = int(wanted.max())
    return zero_beyond(functional.pad(zero_beyond(x, found), (0, 0, 0, size - x.shape[1])), wanted)


def targets(sources: Tensor, mixture: Tensor, kind: Target) -> Tensor:
    """What masked mixtures are to be: (B, C, K, F) of source spectra (B, C, K, F) for mixture spectra (B, K, F), both complex."""
    levels = sources.abs()
    if kind == "AM":
        return levels
    cosine = torch.cos(mixture[:, None].angle() - sources.angle())
    return levels * (cosine if kind == "PSM" else cosine.relu())


def mask_loss(config: SuperbConfig, masks: Tensor, mixture: Tensor, sources: Tensor, frames: Tensor) -> Fit:
    """The loss of each utterance, in its best order of speakers: errors summed over bins, divided by its frames, mean over speakers.

    Args:
        masks: (B, C, K, F). mixture (B, K, F) and sources (B, C, K, F): complex spectra, of which (B,) frames are valid.
    """
    levels, wanted = mixture.abs(), targets(sources, mixture, config.target)
    if config.log1p:
        levels, wanted = levels.log1p(), wanted.log1p()
    if config.loss == "MSE":
        return masked_mse(masks, levels, wanted, frames)
    valid = mask(frames, masks.shape[2])[:, None, :, None].to(masks)
    # Absolute errors are no inner products; one pair after the other keeps memory at that of the masks.
    made = masks * levels[:, None]
    count = masks.shape[1]
    rows = [
        torch.stack([((made[:, i] - wanted[:, j]).abs() * valid[:, 0]).sum((1, 2)) for j in range(count)], 1)
        for i in range(count)
    ]
    cost = torch.stack(rows, 1)
    order = assign(cost)
    return Fit(chosen(cost, order).mean(1) / frames, order)


def apply_masks(config: SuperbConfig, masks: Tensor, mixture: Tensor) -> Tensor:
    """Estimated spectra (B, C, K, F), with the mixture's phase, of masks (B, C, K, F) on its spectrum (B, K, F)."""
    if not config.log1p:
        return masks * mixture[:, None]
    levels = mixture.abs()
    return (masks * levels.log1p()[:, None]).expm1() * (mixture / (levels + 1e-10))[:, None]


def quiet_end(wavs: Tensor) -> Tensor:
    """(..., T) without the impulse that an inverse transform may leave at the end, where its windows fade: S3PRL's rule.

    Of the last 512 samples before the last one that is not zero, all are silenced from the first that is louder than everything before them; a signal that is
    shorter, or ends in more than 2048 zeros, stays.
    """
    samples = wavs.shape[-1]
    flat = wavs.reshape(-1, samples)
    place = torch.arange(samples, device=wavs.device)
    levels = flat.abs()
    last = torch.where(levels > 0, place, -1).amax(1, keepdim=True)
    start = last + 1 - _END
    before = place < start
    loudest = torch.where(before, levels, -torch.inf).amax(1, keepdim=True)
    sticks_out = ~before & (place <= last) & (levels > loudest)
    first = torch.where(sticks_out, place, samples).amin(1, keepdim=True)
    touched = (start > 0) & (last + 1 >= samples - _SILENT_END)
    return flat.masked_fill(touched & (place >= first), 0.0).reshape(wavs.shape)
