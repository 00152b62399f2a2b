"""Dynamic time warping in a band around the diagonal: memory grows with the band, time in steps over whole anti-diagonals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headwater.errors import DataError
from headwater.vocoder.world import Array

BAND = 200  # frames: a second of 5 ms frames

_BOTH, _SECOND, _FIRST = (
    0,
    1,
    2,
)  # the step that led to a cell: on in both sequences, in the second, in the first; ties go to the first of these


def warping_path(first: Array, second: Array, *, band: int = BAND) -> tuple[NDArray[np.int64], Array]:
    """The cheapest path of steps (1, 1), (0, 1), (1, 0) through the Euclidean distances of two sequences.

    Args:
        first, second: (N, D) and (M, D).
        band: how far one may run ahead of the other, in frames, besides what their lengths differ by. A path that touches it would be another one without.

    Returns the path (P, 2), both ends included, and the distance (P,) at each of its points. Memory is (N + M) * (band + difference) bytes.
    """
    if not len(first) or not len(second):
        raise DataError("sequences without frames cannot be aligned")
    size, other = len(first), len(second)
    # Cell (i, j) lies in the band where low <= i - j <= high.
    low, high = -band - max(0, other - size), band + max(0, size - other)
    steps: list[tuple[int, NDArray[np.uint8]]] = []
    blocked = np.full(size + 1, np.inf)  # totals of a diagonal, by i + 1
    last, before_last = blocked, blocked
    for diagonal in range(size + other - 1):
        begin = max(0, diagonal - other + 1, -(-(diagonal + low) // 2))
        end = min(size - 1, diagonal, (diagonal + high) // 2) + 1
        rows = np.arange(begin, end)
        here = _distances(first, second, rows, diagonal - rows)
        ways = np.stack([before_last[begin:end], last[begin + 1 : end + 1], last[begin:end]])
        step = ways.argmin(0)
        totals = blocked.copy()
        totals[begin + 1 : end + 1] = here + (np.take_along_axis(ways, step[None], 0)[0] if diagonal else 0.0)
        steps.append((begin, step.astype(np.uint8)))
        last, before_last = totals, last
    path = _traced(steps, size - 1, other - 1)
    return path, _distances(first, second, path[:, 0], path[:, 1])


def _distances(first: Array, second: Array, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Array:
    difference = first[rows] - second[columns]
    distances: Array = np.sqrt(np.einsum("nd,nd->n", difference, difference))
    return distances


def _traced(steps: list[tuple[int, NDArray[np.uint8]]], row: int, column: int) -> NDArray[np.int64]:
    path = [(row, column)]
    while row or column:
        begin, step = steps[row + column]
        taken = step[row - begin]
        row -= int(taken != _SECOND)
        column -= int(taken != _FIRST)
        path.append((row, column))
    return np.array(path[::-1], dtype=np.int64)
