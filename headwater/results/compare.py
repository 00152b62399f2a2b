"""Two runs on the same data: is one better than the other?

The difference is judged on resamples that both runs share. That is far sharper than asking whether two intervals
overlap, because what is hard for one system tends to be hard for the other.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater.errors import DataError
from headwater.metrics.base import Metric, number
from headwater.metrics.measures import measure_from_json, paired_difference
from headwater.metrics.rows import Row
from headwater.results.table import load_metrics, load_result, read_scores


@dataclass(frozen=True)
class Comparison:
    """One metric of two runs; `difference` is A minus B with its paired interval."""

    metric: str
    a: Metric
    b: Metric
    difference: Metric

    @property
    def better(self) -> str | None:
        """ "A" or "B" where the interval of the difference excludes 0, else None: no difference is shown."""
        if self.difference.ci95 is None:
            return None
        low, high = self.difference.ci95
        if low <= 0 <= high:
            return None
        return "A" if (low > 0) == self.difference.higher_is_better else "B"

    @property
    def sentence(self) -> str:
        """What the comparison says, in plain words."""
        gap = self.difference
        size = f"{number(abs(gap.value), gap.unit)} {gap.unit}".rstrip()
        if gap.ci95 is None:
            return f"The two differ by {size}; no difference is shown, because no interval can be given."
        ends = sorted(abs(end) for end in gap.ci95) if self.better else gap.ci95
        low, high = (number(end, gap.unit) for end in ends)
        if self.better:
            return f"{self.better} is better by {size} (95 % interval {low} to {high}); the interval excludes 0."
        return f"No difference is shown: A minus B is {number(gap.value, gap.unit)} {gap.unit}".rstrip() + (
            f" (95 % interval {low} to {high}); the interval includes 0."
        )


def differences(folder_a: str | Path, folder_b: str | Path, split: str = "test") -> dict[str, Comparison]:
    """The paired difference of every metric that both runs measured alike on `split`, by name.

    Raises DataError when a folder is no finished run, no metric is shared, or the runs scored different data.
    """
    both = load_metrics(folder_a, split), load_metrics(folder_b, split)
    shared = [name for name, metric in both[0].items() if name in both[1] and _alike(metric, both[1][name])]
    if not shared:
        listed = " and ".join(", ".join(metrics) or "nothing" for metrics in both)
        raise DataError(
            f"{folder_a} and {folder_b} share no metric on {split} that was computed alike (they have {listed}); "
            "compare two runs of one task."
        )
    rows = read_scores(folder_a, split), read_scores(folder_b, split)
    try:
        return {name: _comparison(name, both[0][name], both[1][name], rows) for name in shared}
    except DataError as error:
        raise DataError(f"{folder_a} and {folder_b} cannot be compared on {split}. {error}") from None


def compare(folder_a: str | Path, folder_b: str | Path, split: str = "test", width: int = 96) -> str:
    """The comparison as text: both runs, then each shared metric with a sentence. Raises as `differences`."""
    found = differences(folder_a, folder_b, split)
    lines = [f"A: {_title(folder_a)}", f"B: {_title(folder_b)}"]
    rows = next(iter(found.values())).difference
    lines.append(f"{rows.n} rows of {split} scored by both, {rows.clusters} clusters.")
    for name, pair in found.items():
        direction = "higher" if pair.a.higher_is_better else "lower"
        lines += ["", f"{name} ({direction} is better)", f"  A  {pair.a.describe()}", f"  B  {pair.b.describe()}"]
        lines += textwrap.wrap(pair.sentence, width, initial_indent="  ", subsequent_indent="  ")
        if pair.difference.note:
            lines += textwrap.wrap(f"Note: {pair.difference.note}.", width, initial_indent="  ", subsequent_indent="  ")
    left_out = [name for name in load_metrics(folder_a, split) if name not in found]
    if left_out:
        lines += ["", f"Not compared, because B lacks it or computed it in another way: {', '.join(left_out)}."]
    return "\n".join(lines) + "\n"


def _comparison(name: str, a: Metric, b: Metric, rows: tuple[Sequence[Row], Sequence[Row]]) -> Comparison:
    assert a.measure is not None  # `_alike` saw to it
    return Comparison(name, a, b, paired_difference(measure_from_json(a.measure), *rows))


def _alike(a: Metric, b: Metric) -> bool:
    """Whether two metrics are computed in the same way; what chance would give does not matter to their difference."""
    return a.measure is not None and b.measure is not None and _method(a.measure) == _method(b.measure)


def _method(measure: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in measure.items() if key != "chance"}


def _title(folder: str | Path) -> str:
    result = load_result(folder)
    upstream = result["upstream"]
    parts = [upstream["name"], upstream.get("selection"), result["downstream"]["name"], f"seed {result['seed']}"]
    return f"{', '.join(str(part) for part in parts if part)} ({folder})"
