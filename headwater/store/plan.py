"""What keeping features costs, and how the work is cut into shards: pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from headwater.nn.upstream import Upstream

Part = TypeVar("Part")
SHARD_BYTES = 64 * 2**20
SHARD_SECONDS = 600.0
WIDTHS = {"float32": 4, "float16": 2}  # bytes


@dataclass(frozen=True)
class Plan:
    """What the features of some utterances cost, and where they go.

    frames, bytes: of all of them, in the layers and the type that are kept. seconds: of audio that is still to be computed. cached, total: utterances.
    place: a folder, "" for memory alone; limit: bytes that may be used there. room: bytes that both disk and memory give. rate: seconds of audio a second,
    where it was measured.
    """

    frames: int
    bytes: int
    pooled: bool
    seconds: float = 0.0
    cached: int = 0
    total: int = 0
    place: str = ""
    limit: float = 0.0
    room: float = float("inf")
    rate: float | None = None

    def lines(self) -> list[str]:
        """What a run says of it: what is kept, and where; then what is to be done."""
        what = "the mean over each utterance is all the head needs" if self.pooled else f"{self.frames} frames"
        time = f", about {_duration(self.seconds / self.rate)}" if self.rate else ""
        work = f"one pass over {_duration(self.seconds)} of audio{time}" if self.seconds else "nothing to compute"
        over = self.bytes - self.room if self.seconds else 0  # what is there already needs no room
        if self.room <= 0 and self.seconds:
            return [
                f"{what}: {size(self.bytes)}, computed anew in each epoch, as store.memory_gib leaves no room; {work}"
            ]
        rest = (
            f"; what does not fit, about {100 * over / self.bytes:.0f} %, is computed anew in each epoch"
            if over > 0
            else ""
        )
        if not self.place:
            return [f"{what}: {size(self.bytes)}, kept in memory{rest}; {work}"]
        there = f"{self.cached} of {self.total} utterances are there already"
        shared = (
            ", and in memory what is beyond its budget"
            if self.seconds and self.limit < min(self.bytes, self.room)
            else ""
        )
        return [
            f"{what}: {size(self.bytes)}, kept on disk{shared}{rest}",
            f"{self.place} (at most {size(self.limit)}): {there}; {work}",
        ]


def size(count: float) -> str:
    """Bytes in words."""
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def count_frames(upstream: Upstream, num_samples: Sequence[int]) -> int:
    """Frames of utterances of so many samples (at the upstream's rate) together."""
    return sum(upstream.frames(samples) for samples in num_samples)


def bytes_of(upstream: Upstream, layers: Sequence[int], rows: int, dtype: str = "float32") -> int:
    """Bytes of so many frames, or means, of these layers."""
    return WIDTHS[dtype] * rows * sum(upstream.layer_dims[layer] for layer in layers)


def plan_shards(
    keys: Sequence[bytes],
    seconds: Sequence[float],
    bytes_per_second: float,
    *,
    max_bytes: float = SHARD_BYTES,
    max_seconds: float = SHARD_SECONDS,
) -> list[list[int]]:
    """Positions of utterances by shard: each content once, sorted by duration and cut where equal parts of the audio end.

    Neither the order of the utterances nor the number of workers has a part in it. A shard holds about `max_bytes` or `max_seconds` of audio, whichever is
    less; one utterance may exceed it.
    """
    first: dict[bytes, int] = {}
    for position, key in enumerate(keys):
        first.setdefault(key, position)
    order = sorted(first.values(), key=lambda position: (seconds[position], keys[position]))
    if not order:
        return []
    durations = np.array([seconds[position] for position in order], dtype=np.float64)
    total = float(durations.sum())
    count = max(1, int(np.ceil(total * max(1 / max_seconds, bytes_per_second / max_bytes))))
    middles = np.cumsum(durations) - durations / 2
    part = np.minimum((middles / max(total, 1e-9) * count).astype(np.int64), count - 1)
    return [
        [order[place] for place in group]
        for group in np.split(np.arange(len(order)), np.flatnonzero(np.diff(part)) + 1)
    ]


def share(plan: Sequence[Part], worker: int, workers: int) -> list[Part]:
    """One worker's part of a plan."""
    return list(plan[worker::workers])
