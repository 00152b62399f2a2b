"""Items -> batches with their features: from a frozen upstream, kept or computed anew, or as front-end output for a fine-tuned one; and with their signals,
where a task has some."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import TypeVar

import torch
from torch import Tensor

from headwater.audio.frontends import Waveform
from headwater.audio.io import resampled
from headwater.errors import DataError, UsageError
from headwater.nn.featurizer import Featurizer
from headwater.nn.lengths import pad
from headwater.nn.upstream import Upstream
from headwater.store import FrozenFeatures, Store
from headwater.store.compute import READERS, Extractor
from headwater.train.pieces import cut_sounds, place
from headwater.train.task import Batch, Draw, Item, Sounds, Task, make_batch

Asked = TypeVar("Asked")
Read = TypeVar("Read")
Listen = Callable[[Item], tuple[Tensor, Tensor | None]]
Draws = Sequence[Sequence[Draw]]


@dataclass(frozen=True)
class Ready:
    """A batch and what the probe needs for it: hidden states, or the fine-tuned upstream's input `x` (B, T, in_dim). lengths: of either, (B,)."""

    batch: Batch
    lengths: Tensor
    states: tuple[Tensor, ...] | None = None
    x: Tensor | None = None


@dataclass(frozen=True)
class Heard:
    """An item, or the piece of it that is trained on: what the upstream hears, (samples,) at its rate, its samples at the task's rate, and its signals."""

    item: Item
    wav: Tensor
    samples: int
    sounds: Sounds | None

    @property
    def id(self) -> str:
        return self.item.id


class Feed:
    """Turns groups of items into `Ready` batches, reading audio ahead.

    read: item -> waveform (samples,) at the upstream's rate. listen: item -> waveform and parts at the task's rate, see `Task.sounds`. rates: of task and
    upstream in Hz, for the time of labels. The others: see `FrozenFeatures`.
    """

    def __init__(
        self,
        upstream: Upstream,
        featurizer: Featurizer,
        task: Task,
        read: Callable[[Item], Tensor],
        listen: Listen,
        *,
        device: torch.device,
        trainable: bool,
        rates: tuple[int, int],
        memory: float = float("inf"),
        store: Store | None = None,
        dtype: str = "float32",
        extract_dtype: str = "float32",
        pooled: bool = False,
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        self.upstream, self.task, self.listen = upstream, task, listen
        self.device, self.trainable, self.rates = device, trainable, rates
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
        self._extractor: Extractor[Heard] = Extractor(
            upstream, featurizer.layers, lambda heard: heard.wav, device=device, dtype=extract_dtype
        )
        # Frames lie at whole samples of the task's rate every so many frames; pieces that are trained on begin there.
        self.stride = Fraction(upstream.stride * rates[0], rates[1])
        self.step = lcm(self.stride.numerator, *task.hops.values())
        self.crop = None if task.crop_seconds is None else max(1, round(task.crop_seconds * rates[0]))

    @property
    def scale(self) -> float:
        """Task samples per upstream sample."""
        return self.rates[0] / self.rates[1]

    @property
    def passes(self) -> bool:
        """Whether the features are the sound itself, which lies in files already and is not kept a second time."""
        return keeps_nothing(self.upstream) and not self.store.pooled and not self.trainable

    @property
    def varies(self) -> bool:
        """Whether training sees other items or pieces in each epoch."""
        return self.task.draws or self.crop is not None

    def __call__(self, groups: Sequence[Sequence[Item]], draws: Draws | None = None) -> Iterator[Ready]:
        """draws: in training, where each item is asked for. Without them nothing is drawn, and every item is whole."""
        draws = draws if self.varies else None
        asked = [
            [(item, draws[number][position] if draws is not None else None) for position, item in enumerate(group)]
            for number, group in enumerate(groups)
        ]
        drawn = draws is not None and self.task.draws
        if not (listens(self.task) or draws is not None or self.passes):
            yield from self._plain(groups)
        elif self.trainable or drawn or self.passes or self._nowhere(groups):
            yield from self.heard(read_ahead(lambda one: self._hear(*one), asked))
        else:
            yield from self._kept(asked)

    def heard(self, groups: Iterable[list[Heard]]) -> Iterator[Ready]:
        """Batches of what was heard, whose features are computed now."""
        if self.trainable:
            for group in groups:
                x, lengths = self.upstream.inputs([heard.wav.to(self.device) for heard in group])
                yield Ready(self._batch(group, self.upstream.out_lengths(lengths)), lengths, x=x)
            return
        waiting: deque[list[Heard]] = deque()

        def taken() -> Iterator[list[Heard]]:
            for group in groups:
                waiting.append(group)
                yield group

        for rows in self._extractor(taken()):
            padded = [pad(column) for column in zip(*rows, strict=True)]
            lengths = padded[0][1].to(self.device)
            states = tuple(state.to(self.device) for state, _ in padded)
            yield Ready(self._batch(waiting.popleft(), lengths), lengths, states=states)

    def hears(self, item: Item, wav: Tensor) -> Heard:
        """An item of which a waveform (samples,) at the task's rate is known: a window of a long file."""
        return Heard(item, self._resampled(wav), len(wav), self.task.sounds(item, wav, None))

    def _plain(self, groups: Sequence[Sequence[Item]]) -> Iterator[Ready]:
        if self.trainable:
            for group, wavs in zip(groups, read_ahead(self.store.read, groups), strict=True):
                x, lengths = self.upstream.inputs([wav.to(self.device) for wav in wavs])
                yield Ready(self._labelled(group, self.upstream.out_lengths(lengths)), lengths, x=x)
        else:
            for group, (states, lengths) in zip(groups, self.store.batches(groups), strict=True):
                yield Ready(self._labelled(group, lengths), lengths, states=states)

    def _kept(self, asked: Sequence[Sequence[tuple[Item, Draw | None]]]) -> Iterator[Ready]:
        """Kept features, of which a piece is a slice, beside signals that are read anew."""
        groups = [[item for item, _ in group] for group in asked]
        pieces = [[self._frames(*one) for one in group] for group in asked]
        heard = (
            read_ahead(lambda one: self._hear(*one, kept=True), asked)
            if listens(self.task)
            else map(self._sized, asked)
        )
        for group, (states, lengths) in zip(heard, self.store.batches(groups, pieces)):
            yield Ready(self._batch(group, lengths), lengths, states=states)

    def _nowhere(self, groups: Sequence[Sequence[Item]]) -> bool:
        """Whether all features have to be computed now, to the same bits as kept ones: then each file is read once for both."""
        return self.store.dtype == "float32" and not any(self.store.holds(item) for group in groups for item in group)

    def _hear(self, item: Item, draw: Draw | None, kept: bool = False) -> Heard:
        if draw is not None and self.task.draws:
            item = self.task.draw(item, draw)
        wav, parts = self.listen(item)
        if kept and len(wav) != item.num_samples:
            raise DataError(
                f"{item.utterance.path}: {len(wav)} samples of {item.id!r} can be read, and its header says {item.num_samples}"
            )
        sounds = self.task.sounds(item, wav, parts)
        first, last = self._piece(len(wav), draw)
        if sounds is not None and last - first < len(wav):
            sounds = cut_sounds(sounds, first, last, self.task.hops)
        return Heard(item, wav if kept else self._resampled(wav[first:last]), last - first, sounds)

    def _sized(self, asked: Sequence[tuple[Item, Draw | None]]) -> list[Heard]:
        """Pieces of which nothing but their size is needed."""
        spans = [(item, self._piece(item.num_samples, draw)) for item, draw in asked]
        return [Heard(item, torch.empty(0), last - first, None) for item, (first, last) in spans]

    def _piece(self, samples: int, draw: Draw | None) -> tuple[int, int]:
        if draw is None or self.crop is None or samples <= self.crop:
            return 0, samples
        frames = self.upstream.frames(max(1, round(samples / self.scale)))
        return place(samples, self.crop, self.step, draw, latest=int((frames - 1) * self.stride))

    def _frames(self, item: Item, draw: Draw | None) -> slice:
        """The frames of a piece: frame k of it belongs to its sample `offset + k * stride`, as always."""
        first, last = self._piece(item.num_samples, draw)
        if last - first == item.num_samples:
            return slice(None)
        start = int(first / self.stride)
        return slice(start, start + self.upstream.frames(max(1, round((last - first) / self.scale))))

    def _resampled(self, wav: Tensor) -> Tensor:
        task, upstream = self.rates
        return wav if task == upstream else torch.from_numpy(resampled(wav.numpy(), task, upstream))

    def _labelled(self, group: Sequence[Item], lengths: Tensor) -> Batch:
        return make_batch(group, lengths, self._stride("centres" in group[0].labels), self._offset)

    def _batch(self, group: Sequence[Heard], lengths: Tensor) -> Batch:
        items, sounds = [heard.item for heard in group], [heard.sounds for heard in group if heard.sounds is not None]
        by_time = "centres" in items[0].labels
        if by_time and self.crop is not None:
            raise TypeError("a task with labels by time cannot train on pieces: its labels are those of the whole")
        stride = self._stride(by_time or bool(sounds))
        return make_batch(items, lengths, stride, self._offset, sounds, [heard.samples for heard in group])

    @property
    def _offset(self) -> float:
        return self.upstream.offset * self.scale

    def _stride(self, exact: bool) -> int:
        """Labels know their time in the task's samples, frames in the upstream's."""
        if exact and self.stride.denominator != 1:
            raise UsageError(
                f"upstream {self.upstream.name!r} has a frame every {float(self.stride):g} samples at the task's rate of {self.rates[0]} Hz: labels by time "
                "and signals need whole samples, so this upstream cannot be used for this task at this rate"
            )
        return round(self.stride)


def listens(task: Task) -> bool:
    """Whether a task has signals."""
    return type(task).sounds is not Task.sounds


def keeps_nothing(upstream: Upstream) -> bool:
    """Whether an upstream gives the waveform as it is."""
    identity = type(upstream).hidden_states is Upstream.hidden_states
    return identity and isinstance(upstream.frontend, Waveform) and upstream.in_dim == 1


def read_ahead(read: Callable[[Asked], Read], groups: Sequence[Sequence[Asked]]) -> Iterator[list[Read]]:
    """What is read for each group, by threads a little ahead. What `read` raises is raised here, in its group's turn."""
    pool = ThreadPoolExecutor(READERS)
    pending: list[list[Future[Read]]] = []
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
