"""Measures that an optional package computes: which of them can be had here, and what is said of the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.metrics.measures import Mean

Samples = NDArray[np.floating[Any]]
Values = Mapping[str, float | None]


@dataclass(frozen=True)
class Extra:
    """Columns of a row that a package computes.

    compute: reference and estimate (samples,) and their rate in Hz -> the columns, None where one is not defined. install: how the package is had.
    rates: where the columns are defined; None: everywhere.
    """

    package: str
    install: str
    columns: tuple[str, ...]
    compute: Callable[[Samples, Samples, int], Values]
    rates: tuple[int, ...] | None = None

    def lack(self, rate: int) -> str | None:
        """Why the columns cannot be had of signals at this rate; None where they can."""
        if self.rates is not None and rate not in self.rates:
            return f"it is defined at {' and '.join(map(str, self.rates))} Hz, not at {rate} Hz"
        return None if find_spec(self.package) else f"the package {self.package} is not installed ({self.install})"


def available(measures: Sequence[Mean], extras: Iterable[Extra], rate: int) -> tuple[tuple[Mean, ...], list[str]]:
    """The measures without those that an extra lacks, and notes on the columns that are not there."""
    lacking: defaultdict[str, list[str]] = defaultdict(list)
    for extra in extras:
        if (reason := extra.lack(rate)) is not None:
            lacking[reason] += extra.columns
    without = {column for columns in lacking.values() for column in columns}
    notes = [f"no {', '.join(columns)}: {reason}" for reason, columns in lacking.items()]
    return tuple(measure for measure in measures if measure.column not in without), notes


def computed(extras: Iterable[Extra], reference: Samples, estimate: Samples, rate: int) -> dict[str, float | None]:
    """What the extras say of two signals (samples,), as far as it can be had."""
    found: dict[str, float | None] = {}
    for extra in extras:
        if extra.lack(rate) is None:
            found |= extra.compute(reference, estimate, rate)
    return found
