"""A probe at work: what the loop trains for a task, and how a split is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headwater.config import RunConfig
from headwater.data.batching import deal, plan_epoch, plan_evaluation, windows
from headwater.errors import DataError
from headwater.progress import progress
from headwater.store.features import enough_memory
from headwater.train.distributed import World
from headwater.train.feed import Feed, Ready
from headwater.train.loop import autocast
from headwater.train.probe import Probe
from headwater.train.task import Accumulator, Draw, Item, Task
from headwater.train.work import Portion, Work


def seconds_of(items: Sequence[Item], rate: int) -> np.ndarray:
    """Durations (N,) float64."""
    return np.array([item.num_samples / rate for item in items])


def durations_of(items: Sequence[Item], task: Task) -> np.ndarray:
    """What training sees of each of its items, in seconds (N,): pieces where the task crops."""
    seconds = seconds_of(items, task.spec.sample_rate)
    return seconds if task.crop_seconds is None else seconds.clip(max=task.crop_seconds)


def audio_seconds(items: Sequence[Item], task: Task, config: RunConfig, steps: int) -> float:
    """How much audio the first `steps` steps of training saw, repetitions counted: with the steps, a run's budget."""
    seconds, total, epoch = durations_of(items, task), 0.0, 0
    while steps > 0:
        plan = plan_epoch(
            seconds, size=config.batch.size, max_seconds=config.batch.seconds, seed=config.seed, epoch=epoch
        )
        seen = windows(plan, config.runner.gradient_accumulate_steps)[:steps]
        total += sum(float(seconds[batch].sum()) for window in seen for batch in window)
        steps, epoch = steps - len(seen), epoch + 1
    return total


def evaluate(
    probe: Probe, task: Task, feed: Feed, items: Sequence[Item], split: str, config: RunConfig, world: World
) -> Accumulator:
    """Score a split; every rank ends with all of it. Training's random state is not touched."""

    def answer(ready: Ready) -> list[Any]:
        return [probe(ready.states, ready.lengths, ready.batch.inputs, ready.x)[0]]

    return evaluate_each([probe], answer, [task.score(split)], task, feed, items, split, config, world)[0]


def evaluate_each(
    modules: Sequence[nn.Module],
    answer: Callable[[Ready], Sequence[Any]],
    accumulators: list[Accumulator],
    task: Task,
    feed: Feed,
    items: Sequence[Item],
    split: str,
    config: RunConfig,
    world: World,
) -> list[Accumulator]:
    """Score a split by several systems in one pass over its features: `answer` gives an output for each accumulator, with `modules` in evaluation mode."""
    plan = plan_evaluation(
        seconds_of(items, task.spec.sample_rate), size=config.batch.size * 4, max_seconds=config.batch.seconds * 2
    )
    shares = [deal(batch, world.rank, world.ranks) for batch in plan]
    groups = [[items[index] for index in share] for share in shares if len(share)]
    modes = [module.training for module in modules]
    for module in modules:
        module.eval()
    with (
        torch.random.fork_rng(devices=[feed.device] if feed.device.type == "cuda" else []),
        torch.no_grad(),
        enough_memory(f"while scoring {split}; lower batch.seconds or batch.size"),
    ):
        for ready in progress(feed(groups), total=len(groups), what=f"score {split}", unit="batch", shown=world.first):
            with autocast(config, ready.lengths.device):
                outputs = answer(ready)
            for accumulator, output in zip(accumulators, outputs, strict=True):
                accumulator.add(output, ready.batch)
    for module, mode in zip(modules, modes, strict=True):
        module.train(mode)
    if world.ranks > 1:
        for accumulator in accumulators:
            for rank, state in enumerate(world.gather(accumulator.state())):
                if rank != world.rank:
                    accumulator.merge(state)
    return accumulators


def draws_of(config: RunConfig, numbers: Sequence[int] | np.ndarray, epoch: int = 0) -> list[Draw]:
    """Where in training the items of these numbers are asked for."""
    return [Draw(config.seed, epoch, int(number)) for number in numbers]


class Probing(Work[Ready]):
    """Trains a probe on `items["train"]`; the task's first measure on `items["dev"]` chooses."""

    module: Probe

    def __init__(
        self, probe: Probe, task: Task, feed: Feed, items: dict[str, list[Item]], config: RunConfig, world: World
    ) -> None:
        self.module, self.task, self.feed, self.items, self.config, self.world = probe, task, feed, items, config, world
        if not items.get("train"):
            raise DataError(
                "there are no utterances to train on; a task that trains nothing (embedding: raw) takes no -f (--fine_tune)"
            )
        self.durations = durations_of(items["train"], task)
        self.higher_is_better = task.spec.measures_of("dev")[0].higher_is_better
        # Of a fine-tuned upstream, layers above the one that is read have no part in the loss.
        self.may_leave_parameters_unused = probe.upstream is not None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Two groups where the upstream is fine-tuned at its own rate."""
        probe = self.module
        upstream = [p for p in probe.upstream.parameters() if p.requires_grad] if probe.upstream is not None else []
        theirs = {id(p) for p in upstream}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in probe.parameters() if p.requires_grad and id(p) not in theirs]}
        ]
        if upstream:
            groups.append({"params": upstream, "lr": self.config.upstream.lr or self.config.optimizer.lr})
        return [group for group in groups if group["params"]]

    def ready(self, portions: Sequence[Portion]) -> Iterator[Ready]:
        train = self.items["train"]
        groups = [[train[index] for index in portion.share] for portion in portions]
        if not self.feed.varies:
            return self.feed(groups)
        return self.feed(groups, [draws_of(self.config, portion.share, portion.epoch) for portion in portions])

    def trial(self, count: int) -> Ready:
        """A first batch of some training items, as the first epoch sees them."""
        train = self.items["train"][:count]
        return next(iter(self.feed([train], [draws_of(self.config, range(len(train)))])))

    def loss(self, module: nn.Module, ready: Ready) -> tuple[Tensor, Tensor]:
        output, _ = module(ready.states, ready.lengths, ready.batch.inputs, ready.x)
        with torch.autocast(self.feed.device.type, enabled=False):
            return self.task.loss(output, ready.batch)

    def evaluate(self) -> tuple[str, float] | None:
        if not self.items.get("dev"):
            return None
        scores = evaluate(self.module, self.task, self.feed, self.items["dev"], "dev", self.config, self.world)
        return self.task.spec.measures_of("dev")[0].name, scores.first()
