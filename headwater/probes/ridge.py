"""Ridge regression on one-hot classes: the whole path of regularisation from one eigendecomposition.

Minimised is |Y - X W' - b|^2 / N + l2 |W|^2 over standardised rows X (N, D) and one-hot classes Y (N, C), the bias b free (Hastie, Tibshirani
and Friedman 2009, sections 3.4.1 and 4.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from headwater.probes.statistics import Moments

# Rows are standardised, so the eigenvalues' mean is 1 and the grid needs no knowledge of the features.
GRID = tuple(10.0 ** (half / 2) for half in range(2, -13, -1))


def ridge(moments: Moments, grid: Sequence[float] = GRID) -> Iterator[tuple[Tensor, Tensor]]:
    """Weight (C, D) and bias (C,) float64, of rows as they are, for each `l2` of the grid."""
    values, vectors = torch.linalg.eigh(moments.covariance())
    aim = vectors.T @ moments.covariance_with_classes()
    # Rounding may leave an eigenvalue of 0 a little below it.
    values = values.clamp(min=0)
    share = moments.counts / moments.total
    for l2 in grid:
        yield moments.unstandardised((vectors @ (aim / (values + l2)[:, None])).T, share)
