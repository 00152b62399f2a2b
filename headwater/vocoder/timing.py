"""From an upstream's frames to a synthesis head's: whole numbers of samples, so that every length comes out as it was asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headwater.errors import UsageError
from headwater.nn.lengths import frame_index

# A head's frame: short enough for a pitch period, long enough that a processor has little to do.
LEAST_HOP, MOST_HOP = 64, 200


@dataclass(frozen=True)
class Plan:
    """How frames of one stride become frames of one hop. All times are in samples of the waveform that is made.

    Attributes:
        stride, offset: of the upstream: from frame to frame, and the centre of frame 0.
        hop: from one frame of the head to the next. Frame j makes the samples from `j * hop` to `(j + 1) * hop`, its neighbours helping.
        fold: how many upstream frames go side by side into one of the head, where the upstream's are closer together.
    """

    stride: int
    offset: float
    hop: int
    fold: int

    @property
    def repeated(self) -> bool:
        """Whether one upstream frame serves several of the head, which then must know where in it they lie."""
        return self.hop < self.stride

    def frames(self, samples: Tensor) -> Tensor:
        """(B,) samples -> (B,) frames of the head that cover them."""
        return torch.div(samples + self.hop - 1, self.hop, rounding_mode="floor")

    def index(self, size: int, lengths: Tensor) -> Tensor:
        """(B, size, fold): the upstream frame that lies nearest to each slot of each head frame, of `lengths` (B,) upstream frames.

        A tie goes to the later one: where frames are centred on multiples of a stride that is also the hop, frame 0 is not asked for.
        """
        slot = torch.arange(size * self.fold, device=lengths.device)
        centres = torch.div((2 * slot + 1) * self.hop, 2 * self.fold, rounding_mode="floor")
        return frame_index(centres[None].expand(len(lengths), -1), lengths, self.stride, self.offset).unflatten(
            1, (size, self.fold)
        )

    def position(self, index: Tensor) -> Tensor:
        """(B, size, 1) float32: where each head frame lies in its upstream frame, -0.5 to 0.5 of a stride (beyond that outside of all frames)."""
        centres = torch.arange(index.shape[1], device=index.device) * self.hop + self.hop / 2
        away = (centres[None] - (index[:, :, 0] * self.stride + self.offset)) / self.stride
        return away.clamp(-1.0, 1.0).float()[:, :, None]


def plan(stride: int, offset: float, *, hop: int | None = None) -> Plan:
    """The plan for an upstream's frames.

    Args:
        stride, offset: samples of the waveform that is made, which must have the upstream's sample rate or a whole multiple of it.
        hop: the head's, where it is given; else the largest divisor of the stride from 64 to 200. A stride without any gets the hop of that range that needs
            least repetition, 160, and frames are indexed by time; one below 64 is folded: the hop is its smallest multiple from 64.

    Raises:
        UsageError: a stride or hop below 1.
    """
    if stride < 1 or (hop is not None and hop < 2):
        raise UsageError(f"a vocoder cannot be planned for frames every {stride} samples and a hop of {hop}")
    if hop is None:
        divisors = [size for size in range(LEAST_HOP, MOST_HOP + 1) if stride % size == 0]
        smallest_multiple = -(-LEAST_HOP // stride) * stride
        hop = max(divisors) if divisors else smallest_multiple if stride < LEAST_HOP else 160
    return Plan(stride, offset, hop, fold=-(-hop // stride))
