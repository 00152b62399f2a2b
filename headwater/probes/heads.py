"""Which head a computed probe fills, and which tasks it cannot do."""

from __future__ import annotations

from torch import nn

from headwater.config import RunConfig
from headwater.errors import UsageError
from headwater.nn.heads import FrameClassifier, PooledLinear
from headwater.probes.knn import NearestNeighbours
from headwater.train.classification import ClassificationTask
from headwater.train.task import Task


def head_for(config: RunConfig, task: Task, head: nn.Module, in_dim: int) -> nn.Module:
    """The head that `config.probe` fills: the task's own where it is linear, or a memory. `UsageError` names what such a probe cannot do."""
    probe, asked = config.probe, f"--probe {config.probe}"
    if probe == "head":
        return head
    if config.upstream.trainable:
        raise UsageError(f"{asked} is computed on frozen features; it cannot go with -f (--fine_tune)")
    if config.specaug is not None:
        raise UsageError(f"{asked} sees the features once, as they are; specaug has no meaning with it")
    name = config.downstream
    if not isinstance(task, ClassificationTask):
        raise UsageError(f"{asked}: {name} is no classification, so there is nothing that it could fit")
    if linear_of(head) is None:
        raise UsageError(
            f"{asked}: the head of {name} is more than one linear layer (a hidden layer or a projector); "
            "ask a task without it, such as speaker or phone, or set task.projector or task.hidden to 0"
        )
    if probe != "ridge" and isinstance(head, FrameClassifier):
        raise UsageError(f"{asked} gives one answer an utterance, and {name} asks every frame; --probe ridge does that")
    return NearestNeighbours(in_dim, len(task.classes)) if probe == "knn" else head


def linear_of(head: nn.Module) -> nn.Linear | None:
    """The one linear layer of a head that has no other parameters."""
    if isinstance(head, PooledLinear) and isinstance(head.projector, nn.Identity):
        return head.classifier
    if isinstance(head, FrameClassifier) and isinstance(head.layers, nn.Linear):
        return head.layers
    return None
