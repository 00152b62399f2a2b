"""Which frames are masked: spans drawn for a whole batch at once, as fairseq draws them (https://arxiv.org/abs/2006.11477, section 3.1)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from headwater.config import Section
from headwater.nn.lengths import mask


class SpanSettings(Section):
    """About `probability` of the frames would be masked if spans never overlapped; 0.65 with spans of 10 masks about half of them."""

    probability: float = Field(0.65, gt=0, description="frames in spans, before these overlap")
    length: int = Field(10, ge=1, description="frames of a span")
    least: int = Field(2, ge=1, description="spans of an utterance at least")
    same: bool = Field(
        True, description="all utterances of a batch keep as many masked frames as the one that has fewest"
    )

    def too_short(self, frames: int) -> bool:
        """Whether an utterance of so many frames has no room for its spans, or nothing besides them."""
        return frames < self.length + self.least


def draw(policy: SpanSettings, lengths: Tensor, generator: torch.Generator) -> Tensor:
    """(B, T) bool on the device of `lengths` (B,), which `generator` must be on, too; T is the longest.

    Spans start at different frames below `length - span`, and may overlap; their number is rounded up or down at random.
    """
    size, device = int(lengths.max()), lengths.device
    time = torch.arange(size, device=device)
    share = lengths * policy.probability / policy.length
    chance = torch.rand(len(lengths), generator=generator, device=device)
    count = (share + chance).floor().clamp(min=policy.least)
    keys = torch.rand(len(lengths), size, generator=generator, device=device)
    starts = ranking(keys, time < (lengths - policy.length)[:, None]) < count[:, None]
    starts &= time < (lengths - policy.length)[:, None]
    latest = torch.where(starts, time, -policy.length).cummax(1).values
    covered = (time - latest < policy.length) & mask(lengths, size)
    # Drawn in any case, so that what comes after is the same with `same` and without.
    keys = torch.rand(len(lengths), size, generator=generator, device=device)
    return covered & (ranking(keys, covered) < covered.sum(1).min()) if policy.same else covered


def ranking(keys: Tensor, allowed: Tensor) -> Tensor:
    """(B, T) int64: the place of each allowed position in the order of `keys`, in [0, 1); those not allowed come last."""
    return keys.masked_fill(~allowed, 2.0).argsort(1).argsort(1)


def compact(x: Tensor, covered: Tensor) -> tuple[Tensor, Tensor]:
    """Frames (B, T, ...) where `covered` (B, T) -> (B, M, ...), in order, and which of these are there, (B, M) bool; M is the most that a row has."""
    counts = covered.sum(1)
    most = int(counts.max())
    order = torch.argsort(covered.logical_not().to(torch.int8), dim=1, stable=True)[:, :most]
    index = order.view(*order.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])
    return x.gather(1, index), mask(counts, most)
