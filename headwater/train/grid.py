"""A grid: probes on every layer, at several learning rates and from several seeds, trained in one loop over one pass of features.

Dev chooses each arm's weights and, for each selection of layers, the learning rate. Only then are the chosen arms scored on test.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from headwater.config import RunConfig
from headwater.errors import DataError, HeadwaterError, UsageError
from headwater.metrics import Metric
from headwater.metrics.rows import Row
from headwater.nn.featurizer import Featurizer
from headwater.nn.upstream import UpstreamSpec
from headwater.train.arms import Arm, Arms, alike
from headwater.train.feed import Ready
from headwater.train.loop import Best, fit
from headwater.train.outcome import Outcome
from headwater.train.parts import Prepared, build_probe
from headwater.train.probe import Probe
from headwater.train.probing import Probing, evaluate_each
from headwater.train.task import Accumulator, Batch, Task
from headwater.train.work import Portion, Work


def asked_layer(config: RunConfig, spec: UpstreamSpec) -> int | None:
    """The layer that `-l` or `-s last_hidden_state` asks for; None for the weighted sum."""
    settings = config.upstream
    layers = Featurizer(spec, settings.selection, settings.layer).layers
    return layers[0] if len(layers) == 1 else None


def arms_of(config: RunConfig, spec: UpstreamSpec) -> list[Arm]:
    """Every selection at every learning rate from every seed; the asked selection is among them."""
    asked = asked_layer(config, spec)
    selections: list[int | None] = [asked]
    if config.grid.layers == "all":
        layers = Featurizer(spec).layers
        selections = [None, *layers] if len(layers) > 1 else list(layers)
    if asked not in selections:
        raise UsageError(
            f"--layers all compares the {len(selections) - 1} layers of {spec.out_dim} dims with each other and with their sum; "
            f"-l {asked} has {spec.layer_dims[asked or 0]}: ask for it in a run of its own"
        )
    rates = config.grid.lrs or [config.optimizer.lr]
    seeds = range(config.seed, config.seed + config.grid.seeds)
    return [Arm(layer, lr, seed) for layer in selections for lr in rates for seed in seeds]


class SideBySide(Work[Ready]):
    """All arms of a run. What they share is the data: its order is that of the run's own seed, whatever the arm's."""

    module: Arms

    def __init__(self, parts: Prepared) -> None:
        self.prepared, config = parts, parts.config
        # The plain run's own work has all that a grid does not change.
        self.plain = Probing(parts.probe, parts.task, parts.feed, parts.items, config, parts.world)
        self.durations, self.higher_is_better = self.plain.durations, self.plain.higher_is_better
        arms = arms_of(config, parts.upstream.spec)
        if len({arm.lr for arm in arms}) > 1 and not parts.items.get("dev"):
            raise DataError("--lr-grid chooses on dev, and there are no dev utterances")
        self.module = Arms(arms, lambda layer, seed: probe_of(parts, layer, seed), parts.feed.store.layers)
        self.arms = self.module.arms
        for parameter in self.module.parameters():
            if parts.world.ranks > 1 and parameter.requires_grad:
                # Slices of a stack have strides of their own, of which DistributedDataParallel warns.
                parameter.register_hook(lambda gradient: gradient.clone(memory_format=torch.contiguous_format))
        self.parts = [arm.name for arm in self.arms]
        self.vectorised = False
        self._settle()

    def _settle(self) -> None:
        """Whether heads and loss take all arms at once is found out on two utterances."""
        ready = self.plain.trial(2)
        assert ready.states is not None
        self.module.settle(ready.states, ready.lengths, ready.batch.inputs)
        mode = self.module.training
        with torch.no_grad():
            outputs = self.module.eval()(ready.states, ready.lengths, ready.batch.inputs)
            try:
                together = [losses(self.prepared.task, output, ready.batch) for output in outputs]
                self.vectorised = alike(together, [each_loss(self.prepared.task, o, ready.batch) for o in outputs])
            except (RuntimeError, ValueError, IndexError, TypeError):
                self.vectorised = False  # a loss may look at its values as it likes
        self.module.train(mode)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return self.module.parameter_groups()

    def ready(self, portions: Sequence[Portion]) -> Iterator[Ready]:
        return self.plain.ready(portions)

    def loss(self, module: nn.Module, ready: Ready) -> tuple[Tensor, Tensor]:
        outputs = module(ready.states, ready.lengths, ready.batch.inputs)
        way = losses if self.vectorised else each_loss
        with torch.autocast(self.plain.feed.device.type, enabled=False):
            found = [way(self.prepared.task, output, ready.batch) for output in outputs]
        return torch.cat([sums for sums, _ in found]), found[0][1]

    def clip(self, parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
        return self.module.clip(limit)

    def merged(self, best: dict[str, Tensor], chosen: Sequence[int]) -> dict[str, Tensor]:
        return self.module.merged(best, chosen)

    def evaluate(self) -> tuple[str, float | list[float | None] | None] | None:
        parts, task = self.prepared, self.prepared.task
        if not parts.items.get("dev"):
            return None
        wrong = torch.zeros(len(self.arms), dtype=torch.int64, device=parts.device)

        def answer(ready: Ready) -> list[Any]:
            outputs = self.module(ready.states, ready.lengths, ready.batch.inputs)
            wrong.add_(torch.cat([not_finite(family) for family in outputs]))
            # An accumulator takes NaN for the end of the run; here it is that of one arm.
            finite = tree_map(lambda leaf: leaf if leaf is None else leaf.nan_to_num(), outputs)
            return [output for family in finite for output in each(family)]

        scores = evaluate_each(
            [self.module], answer, [task.score("dev") for _ in self.arms],
            task, parts.feed, parts.items["dev"], "dev", parts.config, parts.world,
        )  # fmt: skip
        bad = parts.world.sum(wrong).tolist()
        name = task.spec.measures_of("dev")[0].name
        values = [None if count else score.first() for score, count in zip(scores, bad, strict=True)]
        return name, values if len(values) > 1 else values[0]


def losses(task: Task, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """The loss of every arm (arms,), and the count, in one call."""
    sums, counts = torch.vmap(lambda one: task.loss(one, batch))(output)
    return sums, counts[0]


def each_loss(task: Task, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """The same, arm by arm."""
    found = [task.loss(one, batch) for one in each(output)]
    return torch.stack([total for total, _ in found]), found[0][1]


def each(output: Any) -> list[Any]:
    """A family's output -> that of each arm."""
    count = next(len(leaf) for leaf in tree_leaves(output) if leaf is not None)
    return [
        tree_map(lambda leaf, at=number: None if leaf is None else leaf[at], output)  # type: ignore[misc]
        for number in range(count)
    ]


def not_finite(output: Any) -> Tensor:
    """(arms,) bool: which arms of a family answer NaN or infinity."""
    wrong = [~torch.isfinite(leaf).flatten(1).all(1) for leaf in tree_leaves(output) if leaf is not None]
    return torch.stack(wrong).any(0)


def probe_of(parts: Prepared, layer: int | None, seed: int) -> Probe:
    """The probe that a run of this selection and seed starts from."""
    config = parts.config
    upstream = config.upstream.model_copy(update={"selection": "hidden_states", "layer": layer})
    own = config.model_copy(update={"seed": seed, "upstream": upstream})
    return build_probe(own, parts.task, parts.upstream, parts.device)


@dataclass
class Raced(Outcome):
    """Where the asked arm stands, and what became of all of them.

    bests: by arm. chosen: numbers of the arms that are scored, the asked one first. states: their weights. scored: metrics by split, of all but the asked one.
    """

    arms: list[Arm] = field(default_factory=list)
    bests: list[Best] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)
    states: list[dict[str, Tensor]] = field(default_factory=list)
    scored: dict[int, dict[str, dict[str, Metric]]] = field(default_factory=dict)
    rows: dict[int, dict[str, Sequence[Row]]] = field(default_factory=dict)

    def score(self, parts: Prepared, splits: Sequence[str]) -> dict[str, Accumulator]:
        """Score the chosen arms on each split in one pass; returns the asked arm's."""
        probes = [probe_of(parts, self.arms[number].layer, self.arms[number].seed) for number in self.chosen]
        for probe, state in zip(probes, self.states, strict=True):
            probe.load_state_dict(state)
        parts.probe.load_state_dict(self.states[0])
        given = parts.feed.store.layers
        places = [[given.index(layer) for layer in probe.featurizer.layers] for probe in probes]

        def answer(ready: Ready) -> list[Any]:
            assert ready.states is not None
            return [
                probe(tuple(ready.states[place] for place in own), ready.lengths, ready.batch.inputs)[0]
                for probe, own in zip(probes, places, strict=True)
            ]

        found = {}
        for split in splits:
            if items := parts.items.get(split):
                accumulators = [parts.task.score(split) for _ in probes]
                scores = evaluate_each(
                    probes, answer, accumulators, parts.task, parts.feed, items, split, parts.config, parts.world
                )
                found[split] = scores[0]
                for number, score in zip(self.chosen[1:], scores[1:], strict=True):
                    self.scored.setdefault(number, {})[split] = score.result()
                    self.rows.setdefault(number, {})[split] = score.rows()
        return found

    def said(self, metrics: dict[str, dict[str, Metric]]) -> dict[str, Any]:
        """The `probe`, `arms` and `seeds` of the result. metrics: of the asked arm."""
        scored = {self.chosen[0]: metrics, **self.scored}
        arms = [
            {
                "selection": arm.selection, "lr": arm.lr, "seed": arm.seed, "best_step": best.best_step, "dev": best.best,
                "chosen": number in scored, "asked": number == self.chosen[0], "diverged": best.diverged or None,
                "metrics": _json(scored[number]) if number in scored else None,
            }
            for number, (arm, best) in enumerate(zip(self.arms, self.bests, strict=True))
        ]  # fmt: skip
        seeds = []
        for selection in dict.fromkeys(arm.selection for arm in self.arms):
            runs = [number for number in sorted(scored) if self.arms[number].selection == selection]
            if runs:
                spread = {
                    split: {name: _spread([scored[run][split][name] for run in runs]) for name in group}
                    for split, group in scored[runs[0]].items()
                }
                seeds.append({"selection": selection, "lr": self.arms[runs[0]].lr, "n": len(runs), "metrics": spread})
        return {**super().said(metrics), "arms": arms, "seeds": seeds}

    def files(self) -> dict[str, Sequence[Row]]:
        """Where the score rows of the other scored arms go, below `scores/`: one file a selection, seed and split."""
        return {
            f"{self.arms[number].selection.replace(' ', '_')}-seed{self.arms[number].seed}/{split}.jsonl": rows
            for number, splits in self.rows.items()
            for split, rows in splits.items()
        }

    def notes(self) -> list[str]:
        """What a reader must know: rates at the edge of the grid, and arms that diverged."""
        rates = sorted({arm.lr for arm in self.arms})
        at_edge: dict[float, list[str]] = {}
        for arm in (self.arms[number] for number in sorted(self.chosen)):
            if len(rates) > 1 and arm.lr in (rates[0], rates[-1]) and arm.selection not in at_edge.get(arm.lr, []):
                at_edge.setdefault(arm.lr, []).append(arm.selection)
        notes = [
            f"The learning rate chosen on dev, {lr:g}, is at the edge of the grid ({rates[0]:g} to {rates[-1]:g}) for {', '.join(names)}: "
            "a wider grid may do better."
            for lr, names in at_edge.items()
        ]
        broken = [arm.name for arm, best in zip(self.arms, self.bests, strict=True) if best.diverged]
        if broken:
            notes.append(f"{len(broken)} of {len(self.arms)} arms diverged and were not chosen: {'; '.join(broken)}.")
        return notes


def race(parts: Prepared, folder: Path) -> Raced:
    """Train all arms in a run's folder, and choose."""
    work = SideBySide(parts)
    standing = fit(work, parts.config, folder, world=parts.world, device=parts.device)
    asked = asked_layer(parts.config, parts.upstream.spec)
    # To the loop one arm is ordinary work.
    bests: list[Best] = standing.parts or [standing]
    rates = chosen_rates(work.arms, bests, work.higher_is_better)
    chosen = [
        number
        for number, (arm, best) in enumerate(zip(work.arms, bests, strict=True))
        if rates.get(arm.layer) == arm.lr and not best.diverged
    ]
    # The asked selection with the run's own seed is what the result is about; were it diverged, another seed would be another answer than was asked for.
    chosen.sort(key=lambda number: (work.arms[number].layer != asked, work.arms[number].seed))
    first = work.arms[chosen[0]] if chosen else None
    if first is None or first.layer != asked or first.seed != parts.config.seed:
        raise HeadwaterError(
            f"training diverged: the gradient of {Arm(asked, parts.config.optimizer.lr, 0).selection} was NaN or infinite at every learning rate "
            f"({', '.join(f'{lr:g}' for lr in work.module.lrs)}); give lower ones with --lr-grid, or lower runner.gradient_clipping"
        )
    best, history = bests[chosen[0]], standing.history
    if standing.parts:
        history = history_of(history, chosen[0], work.module.lrs.index(first.lr))
    return Raced(
        best_step=best.best_step,
        best=best.best,
        done=standing.done,
        step=standing.step,
        seconds=standing.seconds,
        history=history,
        arms=work.arms,
        bests=bests,
        chosen=chosen,
        states=[work.module.state_of(number) for number in chosen],
    )


def untrained(parts: Prepared) -> Raced:
    """The layers of a task that trains nothing: all there is to do is to score them."""
    arms = arms_of(parts.config, parts.upstream.spec)
    if len({(arm.lr, arm.seed) for arm in arms}) > 1:
        raise UsageError(
            "this task trains nothing, so seeds and learning rates change nothing: leave out --seeds and --lr-grid"
        )
    asked = asked_layer(parts.config, parts.upstream.spec)
    chosen = sorted(range(len(arms)), key=lambda number: arms[number].layer != asked)
    states = [probe_of(parts, arms[number].layer, arms[number].seed).state_dict() for number in chosen]
    return Raced(arms=arms, bests=[Best() for _ in arms], chosen=chosen, states=states)


def chosen_rates(arms: Sequence[Arm], bests: Sequence[Best], higher_is_better: bool) -> dict[int | None, float]:
    """For each selection the learning rate that is best on dev in the mean over seeds; the lowest of equal ones.

    A rate at which a seed diverged is out, unless every rate is: then of those with the fewest such seeds.
    """
    chosen: dict[int | None, float] = {}
    for layer in dict.fromkeys(arm.layer for arm in arms):
        ranked = []
        for lr in sorted({arm.lr for arm in arms}):
            own = [best for arm, best in zip(arms, bests, strict=True) if (arm.layer, arm.lr) == (layer, lr)]
            alive = [best for best in own if not best.diverged]
            if alive:
                mean = statistics.fmean(best.best if best.best is not None else 0.0 for best in alive)
                ranked.append((len(own) - len(alive), -mean if higher_is_better else mean, lr))
        if ranked:
            chosen[layer] = min(ranked)[2]
    return chosen


def history_of(history: Sequence[dict[str, Any]], number: int, rate: int) -> list[dict[str, Any]]:
    """The history of one arm, as its own run would have it."""
    rows = []
    for row in history:
        if "dev" in row:
            rows.append({**row, "dev": {name: values[number] for name, values in row["dev"].items()}})
        else:
            rows.append({**row, "loss": row["loss"][number], "lr": row["lr"][rate]})
    return rows


def _spread(metrics: Sequence[Metric]) -> dict[str, float | None]:
    values = [metric.value for metric in metrics]
    return {
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "best": max(values) if metrics[0].higher_is_better else min(values),
    }


def _json(metrics: dict[str, dict[str, Metric]]) -> dict[str, Any]:
    return {split: {name: metric.to_json() for name, metric in group.items()} for split, group in metrics.items()}
