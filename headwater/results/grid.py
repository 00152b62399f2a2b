"""What a result says of a grid: tables for the report and the curve over layers, from the `arms` and `seeds` of `result.json` alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from headwater.metrics.base import Metric, number

Row = tuple[str, ...]


def spread(content: Mapping[str, Any], unit: str) -> str:
    """Mean and standard deviation over seeds, and the best of them: `83.10 ± 0.42, best 83.52`; the mean alone of one seed."""
    mean, sd = number(content["mean"], unit), content.get("sd")
    return mean if sd is None else f"{mean} ± {number(sd, unit)}, best {number(content['best'], unit)}"


def spreads(result: Mapping[str, Any], split: str) -> dict[str, tuple[float, float, int]]:
    """Metric -> mean, standard deviation and number of seeds of the arms that the result is about; empty where there is one seed."""
    asked = next((arm["selection"] for arm in result.get("arms") or () if arm["asked"]), None)
    group = next((row for row in result.get("seeds") or () if row["selection"] == asked), None)
    if group is None or group["n"] < 2:
        return {}
    return {name: (row["mean"], row["sd"], group["n"]) for name, row in group["metrics"].get(split, {}).items()}


def selections(result: Mapping[str, Any]) -> tuple[Row, list[Row]]:
    """Head and rows: for every selection its learning rate, and the choosing metric on each split, over its seeds and with the interval of the first."""
    arms = [arm for arm in result.get("arms") or () if arm["chosen"]]
    groups = result.get("seeds") or []
    splits = list(dict.fromkeys(split for arm in arms for split in arm["metrics"]))
    rows: list[Row] = []
    for group in groups:
        first = next(arm for arm in arms if arm["selection"] == group["selection"])
        cells = [_cell(first["metrics"].get(split), group["metrics"].get(split)) for split in splits]
        rows.append((group["selection"], f"{group['lr']:g}", str(group["n"]), *cells))
    return ("selection", "learning rate", "seeds", *splits), rows


def rates(result: Mapping[str, Any]) -> tuple[Row, list[Row]]:
    """Head and rows: what dev said of every learning rate, in the mean over seeds, for every selection; empty where there is one rate."""
    arms = result.get("arms") or []
    grid = sorted({arm["lr"] for arm in arms})
    if len(grid) < 2:
        return (), []
    rows: list[Row] = []
    for selection in dict.fromkeys(arm["selection"] for arm in arms):
        cells = []
        for lr in grid:
            own = [arm for arm in arms if (arm["selection"], arm["lr"]) == (selection, lr)]
            values = [arm["dev"] for arm in own if arm["dev"] is not None and not arm["diverged"]]
            mark = ", chosen" if any(arm["chosen"] for arm in own) else ""
            cells.append(f"{statistics.fmean(values):.4g}{mark}" if values else "diverged")
        rows.append((selection, *cells))
    return ("selection", *(f"{lr:g}" for lr in grid)), rows


def curve(result: Mapping[str, Any]) -> tuple[dict[str, list[tuple[int, Metric]]], dict[str, Metric], str] | None:
    """By split: (layer, metric) of the first seed for every layer, and the metric of the weighted sum; and the metric's name.

    None where no layers were compared.
    """
    by_layer: dict[str, dict[int, Metric]] = {}
    weighted: dict[str, Metric] = {}
    name = str(result["downstream"].get("metric", ""))
    for arm in result.get("arms") or ():
        for split, group in (arm["metrics"] or {}).items():
            if name not in group:
                continue
            metric = Metric.from_json(group[name])
            if arm["selection"] == "weighted_sum":
                weighted.setdefault(split, metric)
            else:
                by_layer.setdefault(split, {}).setdefault(int(arm["selection"].split()[1]), metric)
    series = {split: sorted(found.items()) for split, found in by_layer.items() if len(found) > 1}
    return (series, weighted, name) if series else None


def _cell(metrics: Mapping[str, Any] | None, over_seeds: Mapping[str, Any] | None) -> str:
    """The first metric of a split: over seeds where there are several, and the interval of the first one."""
    if not metrics or not over_seeds:
        return ""
    name = next(iter(metrics))
    metric = Metric.from_json(metrics[name])
    ends: Sequence[str] = [number(end, metric.unit) for end in metric.ci95 or ()]
    interval = f" [{', '.join(ends)}]" if ends else ""
    return f"{name} {spread(over_seeds[name], metric.unit)}{interval}"
