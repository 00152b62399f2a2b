"""The downstream contract: data, a head, a loss, metrics and a way to say the answer. A task never sees which upstream it is on."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from headwater.config import DataConfig, Section
from headwater.errors import UsageError
from headwater.metrics import Metric, evaluate
from headwater.metrics.rows import Row, Table
from headwater.nn.lengths import pad
from headwater.nn.upstream import UpstreamSpec
from headwater.train.windows import Windows, overlap_add

if TYPE_CHECKING:
    from pathlib import Path

    from headwater.audio.write import Signal
    from headwater.data.corpus import Utterance
    from headwater.metrics import Measure
    from headwater.metrics.breakdown import Breakdown
    from headwater.train.stream import Stream
    from headwater.train.windows import Block

IGNORE = -100


@dataclass(frozen=True)
class Specification:
    """What a task measures. The first measure chooses the best checkpoint, on dev.

    level: what gets an answer. An answer that is a "signal" is sound, which prediction writes to files. breakdowns: by what each test is parted in the result.
    """

    level: Literal["frame", "utterance", "signal"]
    labels: str
    measures: tuple[Measure, ...]
    dev_measures: tuple[Measure, ...] | None = None
    classes: tuple[str, ...] = ()
    sample_rate: int = 16000
    breakdowns: tuple[Breakdown, ...] = ()

    def measures_of(self, split: str) -> tuple[Measure, ...]:
        return self.dev_measures if split == "dev" and self.dev_measures is not None else self.measures


@dataclass(frozen=True)
class Item:
    """One utterance as the loop sees it.

    num_samples: at the task's sample rate. labels: whole numbers or 1-D integer arrays by name, what only training and scoring have; inputs: the same for
    what prediction has too.
    """

    utterance: Utterance
    num_samples: int
    labels: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.utterance.id


@dataclass(frozen=True)
class Draw:
    """Where in training an item is asked for: all that is drawn for it is a function of this, so a place is all that a resume needs."""

    seed: int
    epoch: int
    number: int

    def generator(self, purpose: str) -> np.random.Generator:
        """The generator for what is drawn under this name."""
        return np.random.default_rng([self.seed, self.epoch, self.number, zlib.crc32(purpose.encode())])


@dataclass(frozen=True)
class Sounds:
    """Signals of one utterance at the task's rate, by name: float tensors (..., samples), or of fewer values where `Task.hops` says so.

    inputs: what prediction has too (the mixture); labels: what only training and scoring have (the sources, the waveform to be made).
    """

    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    labels: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Utterances side by side.

    lengths: (B,) int64, valid frames of the upstream's output; stride, offset: samples between frames, centre of frame 0. samples: (B,) int64, valid samples
    at the task's rate; of a task on signals they are among the inputs, too. labels and inputs by name: (B,) int64; (B, L) int64 with -100 beyond an utterance's
    own; or a signal (B, ..., L) with zeros beyond.
    """

    items: Sequence[Item]
    lengths: Tensor
    stride: int
    offset: float
    labels: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]
    samples: Tensor

    @property
    def ids(self) -> list[str]:
        return [item.id for item in self.items]


def collate(values: Sequence[Any], device: torch.device) -> Tensor:
    """Whole numbers -> (B,) int64; 1-D integer arrays -> (B, L) int64, -100 beyond each; float tensors -> their type, each axis as long as the longest,
    zeros beyond."""
    if all(isinstance(value, Tensor) and value.is_floating_point() for value in values):
        padded = values[0].new_zeros(len(values), *(max(sizes) for sizes in zip(*(value.shape for value in values))))
        for row, value in zip(padded, values, strict=True):
            row[tuple(slice(size) for size in value.shape)] = value
        return padded.to(device)
    if any(np.asarray(value).dtype.kind not in "iub" for value in values):
        raise TypeError(
            f"labels and inputs are whole numbers, integer arrays or float tensors (signals), not {values[0]!r}"
        )
    if np.ndim(values[0]) == 0:
        return torch.tensor([int(value) for value in values], device=device)
    padded, lengths = pad([torch.as_tensor(np.asarray(value), dtype=torch.int64) for value in values])
    beyond = torch.arange(padded.shape[1])[None, :] >= lengths[:, None]
    return padded.masked_fill(beyond, IGNORE).to(device)


def make_batch(
    items: Sequence[Item],
    lengths: Tensor,
    stride: int,
    offset: float,
    sounds: Sequence[Sounds] = (),
    samples: Sequence[int] | None = None,
) -> Batch:
    """Collate items whose features have the given lengths. sounds: of each, where the task has some; samples: of each, where it is not heard whole."""
    device = lengths.device

    def together(kind: Literal["inputs", "labels"]) -> dict[str, Tensor]:
        rows = [getattr(item, kind) for item in items]
        if sounds:
            rows = [{**row, **getattr(sound, kind)} for row, sound in zip(rows, sounds, strict=True)]
        return {name: collate([row[name] for row in rows], device) for name in rows[0]}

    counts = torch.tensor([item.num_samples for item in items] if samples is None else samples, device=device)
    inputs = together("inputs")
    if sounds:
        # A head that makes sound must know how much of it.
        inputs["samples"] = counts
    return Batch(items, lengths, stride, offset, together("labels"), inputs, counts)


class Accumulator(ABC):
    """Collects the answers of a split, on one rank or many. Everything a metric needs ends up in `rows()`."""

    def __init__(self, measures: Sequence[Measure]) -> None:
        self.measures = tuple(measures)

    @abstractmethod
    def add(self, output: Any, batch: Batch) -> None:
        """Take in the head's output for a batch."""

    @abstractmethod
    def state(self) -> Any:
        """Plain data (dicts, lists, numpy arrays), by utterance id, that `merge` understands."""

    @abstractmethod
    def merge(self, state: Any) -> None:
        """Take in another rank's `state()`. An utterance that both hold counts once."""

    @abstractmethod
    def rows(self) -> Sequence[Row]:
        """One row an utterance (or trial), sorted by id: what `scores/SPLIT.jsonl` holds. Of millions, a sequence that makes them when asked (`TrialRows`)."""

    def result(self, seed: int = 0) -> dict[str, Metric]:
        """Every measure with its interval, computed from the rows alone."""
        return evaluate(self.measures, self.rows(), seed=seed)

    def first(self) -> float:
        """The value of the first measure alone, without its interval: what chooses on dev."""
        return self.measures[0].value(Table(self.rows()))

    def pictures(self) -> dict[str, bytes]:
        """PNG files for the report, by name."""
        return {}

    def audio(self) -> Mapping[str, Mapping[str, Signal]]:
        """A handful of utterances to listen to, by id: what there is to hear of each, by name (see `Clips`). The report plays and draws them side by side."""
        return {}


class Task(ABC):
    """Base of all tasks. `corpora` or `restore` runs first; `spec` is known after it."""

    Config: ClassVar[type[Section]] = Section
    # "mean" where the head is affine before a mean over time: then the mean of the features is all it needs. The runner proves it before it relies on it.
    pooling: Literal["mean"] | None = None
    # Longest piece of an utterance that is trained on, drawn anew each epoch; None for whole ones. Dev and tests are whole in any case.
    crop_seconds: float | None = None
    # Samples between values, of those of `sounds` that are slower than the sound, by name: an F0 track of one value each 80 samples has 80.
    hops: Mapping[str, int] = {}
    # Whether training items are drawn anew each epoch, by `draw`.
    draws: bool = False
    # How prediction answers for files longer than a window, in constant memory; None where it takes them whole.
    windows: Windows | None = None
    # Suffixes of files of frames, which prediction takes in the place of sound; see `frames`.
    frame_suffixes: tuple[str, ...] = ()
    # Why there can be no prediction (an oracle), in one sentence.
    unpredictable: str | None = None

    spec: Specification
    notes: list[str]
    description: dict[str, Any]

    def __init__(self, config: Any, data: DataConfig, seed: int) -> None:
        self.config, self.data, self.seed = config, data, seed
        self.notes = []
        self.description = {}

    @abstractmethod
    def corpora(self) -> dict[str, list[Item]]:
        """Items of "train", "dev" and any number of tests, from `data` or the demo corpus.

        Sets `spec`, `notes` and `description` (the `data` part of a result).
        """

    def draw(self, item: Item, draw: Draw) -> Item:
        """What is trained on in the place of a training item (dynamic mixing), where the task `draws`: another utterance, or a mixture of some.

        A pure function of its arguments, called from several threads. `item.num_samples` says, for the planning of batches alone, how long it will be about.
        """
        return item

    def sounds(self, item: Item, wav: Tensor, parts: Tensor | None) -> Sounds | None:
        """The signals of an item, where the task is one on signals; called from several threads.

        wav: (samples,) float32 at the task's rate, what the upstream hears. parts: (C, samples), what a mixture is the sum of; None of any other utterance, and
        so in prediction. All of an item is given, and cut afterwards where training takes a piece.
        """
        return None

    def join(self, blocks: Iterator[Block], windows: Windows) -> Iterator[Mapping[str, Tensor]]:
        """Answers of consecutive windows of one file -> consecutive stretches of the file's signals, by name; together as long as the file."""
        return overlap_add(blocks, windows)

    def stream(self, head: nn.Module) -> Stream:
        """What answers a sound while it comes in (`-m predict --stream`), by the trained head. Raises UsageError where all of it is needed."""
        raise UsageError("this task answers files, not a stream")

    def frames(self, path: Path) -> tuple[Tensor, int, Mapping[str, Tensor]]:
        """A file that ends in one of `frame_suffixes`: what the upstream would give, (T, D), the samples at the task's rate that it is of, and the signals that
        `sounds` would have among its inputs."""
        raise UsageError(f"{path}: this task answers sound, not frames")

    def inputs(self, utterance: Utterance) -> Mapping[str, Any]:
        """The `inputs` of an item that follow from the utterance alone; those of files that `-m predict` is given."""
        return {}

    @abstractmethod
    def head(self, upstream: UpstreamSpec) -> nn.Module:
        """A module (frames (B, T, D), lengths (B,), inputs) -> output. Parameters of a loss live here too."""

    @abstractmethod
    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """(sum, count): the loop divides once, over micro-batches and ranks."""

    @abstractmethod
    def score(self, split: str) -> Accumulator:
        """A fresh accumulator for a split."""

    @abstractmethod
    def predict(self, output: Any, batch: Batch) -> list[dict[str, Any]]:
        """What `-m predict` writes, one row an utterance: its `id`, and values that JSON knows, or `Signal`s, which go to files."""

    def state(self) -> dict[str, Any]:
        """What `restore` needs besides the settings, as plain JSON: classes and the like."""
        return {}

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Make ready for evaluation or prediction from what `state` gave. Sets `spec`."""
