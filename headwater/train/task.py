"""The downstream contract: data, a head, a loss, metrics and a way to say the answer. A task never sees which upstream it is on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from headwater.config import DataConfig, Section
from headwater.metrics import Metric, evaluate
from headwater.metrics.rows import Row, Table
from headwater.nn.lengths import pad
from headwater.nn.upstream import UpstreamSpec

if TYPE_CHECKING:
    from headwater.data.corpus import Utterance
    from headwater.metrics import Measure

IGNORE = -100


@dataclass(frozen=True)
class Specification:
    """What a task measures. The first measure chooses the best checkpoint, on dev."""

    level: Literal["frame", "utterance", "signal"]
    labels: str
    measures: tuple[Measure, ...]
    dev_measures: tuple[Measure, ...] | None = None
    classes: tuple[str, ...] = ()
    sample_rate: int = 16000

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
class Batch:
    """Utterances side by side.

    lengths: (B,) int64, valid frames of the upstream's output; stride, offset: samples between frames, centre of frame 0. labels and inputs by name: (B,)
    int64, or (B, L) int64 with -100 beyond an utterance's own.
    """

    items: Sequence[Item]
    lengths: Tensor
    stride: int
    offset: float
    labels: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]

    @property
    def ids(self) -> list[str]:
        return [item.id for item in self.items]


def collate(values: Sequence[Any], device: torch.device) -> Tensor:
    """Whole numbers -> (B,) int64; 1-D integer arrays -> (B, L) int64, -100 beyond each."""
    if any(np.asarray(value).dtype.kind not in "iub" for value in values):
        raise TypeError(f"labels and inputs are whole numbers or integer arrays, not {values[0]!r}")
    if np.ndim(values[0]) == 0:
        return torch.tensor([int(value) for value in values], device=device)
    padded, lengths = pad([torch.as_tensor(np.asarray(value), dtype=torch.int64) for value in values])
    beyond = torch.arange(padded.shape[1])[None, :] >= lengths[:, None]
    return padded.masked_fill(beyond, IGNORE).to(device)


def make_batch(items: Sequence[Item], lengths: Tensor, stride: int, offset: float) -> Batch:
    """Collate items whose features have the given lengths."""
    device = lengths.device
    labels = {name: collate([item.labels[name] for item in items], device) for name in items[0].labels}
    inputs = {name: collate([item.inputs[name] for item in items], device) for name in items[0].inputs}
    return Batch(items, lengths, stride, offset, labels, inputs)


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


class Task(ABC):
    """Base of all tasks. `corpora` or `restore` runs first; `spec` is known after it."""

    Config: ClassVar[type[Section]] = Section
    # "mean" where the head is affine before a mean over time: then the mean of the features is all it needs. The runner proves it before it relies on it.
    pooling: Literal["mean"] | None = None

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
        """What `-m predict` writes, one row an utterance."""

    def state(self) -> dict[str, Any]:
        """What `restore` needs besides the settings, as plain JSON: classes and the like."""
        return {}

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Make ready for evaluation or prediction from what `state` gave. Sets `spec`."""
