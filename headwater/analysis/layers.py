"""Which hidden states the heads of finished runs chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headwater.analysis.findings import Cell, Findings
from headwater.errors import DataError
from headwater.results.table import load_result


@dataclass(frozen=True)
class Chosen:
    """The learned weights of one run, with the sum 1, by hidden state."""

    folder: Path
    upstream: str
    task: str
    layers: list[str]
    weights: list[float]


def layer_weights(folder: Path) -> Chosen:
    """The weights that a finished run learned. `DataError` where it is none, or read a single hidden state."""
    result = load_result(folder)
    upstream = result["upstream"]
    names, weights = upstream.get("layer_names") or [], upstream.get("layer_weights") or []
    if len(names) < 2 or len(names) != len(weights):
        raise DataError(
            f"{folder} has no layer weights: it reads one hidden state of {upstream['name']} ({upstream.get('selection', 'not said')}). "
            "A run without -l and -s, of an upstream with several hidden states, learns them"
        )
    return Chosen(folder, str(upstream["name"]), str(result["downstream"]["name"]), names, weights)


def findings(runs: Sequence[Chosen]) -> Findings:
    """The weights of some runs side by side, as what is to be written."""
    from headwater.results.plots import weights_plot

    body: list[list[Cell]] = [
        [str(run.folder), run.upstream, run.task, layer, weight]
        for run in runs
        for layer, weight in zip(run.layers, run.weights, strict=True)
    ]
    short = [run.folder.resolve().name for run in runs]
    labels = short if len(set(short)) == len(short) else [str(run.folder) for run in runs]
    series = {label: run.weights for label, run in zip(labels, runs, strict=True)}
    return Findings(
        "layers",
        "Layer weights",
        [
            "The share of each hidden state in the sum that the head of a run reads.",
            "It says where the head found something easy to use, not what a layer knows: layers differ in scale unless the run normalised them.",
        ],
        ["run", "upstream", "task", "layer", "weight"],
        body,
        {"layers.svg": weights_plot(series, common_names([run.layers for run in runs]))},
        {"runs": [{**vars(run), "folder": str(run.folder)} for run in runs]},
    )


def common_names(lists: Sequence[Sequence[str]]) -> list[str]:
    """Names along the axis of a plot: those of the longest list where the others begin it, else numbers."""
    longest = max(lists, key=len)
    if all(list(names) == list(longest[: len(names)]) for names in lists):
        return list(longest)
    return [str(number) for number in range(len(longest))]
