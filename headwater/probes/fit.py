"""`--probe`: a probe that is computed, not trained, in the place of the task's head: same features, same scoring, same run folder.

What the grid leaves open is chosen on dev by the task's own measure; where several are equal, the first of the grid, which is the stronger
regularisation or the fewer neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from headwater.data.batching import deal, plan_evaluation
from headwater.errors import DataError, HeadwaterError
from headwater.metrics import Metric
from headwater.nn.heads import FrameClassifier, splice
from headwater.nn.pooling import mean_pool
from headwater.probes import knn, logistic, ridge
from headwater.probes.heads import linear_of
from headwater.probes.statistics import Moments
from headwater.progress import progress
from headwater.store.features import enough_memory
from headwater.train.classification import targets
from headwater.train.feed import Ready
from headwater.train.loop import autocast
from headwater.train.outcome import Outcome
from headwater.train.parts import Prepared
from headwater.train.probing import seconds_of

Outputs = Callable[[Ready], list[Tensor]]


@dataclass
class Fitted(Outcome):
    """A probe that was computed. chosen: on dev, and from which grid."""

    chosen: dict[str, Any] = field(default_factory=dict)

    def said(self, metrics: dict[str, dict[str, Metric]]) -> dict[str, Any]:
        """What was chosen is the `probe` of the result."""
        return {"probe": self.chosen}


def fit_probe(parts: Prepared) -> Fitted:
    """Compute the probe from train, choose on dev, and put it into `parts.probe`. The same settings give the same bits."""
    started = time.monotonic()
    name = parts.config.probe
    for split in ("train", "dev"):
        if not parts.items.get(split):
            raise DataError(f"--probe {name} computes on train and chooses on dev; there are no {split} utterances")
    layers = parts.probe.featurizer.layer_names
    if len(layers) > 1:
        parts.notes.append(
            f"--probe {name} learns no layer weights: its features are the plain mean of {len(layers)} layers"
        )
    parts.probe.eval()
    with torch.no_grad(), enough_memory("lower batch.seconds or batch.size"):
        chosen = {"ridge": fit_ridge, "logistic": fit_logistic, "knn": fit_knn}[name](parts)
    return Fitted(done=True, seconds=time.monotonic() - started, chosen={"name": name, **chosen})


def fit_ridge(parts: Prepared) -> dict[str, Any]:
    """Ridge regression into the task's own linear layer."""
    linear = linear_of(parts.probe.head)
    assert linear is not None
    moments = Moments(linear.out_features)
    batches = (targets(inputs_of(parts, ready), ready.batch)[:2] for ready in batches_of(parts, "train", "fit ridge"))
    first = next(batches, None)
    origins = parts.world.gather(None if first is None else first[0].double().mean(0).cpu().numpy())
    moments.start(torch.from_numpy(next(mean for mean in origins if mean is not None)).to(parts.device))
    if first is not None:
        moments.add(*first)
    for x, y in batches:
        moments.add(x, y)
    moments.merged(parts.world.gather(moments.state()))
    if not bool(torch.isfinite(moments.squares).all()):
        raise HeadwaterError("the features hold NaN or infinity; `headwater check upstream NAME` examines the upstream")
    candidates = [(weight.float(), bias.float()) for weight, bias in ridge.ridge(moments)]
    return {**_write_best(parts, linear, ridge.GRID, candidates), "rows": int(moments.total)}


def fit_logistic(parts: Prepared) -> dict[str, Any]:
    """Logistic regression into the task's own linear layer."""
    linear = linear_of(parts.probe.head)
    assert linear is not None
    x, y = pooled_rows(parts, "fit logistic")
    x, classes = x.double(), linear.out_features
    moments = Moments(classes, products=False)
    moments.add(x, y)
    x = (x - moments.mean) / moments.scale
    candidates, unfinished = [], []
    parameters = None
    for l2 in progress(
        logistic.GRID, total=len(logistic.GRID), what="fit logistic", unit="l2", shown=parts.world.first
    ):
        parameters, converged = logistic.logistic(x, y, classes, l2, parameters)
        weight, bias = moments.unstandardised(parameters[:, :-1], parameters[:, -1])
        candidates.append((weight.float(), bias.float()))
        if not converged:
            unfinished.append(l2)
    if unfinished:
        parts.notes.append(f"--probe logistic: not converged after {logistic.MOST} iterations for l2 = {unfinished}")
    return {**_write_best(parts, linear, logistic.GRID, candidates), "rows": len(y)}


def fit_knn(parts: Prepared) -> dict[str, Any]:
    """Remember the training utterances, and choose how many neighbours vote."""
    head = parts.probe.head
    assert isinstance(head, knn.NearestNeighbours)
    x, y = pooled_rows(parts, "remember")
    head.remember(x, y)
    grid = [k for k in knn.GRID if k <= len(y)]

    def outputs(ready: Ready) -> list[Tensor]:
        assert ready.states is not None
        pooled = mean_pool(parts.probe.featurizer(ready.states), ready.lengths)
        cosines, labels = head.nearest(pooled, grid[-1])
        return [head.logits(cosines[:, :k], labels[:, :k]) for k in grid]

    best, said = _choose(parts, grid, outputs)
    head.k.fill_(grid[best])
    return {"k": grid[best], **said, "rows": len(y)}


def inputs_of(parts: Prepared, ready: Ready) -> Tensor:
    """What the head's linear layer sees: (B, D) or (B, T, context x D)."""
    assert ready.states is not None
    frames, head = parts.probe.featurizer(ready.states), parts.probe.head
    return (
        splice(frames, ready.lengths, head.context)
        if isinstance(head, FrameClassifier)
        else mean_pool(frames, ready.lengths)
    )


def batches_of(parts: Prepared, split: str, what: str) -> Iterator[Ready]:
    """A rank's share of a split in large batches, with a bar."""
    batch, items = parts.config.batch, parts.items[split]
    durations = seconds_of(items, parts.task.spec.sample_rate)
    shares = [
        deal(group, parts.world.rank, parts.world.ranks)
        for group in plan_evaluation(durations, size=batch.size * 4, max_seconds=batch.seconds * 2)
    ]
    groups = [[items[index] for index in share] for share in shares if len(share)]
    return iter(progress(parts.feed(groups), total=len(groups), what=what, unit="batch", shown=parts.world.first))


def pooled_rows(parts: Prepared, what: str) -> tuple[Tensor, Tensor]:
    """The mean of every training utterance (N, D) and its class (N,), in the order of the items on any number of ranks."""
    place = {item.id: number for number, item in enumerate(parts.items["train"])}
    means, order = [], []
    for ready in batches_of(parts, "train", what):
        assert ready.states is not None
        means.append(mean_pool(parts.probe.featurizer(ready.states), ready.lengths).cpu())
        order += [place[name] for name in ready.batch.ids]
    shares = parts.world.gather((torch.cat(means).numpy(), order) if means else None)
    x = torch.cat([torch.from_numpy(share[0]) for share in shares if share is not None])
    x[torch.tensor([number for share in shares if share is not None for number in share[1]])] = x.clone()
    if not bool(torch.isfinite(x).all()):
        raise HeadwaterError("the features hold NaN or infinity; `headwater check upstream NAME` examines the upstream")
    y = torch.tensor([int(item.labels["class"]) for item in parts.items["train"]])
    return x.to(parts.device), y.to(parts.device)


def _write_best(
    parts: Prepared, linear: nn.Linear, grid: Sequence[float], candidates: Sequence[tuple[Tensor, Tensor]]
) -> dict[str, Any]:
    """Put the candidate that is best on dev into `linear`."""

    def outputs(ready: Ready) -> list[Tensor]:
        x = inputs_of(parts, ready)
        return [nn.functional.linear(x, weight, bias) for weight, bias in candidates]

    best, said = _choose(parts, grid, outputs)
    linear.weight.copy_(candidates[best][0])
    linear.bias.copy_(candidates[best][1])
    return {"l2": grid[best], **said}


def _choose(parts: Prepared, grid: Sequence[float], outputs: Outputs) -> tuple[int, dict[str, Any]]:
    """Score all of the grid on dev in one pass. Returns the place of the best, and what the result says of it."""
    accumulators = [parts.task.score("dev") for _ in grid]
    for ready in batches_of(parts, "dev", "choose on dev"):
        with autocast(parts.config, ready.lengths.device):
            answers = outputs(ready)
        for accumulator, output in zip(accumulators, answers, strict=True):
            accumulator.add(output, ready.batch)
    for accumulator in accumulators:
        if parts.world.ranks > 1:
            for rank, state in enumerate(parts.world.gather(accumulator.state())):
                if rank != parts.world.rank:
                    accumulator.merge(state)
    measure = parts.task.spec.measures_of("dev")[0]
    values = [accumulator.first() for accumulator in accumulators]
    best = values.index(max(values) if measure.higher_is_better else min(values))
    name = "k" if parts.config.probe == "knn" else "l2"
    if (
        best in (0, len(grid) - 1)
        and values.count(values[best]) < len(grid)
        and len(grid) > 1
        and (name, best) != ("k", 0)
    ):
        parts.notes.append(
            f"--probe {parts.config.probe}: {name} = {grid[best]:g}, chosen on dev, is the end of its grid"
        )
    return best, {"grid": list(grid), "dev": {measure.name: values}}
