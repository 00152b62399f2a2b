"""What the loop trains: the few things in which a probe on an upstream and a pretraining objective differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor, nn

from headwater.data.batching import deal

Ready = TypeVar("Ready")


@dataclass(frozen=True)
class Portion:
    """One rank's part of a micro-batch.

    epoch, number: which one it is, counted from 0. batch: indices of the items of all ranks.
    """

    epoch: int
    number: int
    batch: np.ndarray
    rank: int
    ranks: int

    @property
    def share(self) -> np.ndarray:
        """This rank's items; the batch's first one where there is none, so that it keeps step with the others."""
        own = deal(self.batch, self.rank, self.ranks)
        return own if len(own) else self.batch[:1]

    @property
    def weight(self) -> float:
        """0 where `share` only keeps step."""
        return 1.0 if len(deal(self.batch, self.rank, self.ranks)) else 0.0


class Work(ABC, Generic[Ready]):
    """A module, its data and its loss.

    module: what is trained, saved and kept when it is best. durations: (N,) float64, seconds of the training items, by which they are batched.
    higher_is_better: of what `evaluate` gives. may_leave_parameters_unused: whether a loss may reach only some of the trained parameters.
    """

    module: nn.Module
    durations: np.ndarray
    higher_is_better: bool = False
    may_leave_parameters_unused: bool = False

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters to train, as torch's optimisers take them."""

    @abstractmethod
    def ready(self, portions: Sequence[Portion]) -> Iterator[Ready]:
        """What `loss` needs of each portion's share, in their order, read ahead."""

    @abstractmethod
    def loss(self, module: nn.Module, ready: Ready) -> tuple[Tensor, Tensor]:
        """(sum, count) of a share; the loop divides once, over micro-batches and ranks. `module` is `self.module`, perhaps wrapped for several ranks."""

    @abstractmethod
    def evaluate(self) -> tuple[str, float] | None:
        """The measure that chooses the best weights, by name, on data held out; None where there is none. Leaves the random state as it was."""

    def illustrate(self, events: Any, step: int) -> None:
        """Pictures of where training stands, for TensorBoard; none by default."""
