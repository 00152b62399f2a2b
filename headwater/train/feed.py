"""Items -> batches with their features: from a frozen upstream, kept or computed anew, or as front-end output for a fine-tuned one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headwater.errors import UsageError
from headwater.nn.featurizer import Featurizer
from headwater.nn.upstream import Upstream
from headwater.store import FrozenFeatures
from headwater.train.task import Batch, Item, make_batch


@dataclass(frozen=True)
class Ready:
    """A batch and what the probe needs for it: hidden states, or the fine-tuned upstream's input `x` (B, T, in_dim). lengths: of either, (B,)."""

    batch: Batch
    lengths: Tensor
    states: tuple[Tensor, ...] | None = None
    x: Tensor | None = None


class Feed:
    """Turns groups of items into `Ready` batches, reading audio ahead.

    read: item -> waveform (samples,) at the upstream's rate. scale: task samples per upstream sample, for the time of labels.
    """

    def __init__(
        self,
        upstream: Upstream,
        featurizer: Featurizer,
        read: Callable[[Item], Tensor],
        *,
        device: torch.device,
        trainable: bool,
        keep: bool,
        pooled: bool = False,
        scale: float = 1.0,
    ) -> None:
        self.upstream, self.device, self.trainable, self.scale = upstream, device, trainable, scale
        self.store: FrozenFeatures[Item] = FrozenFeatures(
            upstream, featurizer.layers, read, keep=keep and not trainable, pooled=pooled, device=device
        )

    def __call__(self, groups: Sequence[list[Item]]) -> Iterator[Ready]:
        for group, wavs in self.store.ahead(groups):
            if self.trainable:
                x, lengths = self.upstream.inputs([wav.to(self.device) for wav in wavs])
                yield Ready(self._batch(group, self.upstream.out_lengths(lengths)), lengths, x=x)
            else:
                states, lengths = self.store(group, wavs)
                yield Ready(self._batch(group, lengths), lengths, states=states)

    def _batch(self, group: list[Item], lengths: Tensor) -> Batch:
        # Labels know their time in the task's samples, frames in the upstream's.
        stride = self.upstream.stride * self.scale
        if stride != round(stride) and "centres" in group[0].labels:
            raise UsageError(
                f"upstream {self.upstream.name!r} has a frame every {stride:g} samples at the task's rate: labels by time need whole samples, "
                "so this upstream cannot be used for this task yet"
            )
        return make_batch(group, lengths, round(stride), self.upstream.offset * self.scale)
