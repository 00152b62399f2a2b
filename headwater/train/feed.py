"""Items -> batches with their features: from a frozen upstream, kept or computed anew, or as front-end output for a fine-tuned one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from headwater.errors import UsageError
from headwater.nn.featurizer import Featurizer
from headwater.nn.upstream import Upstream
from headwater.store import FrozenFeatures, Store
from headwater.store.compute import READERS
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

    read: item -> waveform (samples,) at the upstream's rate. scale: task samples per upstream sample, for the time of labels. The others: see `FrozenFeatures`.
    """

    def __init__(
        self,
        upstream: Upstream,
        featurizer: Featurizer,
        read: Callable[[Item], Tensor],
        *,
        device: torch.device,
        trainable: bool,
        memory: float = float("inf"),
        store: Store | None = None,
        dtype: str = "float32",
        extract_dtype: str = "float32",
        pooled: bool = False,
        scale: float = 1.0,
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        self.upstream, self.device, self.trainable, self.scale = upstream, device, trainable, scale
        self.store: FrozenFeatures[Item] = FrozenFeatures(
            upstream,
            featurizer.layers,
            read,
            pooled=pooled,
            memory=memory,
            store=store,
            dtype=dtype,
            extract_dtype=extract_dtype,
            device=device,
            say=lambda line: say(f"features   {line}"),
        )

    def __call__(self, groups: Sequence[list[Item]]) -> Iterator[Ready]:
        if self.trainable:
            for group, wavs in zip(groups, read_ahead(self.store.read, groups), strict=True):
                x, lengths = self.upstream.inputs([wav.to(self.device) for wav in wavs])
                yield Ready(self._batch(group, self.upstream.out_lengths(lengths)), lengths, x=x)
        else:
            for group, (states, lengths) in zip(groups, self.store.batches(groups), strict=True):
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


def read_ahead(read: Callable[[Item], Tensor], groups: Sequence[Sequence[Item]]) -> Iterator[list[Tensor]]:
    """The waveforms of each group, read by threads a little ahead. What `read` raises is raised here, in its group's turn."""
    pool = ThreadPoolExecutor(READERS)
    pending: list[list[Future[Tensor]]] = []
    try:
        for group in groups:
            pending.append([pool.submit(read, item) for item in group])
            if len(pending) > 2 * READERS:
                yield [future.result() for future in pending.pop(0)]
        while pending:
            yield [future.result() for future in pending.pop(0)]
    finally:
        # Broken audio or Ctrl-C: what waits in line is not read any more.
        pool.shutdown(cancel_futures=True)
