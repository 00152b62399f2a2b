"""K-means: k-means++ (Arthur and Vassilvitskii 2007), then Lloyd's steps over all frames until nothing moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from headwater.errors import DataError

CHUNK = 1 << 24  # distances held at once
SEEDING = 64  # frames a cluster that k-means++ chooses from


@dataclass(frozen=True)
class Clusters:
    """centres: (K, D) float32. inertia: mean squared distance of a frame to its centre. steps: of Lloyd's."""

    centres: Tensor
    inertia: float
    steps: int


def kmeans(x: Tensor, clusters: int, *, seed: int, steps: int = 100, tolerance: float = 1e-4) -> Clusters:
    """Cluster frames (N, D) float32; it ends where the inertia falls by less than `tolerance` of itself.

    A cluster that has lost all its frames takes the frame that lies furthest from its centre.

    Raises DataError where there are fewer different frames than clusters.
    """
    if len(x) < clusters:
        raise DataError(f"{clusters} clusters of {len(x)} frames: give more speech, or fewer clusters")
    mean = x.double().mean(0).float()
    x = x - mean
    generator = np.random.default_rng(seed)
    few = torch.from_numpy(generator.permutation(len(x))[: SEEDING * clusters]).to(x.device)
    centres = _seeded(x[few], clusters, generator)
    if len(centres) < clusters:  # what is rare may lie in the others
        centres = _seeded(x, clusters, generator)
    if len(centres) < clusters:
        raise DataError(
            f"{clusters} clusters, yet only {len(centres)} different frames: give more speech, or fewer clusters"
        )
    before, taken = float("inf"), 0
    while taken < steps:
        codes, distances = assign(x, centres)
        inertia = float(distances.double().mean())
        if before - inertia <= tolerance * inertia:
            break
        before, taken = inertia, taken + 1
        sums, counts = _sums(x, codes, clusters)
        centres = sums / counts.clamp(min=1)[:, None]
        if lost := (counts == 0).nonzero()[:, 0].tolist():
            centres[lost] = x[distances.topk(len(lost)).indices]
    codes, distances = assign(x, centres)
    return Clusters(centres + mean, float(distances.double().mean()), taken)


def assign(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Of each frame (N, D) the nearest centre (N,) int64, and its squared distance (N,)."""
    mean = centres.double().mean(0).to(centres)
    centres = centres - mean  # far from the origin, differences of squares lose their digits
    squares = centres.square().sum(1)
    codes, distances = [], []
    for part in (x - mean).split(max(1, CHUNK // len(centres))):
        nearest, code = torch.addmm(squares, part, centres.T, alpha=-2).min(1)
        codes.append(code)
        distances.append((nearest + part.square().sum(1)).clamp(min=0))
    return torch.cat(codes), torch.cat(distances)


def _seeded(x: Tensor, clusters: int, generator: np.random.Generator) -> Tensor:
    """Centres among the frames, each drawn with a probability that grows with the squared distance to those before; fewer where no more are different."""
    chosen = [int(generator.integers(len(x)))]
    nearest = (x - x[chosen[0]]).square().sum(1)
    while len(chosen) < clusters:
        weights = nearest.double().cumsum(0)
        if float(weights[-1]) <= 0:
            break
        place = torch.searchsorted(weights, float(generator.random()) * weights[-1], right=True)
        chosen.append(min(int(place), len(x) - 1))
        nearest = torch.minimum(nearest, (x - x[chosen[-1]]).square().sum(1))
    return x[chosen]


def _sums(x: Tensor, codes: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Of each cluster the sum of its frames (K, D), and how many there are (K,). By products: adding by index has no fixed order on a GPU."""
    sums, counts = x.new_zeros(clusters, x.shape[1]), x.new_zeros(clusters)
    size = max(1, CHUNK // clusters)
    for part, code in zip(x.split(size), codes.split(size), strict=True):
        hot = functional.one_hot(code, clusters).to(x.dtype)
        sums += hot.T @ part
        counts += hot.sum(0)
    return sums, counts
