"""A breakdown as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headwater.metrics import Groups, Metric


def table(breakdown: str, found: Groups, metrics: Mapping[str, Metric], counted: str = "n") -> list[str]:
    """A line for each group: how many are `counted`, and those of the pooled `metrics` that some group has."""
    from headwater.analysis.findings import text_table

    names = [name for name in metrics if any(name in of_group for of_group in found.metrics.values())]
    body: list[list[str | int | float | None]] = [
        [
            group,
            max(metric.n for metric in of_group.values()),
            *(one.brief() if (one := of_group.get(name)) is not None else "" for name in names),
        ]
        for group, of_group in found.metrics.items()
    ]
    units = [f"{name} ({metrics[name].unit})" if metrics[name].unit else name for name in names]
    return text_table([breakdown, counted, *units], body)
