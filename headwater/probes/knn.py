"""Nearest neighbours among the training utterances, by cosine of what lies between their means and the mean of all."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from headwater.errors import DataError
from headwater.nn.pooling import mean_pool

GRID = (1, 3, 5, 10, 20, 50, 100)
FEWEST_VOTES = 1e-6  # of a class without a neighbour, so that its logarithm is finite


def directions(x: Tensor, mean: Tensor) -> Tensor:
    """Rows (N, D) less `mean` (D,), of length one."""
    return nn.functional.normalize(x - mean, dim=1)


def neighbours(queries: Tensor, memory: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosines (B, k), greatest first, and rows of the memory (B, k) of the nearest to each query (B, D), all of length one."""
    found = (queries @ memory.T).topk(k, dim=1)
    return found.values, found.indices


def votes(cosines: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(B, k) cosines and classes of neighbours -> the share of votes of each class (B, C): one a neighbour, equal counts decided by the cosines."""
    k = cosines.shape[1]
    # Together the cosines weigh less than half a vote.
    weights = 1.0 + cosines / (4.0 * k)
    # A product, and not an indexed sum, whose order is left open on a GPU.
    counts = (weights[:, None, :] @ nn.functional.one_hot(labels, classes).to(weights.dtype))[:, 0]
    shares: Tensor = counts / counts.sum(1, keepdim=True)
    return shares


class NearestNeighbours(nn.Module):
    """(B, T, D) -> logarithms of the votes (B, C) of the `k` training utterances whose means are nearest.

    Parameters
    ----------
    in_dim, classes: of the features and the task. size: training utterances that are remembered; the memory is filled by `remember`.
    """

    mean: Tensor
    memory: Tensor
    labels: Tensor
    k: Tensor

    def __init__(self, in_dim: int, classes: int, size: int = 1) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("mean", torch.zeros(in_dim))
        self.register_buffer("memory", torch.zeros(size, in_dim))
        self.register_buffer("labels", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("k", torch.ones((), dtype=torch.int64))

    def remember(self, x: Tensor, y: Tensor) -> None:
        """Take means (N, D) of training utterances with their classes (N,)."""
        self.mean = x.double().mean(0).to(x.dtype)
        self.memory, self.labels = directions(x, self.mean), y

    def nearest(self, pooled: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Cosines (B, k) and classes (B, k) of the nearest to means (B, D)."""
        with torch.autocast(pooled.device.type, enabled=False):
            cosines, rows = neighbours(directions(pooled.float(), self.mean), self.memory, k)
        return cosines, self.labels[rows]

    def logits(self, cosines: Tensor, labels: Tensor) -> Tensor:
        return votes(cosines, labels, self.classes).clamp(min=FEWEST_VOTES).log()

    def forward(self, frames: Tensor, lengths: Tensor, inputs: Mapping[str, Tensor] | None = None) -> Tensor:
        return self.logits(*self.nearest(mean_pool(frames, lengths), int(self.k)))

    def make_room(self, state: Mapping[str, Tensor]) -> None:
        """Take the size of a memory that is to be loaded. `DataError` where it is none."""
        labels, k = state.get("labels"), state.get("k")
        if labels is None or k is None:
            return
        size = labels.numel()
        if not (
            size
            and k.numel() == 1
            and 1 <= int(k) <= size
            and int(labels.min()) >= 0
            and int(labels.max()) < self.classes
        ):
            raise DataError(
                f"model.safetensors: its neighbours (k = {k.tolist()}, {size} labels) are no memory of {self.classes} classes; train again with --fresh"
            )
        self.memory, self.labels = self.memory.new_zeros(size, self.memory.shape[1]), self.labels.new_zeros(size)
