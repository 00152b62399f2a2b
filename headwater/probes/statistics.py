"""First and second moments of many rows, a batch at a time, in float64.

Probes see rows standardised: less their mean, over one deviation for all dims.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Moments:
    """Counts, sums and products of rows x (N, D) with classes y (N,), accumulated in float64.

    Rows are taken relative to the mean of the first batch, so that the products lose no digits where the mean is large and the deviation small.

    Parameters
    ----------
    classes: how many. products: whether x'x (D, D) is kept, which ridge needs, or only its diagonal (D,).
    """

    def __init__(self, classes: int, products: bool = True) -> None:
        self.classes, self.products = classes, products
        self.origin: Tensor | None = None

    def start(self, origin: Tensor) -> None:
        """Say what rows are taken relative to: (D,) float64, the same on every rank."""
        dim, new = len(origin), origin.new_zeros
        self.origin = origin
        self.counts, self.sums = new(self.classes), new((self.classes, dim))
        self.squares = new((dim, dim)) if self.products else new(dim)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in rows (N, D) and their classes (N,)."""
        x = x.double()
        if self.origin is None:
            self.start(x.mean(0))
        assert self.origin is not None
        x = x - self.origin
        answers = torch.nn.functional.one_hot(y, self.classes).to(x.dtype)
        self.counts += answers.sum(0)
        # A product, and not an indexed sum, whose order is left open on a GPU.
        self.sums += answers.T @ x
        self.squares += x.T @ x if self.products else (x * x).sum(0)

    def state(self) -> dict[str, Any]:
        """Plain arrays, for `merged`."""
        return {name: getattr(self, name).cpu().numpy() for name in ("counts", "sums", "squares")}

    def merged(self, states: list[Mapping[str, Any]]) -> None:
        """Take the sum of several `state()`s, in their order, in the place of one's own."""
        for name in ("counts", "sums", "squares"):
            own = getattr(self, name)
            setattr(self, name, sum(torch.from_numpy(state[name]).to(own.device) for state in states))

    @property
    def total(self) -> Tensor:
        return self.counts.sum()

    @property
    def mean(self) -> Tensor:
        """(D,) float64."""
        assert self.origin is not None
        return self.origin + self.sums.sum(0) / self.total

    @property
    def scale(self) -> Tensor:
        """The root of the mean variance over dims (); 1 where all are constant.

        One for all dims: a deviation for each would make dims that hold next to nothing, such as means of deltas, as loud as the others.
        """
        centre = self.sums.sum(0) / self.total
        squares = self.squares.diagonal() if self.products else self.squares
        deviation = (squares / self.total - centre * centre).mean().clamp(min=0).sqrt()
        return torch.where(deviation > 0, deviation, torch.ones_like(deviation))

    def covariance(self) -> Tensor:
        """x'x / N of standardised rows, (D, D) float64; its eigenvalues' mean is 1."""
        centre = self.sums.sum(0) / self.total
        return (self.squares / self.total - torch.outer(centre, centre)) / self.scale**2

    def covariance_with_classes(self) -> Tensor:
        """x'(y - mean of y) / N of standardised rows and one-hot classes, (D, C) float64."""
        centre = self.sums.sum(0) / self.total
        share = self.counts / self.total
        return ((self.sums / self.total - torch.outer(share, centre)) / self.scale).T

    def unstandardised(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """A linear map (C, D), (C,) of standardised rows as one of the rows themselves."""
        weight = weight / self.scale
        return weight, bias - weight @ self.mean
