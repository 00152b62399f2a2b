"""Files of any length in constant memory: they are answered window by window, and the answers are joined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """Pieces that a file is answered in: `seconds` each, one every `hop_seconds`, in samples at `rate`. A shorter file is answered whole."""

    seconds: float
    hop_seconds: float
    rate: int

    def __post_init__(self) -> None:
        if not 1 <= self.hop <= self.size:
            raise ValueError(f"windows of {self.size} samples cannot follow each other every {self.hop}")

    @property
    def size(self) -> int:
        return round(self.seconds * self.rate)

    @property
    def hop(self) -> int:
        return round(self.hop_seconds * self.rate)

    def starts(self, samples: int) -> Iterator[int]:
        """Where windows of a longer file begin; the last one ends with the file."""
        yield from range(0, samples - self.size, self.hop)
        yield samples - self.size

    def cut(self, stream: Iterable[Tensor], samples: int) -> Iterator[tuple[int, Tensor]]:
        """A file of so many samples, which comes in blocks -> its windows, each with the sample that it begins at."""
        held, first, blocks = torch.empty(0), 0, iter(stream)
        for start in self.starts(samples):
            held, first = held[start - first :], start
            waiting = [held]
            while sum(map(len, waiting)) < self.size:
                waiting.append(next(blocks))
            held = torch.cat(waiting)
            yield start, held[: self.size]


@dataclass(frozen=True)
class Block:
    """One window and its answer: the sample that it begins at, what was heard (samples,), and its signals (samples,) by name."""

    first: int
    wav: Tensor
    signals: Mapping[str, Tensor]


def overlap_add(blocks: Iterable[Block], windows: Windows) -> Iterator[Mapping[str, Tensor]]:
    """Signals of consecutive windows as one, stretch by stretch: where windows overlap they are faded over, and weights add up to one everywhere."""
    overlap = windows.size - windows.hop
    rising = torch.arange(1, windows.size + 1).clamp(max=overlap + 1).float()
    weights = torch.minimum(rising, rising.flip(0))
    sums: dict[str, Tensor] = {}
    total, first = torch.empty(0), 0
    for block in blocks:
        done = block.first - first
        if done > 0:
            yield {name: held[:done] / total[:done] for name, held in sums.items()}
        more = len(block.wav) - (len(total) - done)
        total = torch.cat([total[done:], torch.zeros(more)]) + weights
        for name, signal in block.signals.items():
            held = sums.get(name, torch.empty(0))[done:]
            sums[name] = torch.cat([held, torch.zeros(more)]) + weights * signal.detach().cpu().float()
        first = block.first
    if sums:
        yield {name: held / total for name, held in sums.items()}
