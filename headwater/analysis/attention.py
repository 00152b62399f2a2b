"""What attention heads look at: globalness, verticality and diagonality (https://arxiv.org/abs/2006.03265).

A map A (T, T) holds what each query (row) gives to each key; H is the entropy in nats, with 0 log 0 = 0.

- globalness  G = (1/T) sum_q H(A[q]): log T for a uniform map, 0 where each query looks at one key.
- verticality V = -H((1/T) sum_q A[q]): 0 where all queries look at the same key, -log T where all keys are looked at equally.
- diagonality D = -(1/T^2) sum_qk |q - k| A[q, k]: 0 where each query looks at itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headwater.analysis.findings import Cell, Findings, interval_notes
from headwater.analysis.subject import Subject
from headwater.data.corpus import Utterance
from headwater.errors import HeadwaterError, UsageError
from headwater.metrics import Mean, Metric, evaluate
from headwater.progress import progress
from headwater.registry import upstreams
from headwater.store.features import enough_memory

PICTURED = 200  # frames a side that a small picture of a map can show


def globalness(maps: Tensor) -> Tensor:
    """(heads, T, T) -> (heads,) float64."""
    return torch.special.entr(maps).sum((-2, -1), dtype=torch.float64) / maps.shape[-1]


def verticality(maps: Tensor) -> Tensor:
    """(heads, T, T) -> (heads,) float64."""
    return -torch.special.entr(maps.mean(-2, dtype=torch.float64)).sum(-1)


def diagonality(maps: Tensor) -> Tensor:
    """(heads, T, T) -> (heads,) float64."""
    time = torch.arange(maps.shape[-1], device=maps.device)
    distance = (time[:, None] - time).abs()
    return -(maps * distance).sum((-2, -1), dtype=torch.float64) / maps.shape[-1] ** 2


MEASURES: dict[str, Callable[[Tensor], Tensor]] = {
    "globalness": globalness,
    "verticality": verticality,
    "diagonality": diagonality,
}
CATEGORIES = ("global", "vertical", "diagonal")  # in the order of the measures


def categories(values: NDArray[np.float64]) -> list[str]:
    """(3, heads) -> the category of each head: the measure in which it ranks highest among all heads.

    Heads of one value share the better rank. A head that ranks equally high in two measures takes the first of global, vertical, diagonal.
    """
    above = (values[:, None, :] > values[:, :, None]).sum(-1)
    return [CATEGORIES[index] for index in above.argmin(0)]


def row_lengths(rows: int, longest: int, frames: int) -> list[int]:
    """The frames in each row of the maps of one utterance: chunks of equal length, the last one shorter. `HeadwaterError` where they cannot add up."""
    last = frames - (rows - 1) * longest
    if not 0 < last <= longest:
        raise HeadwaterError(
            f"attention_maps gave {rows} row(s) of {longest} frames for an utterance of {frames} frames: "
            "rows are the utterance, or equal chunks of it with the last one shorter"
        )
    return [longest] * (rows - 1) + [last]


def measure_maps(maps: Sequence[Tensor], lengths: Sequence[int]) -> list[NDArray[np.float64]]:
    """The maps of one utterance, (rows, heads, longest, longest) a layer, and the frames in its rows -> (3, layers, heads) a row."""
    measured = []
    for row, length in enumerate(lengths):
        layers = [
            torch.stack([measure(layer[row, :, :length, :length]) for measure in MEASURES.values()]) for layer in maps
        ]
        measured.append(torch.stack(layers, dim=1).cpu().numpy())
    return measured


def small(maps: Tensor) -> NDArray[np.float32]:
    """(heads, T, T) -> (heads, S, S) for a picture, S at most `PICTURED`: the greatest value of each patch, so that thin diagonals stay."""
    return torch.nn.functional.adaptive_max_pool2d(maps.float(), min(maps.shape[-1], PICTURED)).cpu().numpy()


@dataclass(frozen=True)
class Heads:
    """The attention heads of an upstream on some speech.

    rows: one an utterance (or chunk), each measure of head h of layer l under `MEASURE_{l * heads + h}`. shape: layers, heads in each.
    picture: small maps (heads, S, S) of the first row, one a layer. max_seconds: what was examined of an utterance at most.
    """

    rows: list[dict[str, Any]]
    shape: tuple[int, int]
    picture: list[NDArray[np.float32]]
    max_seconds: float
    notes: list[str]

    def metrics(self) -> dict[str, list[Metric]]:
        """Each measure of every head, layer by layer: the mean over rows, with an interval over speakers."""
        heads = range(self.shape[0] * self.shape[1])
        columns = {name: [f"{name}_{head}" for head in heads] for name in MEASURES}
        found = evaluate([Mean(key, key, "", True) for keys in columns.values() for key in keys], self.rows)
        return {name: [found[key] for key in keys] for name, keys in columns.items()}


@torch.no_grad()
def examine(subject: Subject, max_seconds: float) -> Heads:
    """Every head on every utterance, one utterance at a time; of a longer one, its first `max_seconds`.

    Raises UsageError for an upstream without `attention_maps(x, lengths)`, HeadwaterError where one utterance takes too much memory.
    """
    upstream = subject.upstream
    attention_maps = getattr(upstream, "attention_maps", None)
    if attention_maps is None:
        raise UsageError(f"upstream {subject.name!r} has no attention maps; these have: {', '.join(attentive())}")
    samples = round(max_seconds * upstream.sample_rate)
    rows: list[dict[str, Any]] = []
    picture: list[NDArray[np.float32]] = []
    shape, cut, chunked = (0, 0), 0, 0
    for utterance in progress(subject.utterances, total=len(subject.utterances), what=f"attention {subject.name}"):
        sound = subject.read(utterance)
        limit = max(1, samples if sound.dim() == 1 else samples // upstream.frontend.stride)  # type: ignore[attr-defined]
        with enough_memory(f"the attention maps of {utterance.id} do not fit; lower --max-seconds"):
            x, lengths = upstream.inputs([sound[:limit].to(subject.device)])
            maps = attention_maps(x, lengths)
            frames = row_lengths(len(maps[0]), maps[0].shape[-1], int(upstream.out_lengths(lengths)[0]))
            values = measure_maps(maps, frames)
        picture = picture or [small(layer[0, :, : frames[0], : frames[0]]) for layer in maps]
        cut += len(sound) > limit
        chunked += len(frames) > 1
        shape = values[0].shape[1], values[0].shape[2]
        rows += _rows(utterance, frames, values)
    notes = list(subject.notes)
    if cut:
        notes.append(f"{cut} utterance(s) longer than {max_seconds:g} s: the first {max_seconds:g} s are examined")
    if chunked:
        notes.append(f"{subject.name} cuts {chunked} utterance(s) into chunks: each chunk counts as an utterance")
    return Heads(rows, shape, picture, max_seconds, notes)


def _rows(utterance: Utterance, frames: Sequence[int], values: Sequence[NDArray[np.float64]]) -> list[dict[str, Any]]:
    rows = []
    for number, (length, measures) in enumerate(zip(frames, values, strict=True)):
        row = {
            "id": utterance.id if len(frames) == 1 else f"{utterance.id}#{number}",
            # Chunks of an utterance by an unknown speaker are not independent of each other either.
            "speaker": utterance.speaker or utterance.id,
            "frames": length,
        }
        for name, heads in zip(MEASURES, measures, strict=True):
            row.update({f"{name}_{head}": value for head, value in enumerate(heads.ravel().tolist())})
        rows.append(row)
    return rows


def findings(subject: Subject, heads: Heads) -> Findings:
    """The measures and the category of every head, as what is to be written."""
    from headwater.results.plots import attention_plot, heads_plot

    metrics = heads.metrics()
    layers, width = heads.shape
    values = np.array([[metric.value for metric in group] for group in metrics.values()])
    kinds = categories(values)
    head = ["id", "layer", "head", "category"]
    places: list[list[Cell]] = [[i, i // width + 1, i % width + 1, kind] for i, kind in enumerate(kinds)]
    numbers = [[cell for group in metrics.values() for cell in _cells(group[i])] for i in range(len(kinds))]
    titles = [
        [f"{layer + 1}.{head + 1} {kinds[layer * width + head]}" for head in range(width)] for layer in range(layers)
    ]
    tables = {name: group.reshape(layers, width) for name, group in zip(metrics, values, strict=True)}
    found = [
        {**dict(zip(head, place, strict=True)), **{name: group[i].to_json() for name, group in metrics.items()}}
        for i, place in enumerate(places)
    ]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in CATEGORIES)
    return Findings(
        "attention",
        f"Attention heads of {subject.name}",
        [
            f"{len(kinds)} heads: {counts}. A head's category is the measure in which it ranks highest.",
            f"The maps are those of {heads.rows[0]['id']}: queries downwards, keys to the right.",
        ],
        [*head, *(name + end for name in metrics for end in ("", "_low", "_high"))],
        [place + cells for place, cells in zip(places, numbers, strict=True)],
        {"attention.png": attention_plot(heads.picture, titles), "heads.svg": heads_plot(tables)},
        {**subject.facts, "max_seconds": heads.max_seconds, "heads": found},
        heads.rows,
        [*heads.notes, *interval_notes(metric for group in metrics.values() for metric in group)],
    )


def _cells(metric: Metric) -> list[Cell]:
    return [metric.value, *(metric.ci95 or (None, None))]


def attentive() -> list[str]:
    """Names of upstreams with attention maps, one a family."""
    families = {card.folder: card for card in reversed(list(upstreams))}
    return sorted(card.name for card in families.values() if hasattr(card.load(), "attention_maps"))
