"""The alterations of masked acoustic models, drawn for a whole batch at once on its device.

Time, frequency and magnitude as TERA (https://arxiv.org/abs/2007.06028) and Mockingjay (https://arxiv.org/abs/1910.12638) have them, in S3PRL's forms:

- time: spans of one length, drawn once an utterance; about `proportion` of the frames. All spans of an utterance are zeroed (80 %), replaced by other
  spans of it (10 %) or left alone (10 %); they are to be reconstructed in every case. Where spans may overlap, the share comes out lower than asked.
- frequency: one band an utterance, of a uniform width from 0, zeroed on all frames.
- magnitude: now and then a whole batch gets Gaussian noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headwater.nn.lengths import mask

ZEROED, REPLACED = 0.8, 0.9  # of a uniform draw: below the first, below the second, else left alone
NOISE_STD = 0.2


@dataclass(frozen=True)
class Masking:
    """A policy.

    proportion: of frames in spans. span: shortest and longest, in frames. overlap: whether spans may; else they start on a grid of `bucket` spans.
    band: the widest masked band, in dims. noise: the share of batches that get noise.
    """

    proportion: float = 0.15
    span: tuple[int, int] = (7, 7)
    overlap: bool = True
    bucket: float = 1.5
    band: int = 0
    noise: float = 0.0

    @property
    def unmasked(self) -> bool:
        """Whether nothing is ever masked: then all frames are to be reconstructed, from what noise leaves of them."""
        return self.proportion == 0 and self.band == 0

    def too_short(self, frames: int) -> bool:
        """Whether an utterance of so many frames cannot be masked: not one span of it would be."""
        return self.proportion > 0 and round(frames * self.proportion / self.span[1]) < 1


@dataclass(frozen=True)
class Masks:
    """What was drawn for B utterances of at most T frames of D dims.

    time: (B, T) bool, frames in spans. source: (B, T) int64, the frame that takes its place where spans are replaced. dice: (B,) in [0, 1), the fate of the
    spans. band: (B, D) bool. noise: (B, T, D), what is added; None for a policy without.
    unmasked: see `Masking`.
    """

    time: Tensor
    source: Tensor
    dice: Tensor
    band: Tensor
    noise: Tensor | None
    unmasked: bool = False

    def rows(self, rank: int, ranks: int, size: int) -> Masks:
        """One rank's share, dealt as `headwater.data.batching.deal` deals, of utterances of at most `size` frames."""
        own = slice(rank, None, ranks)
        noise = None if self.noise is None else self.noise[own, :size]
        return Masks(
            self.time[own, :size], self.source[own, :size], self.dice[own], self.band[own], noise, self.unmasked
        )

    def apply(self, x: Tensor) -> Tensor:
        """(B, T, D) altered."""
        zero = self.time & (self.dice < ZEROED)[:, None]
        replace = self.time & ((self.dice >= ZEROED) & (self.dice < REPLACED))[:, None]
        other = x.gather(1, self.source[:, :, None].expand_as(x))
        altered = torch.where(replace[:, :, None], other, x)
        altered = altered.masked_fill(zero[:, :, None] | self.band[:, None, :], 0.0)
        return altered if self.noise is None else altered + self.noise.to(altered.dtype)

    def labels(self, lengths: Tensor, dim: int) -> Tensor:
        """(B, T, dim) bool: what is to be reconstructed; padding never. A target of other dims has the band at the same indices."""
        size = min(dim, self.band.shape[1])
        band = torch.nn.functional.pad(self.band[:, :size], (0, dim - size))
        valid = mask(lengths, self.time.shape[1])
        return (self.time[:, :, None] | band[:, None, :] | self.unmasked) & valid[:, :, None]


def draw(policy: Masking, lengths: Tensor, dim: int, generator: torch.Generator) -> Masks:
    """Masks of utterances of `lengths` (B,) frames of `dim` dims, on the device of `lengths`, which `generator` must be on, too."""
    batch, size, device = len(lengths), int(lengths.max()), lengths.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    def whole(low: Tensor | int, high: Tensor) -> Tensor:
        """Uniform whole numbers, both ends included."""
        return low + (uniform(*high.shape) * (high - low + 1)).long()

    time = torch.arange(size, device=device)
    span = whole(policy.span[0], torch.full((batch,), policy.span[1], device=device))
    last = (lengths - span - 1).clamp(min=0)
    count = (lengths * policy.proportion / span).round()
    allowed = time <= last[:, None]
    if not policy.overlap:
        first = whole(0, torch.minimum(span, last))[:, None]
        step = (span * policy.bucket).round().long()[:, None]
        allowed &= (time >= first) & ((time - first) % step == 0)
    order = _ranking(uniform(batch, size), allowed)
    chosen = (order < count[:, None]) & allowed
    # The span that covers a frame is the one that starts last at or before it.
    start = torch.where(chosen, time, -1).cummax(1).values
    covered = (start >= 0) & (time - start < span[:, None]) & (time < lengths[:, None])
    # Spans that replace: as many other starts; the j-th chosen one takes the j-th of these.
    theirs = _ranking(uniform(batch, size), time <= last[:, None]).argsort(1)
    other = theirs.gather(1, order.gather(1, start.clamp(min=0)).clamp(max=size - 1))
    source = torch.where(covered, (other + time - start).clamp(max=size - 1), time)
    width = whole(0, torch.full((batch,), policy.band, device=device))
    # A band of all dims has nowhere to start, and masks nothing: so S3PRL.
    width = width * (width < dim)
    low = whole(0, (dim - width - 1).clamp(min=0))
    channel = torch.arange(dim, device=device)
    band = (channel >= low[:, None]) & (channel < (low + width)[:, None])
    dice = uniform(batch)
    noise = None
    if policy.noise > 0:
        noise = NOISE_STD * torch.randn(batch, size, dim, generator=generator, device=device)
        noise = noise * (uniform(1) < policy.noise)
    return Masks(covered, source, dice, band, noise, policy.unmasked)


def _ranking(keys: Tensor, allowed: Tensor) -> Tensor:
    """(B, T) int64: each allowed position's place in the order of `keys`; those not allowed come last."""
    return keys.masked_fill(~allowed, 2.0).argsort(1).argsort(1)
