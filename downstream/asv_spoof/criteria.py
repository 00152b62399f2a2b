"""Losses and scores. Targets are 1 for bona fide and 0 for spoofed; a higher score is more bona fide.

A new loss is a class like these and one line in `CRITERIA`. Its `forward` makes an activation (B, ...) of embeddings (B, E). Of this alone, `loss(activation,
target)` makes the loss of each utterance (B,), and `score(activation)` its score (B,).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from .systems import SystemConfig

COLUMN = {"bona fide": 1, "spoof": 0}


class Criterion(nn.Module, ABC):
    """The base of all. `dims`: of the embedding, where the loss leaves no choice."""

    dims: int | None = None

    def __init__(self, dim: int, config: SystemConfig) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, embedding: Tensor) -> Tensor: ...

    @abstractmethod
    def loss(self, activation: Tensor, target: Tensor) -> Tensor: ...

    @abstractmethod
    def score(self, activation: Tensor) -> Tensor: ...


class Sigmoid(Criterion):
    """Binary cross entropy. The embedding is the logit, and so is the score."""

    dims = 1

    def forward(self, embedding: Tensor) -> Tensor:
        return embedding

    def loss(self, activation: Tensor, target: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(
            activation[:, 0], target.to(activation.dtype), reduction="none"
        )

    def score(self, activation: Tensor) -> Tensor:
        return activation[:, 0]


class CrossEntropy(Criterion):
    """Cross entropy of two classes. The embedding is the two logits, the score their difference."""

    dims = 2

    def forward(self, embedding: Tensor) -> Tensor:
        return embedding

    def loss(self, activation: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(activation, target, reduction="none")

    def score(self, activation: Tensor) -> Tensor:
        return activation[:, COLUMN["bona fide"]] - activation[:, COLUMN["spoof"]]


class Cosine(Criterion):
    """The base of losses on the cosines between an embedding and learned directions. weight (E, directions): only where its columns point counts."""

    directions = 2

    def __init__(self, dim: int, config: SystemConfig) -> None:
        super().__init__(dim, config)
        self.weight = nn.Parameter(torch.empty(dim, self.directions).uniform_(-1, 1))
        self.scale, self.margin, self.spoof_margin = config.scale, config.margin, config.spoof_margin

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, E) -> cosines (B, directions). An embedding of zeros has the cosine 0."""
        return (functional.normalize(embedding, dim=1) @ functional.normalize(self.weight, dim=0)).clamp(-1, 1)

    def score(self, activation: Tensor) -> Tensor:
        return activation[:, -1]


class AmSoftmax(Cosine):
    """Additive margin softmax (https://arxiv.org/abs/1801.05599): cross entropy of `scale` (cos - `margin` for the target).

    The score is the softmax of the bare cosines, so it lies in 0.12 .. 0.88.
    """

    def loss(self, activation: Tensor, target: Tensor) -> Tensor:
        margins = self.margin * functional.one_hot(target, self.directions).to(activation.dtype)
        return functional.cross_entropy(self.scale * (activation - margins), target, reduction="none")

    def score(self, activation: Tensor) -> Tensor:
        return activation.softmax(1)[:, COLUMN["bona fide"]]


class OcSoftmax(Cosine):
    """One-class softmax (https://arxiv.org/abs/2010.13995): bona fide speech within `margin` of one direction, spoofed beyond `spoof_margin` of it."""

    directions = 1

    def loss(self, activation: Tensor, target: Tensor) -> Tensor:
        cosine = activation[:, 0]
        short = torch.where(target == COLUMN["bona fide"], self.margin - cosine, cosine - self.spoof_margin)
        return functional.softplus(self.scale * short)


class P2sGrad(Cosine):
    """Mean squared error of the cosines to 1 and 0, whose gradient is that of P2SGrad (https://arxiv.org/abs/1905.02479): no scale, no margin."""

    def loss(self, activation: Tensor, target: Tensor) -> Tensor:
        return (activation - functional.one_hot(target, self.directions).to(activation.dtype)).square().mean(1)


class ASoftmax(Cosine):
    """Angular softmax (https://arxiv.org/abs/1704.08063) with m = 4.

    The target's logit |x| cos becomes |x| (cos + (phi - cos) / (1 + lambda)): phi is `continued`, and lambda falls from 1,364 to 5 in training, with
    every batch (with gradient_accumulate_steps, every piece of one). The
    score is the softmax of the bare cosines.
    """

    dims = 2
    iteration: Tensor

    def __init__(self, dim: int, config: SystemConfig) -> None:
        super().__init__(dim, config)
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64))

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, E) -> (B, 3, 2): cosines, logits of the classes, and those they have where they are the target."""
        cosine = super().forward(embedding)
        if self.training:
            with torch.no_grad():
                self.iteration += 1
        size = embedding.norm(dim=1, keepdim=True)
        share = 1 / (1 + (1500 / (1 + 0.1 * self.iteration)).clamp(min=5))
        as_target = cosine + (continued(cosine) - cosine) * share
        return torch.stack([cosine, size * cosine, size * as_target], 1)

    def loss(self, activation: Tensor, target: Tensor) -> Tensor:
        is_target = functional.one_hot(target, self.directions).bool()
        logits = torch.where(is_target, activation[:, 2], activation[:, 1])
        return functional.cross_entropy(logits, target, reduction="none")

    def score(self, activation: Tensor) -> Tensor:
        return activation[:, 0].softmax(1)[:, COLUMN["bona fide"]]


def continued(cosine: Tensor) -> Tensor:
    """(-1)^k cos(4 theta) - 2 k, k = floor(4 theta / pi): the cosine of the angle times 4, made to fall on over all of 0 .. pi, from 1 to -7."""
    k = torch.floor(4 * torch.acos(cosine.detach()) / math.pi)
    square = cosine.square()
    return (1 - 2 * (k % 2)) * (8 * square * (square - 1) + 1) - 2 * k


CRITERIA: dict[str, type[Criterion]] = {
    "sigmoid": Sigmoid,
    "am": AmSoftmax,
    "oc": OcSoftmax,
    "p2sgrad": P2sGrad,
    "asoftmax": ASoftmax,
    "ce": CrossEntropy,
}
