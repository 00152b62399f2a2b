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
    parts: names of the parts of the module that share nothing but their data (the arms of a grid): each has its own loss, gradient norm and best weights.
    """

    module: nn.Module
    durations: np.ndarray
    higher_is_better: bool = False
    may_leave_parameters_unused: bool = False
    parts: Sequence[str] = ("",)

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters to train, as torch's optimisers take them."""

    @abstractmethod
    def ready(self, portions: Sequence[Portion]) -> Iterator[Ready]:
        """What `loss` needs of each portion's share, in their order, read ahead."""

    @abstractmethod
    def loss(self, module: nn.Module, ready: Ready) -> tuple[Tensor, Tensor]:
        """(sum, count) of a share; the loop divides once, over micro-batches and ranks. `module` is `self.module`, perhaps wrapped for several ranks.

        Of several parts the sums are (parts,), and the count is one for all.
        """

    @abstractmethod
    def evaluate(self) -> tuple[str, float | list[float | None] | None] | None:
        """The measure that chooses the best weights, by name, on data held out; None where there is none. Leaves the random state as it was.

        Of several parts a list. A value is None where answers are not finite.
        """

    def clip(self, parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
        """Scale the gradient to a norm of at most `limit`, that of each part alone. Returns the norm before it, () or (parts,)."""
        return nn.utils.clip_grad_norm_(parameters, limit)

    def merged(self, best: dict[str, Tensor], chosen: Sequence[int]) -> dict[str, Tensor]:
        """The best weights of all parts: those in `best`, and for the parts `chosen` the present ones."""
        return self.module.state_dict()

    def illustrate(self, events: Any, step: int) -> None:
        """Pictures of where training stands, for TensorBoard; none by default."""
