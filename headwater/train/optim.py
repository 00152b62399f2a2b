"""Optimisers and schedules, all from torch and transformers."""

from __future__ import annotations

from typing import Any

import torch

from headwater.config import OptimizerConfig, SchedulerConfig


def build_optimizer(
    groups: list[dict[str, Any]], settings: OptimizerConfig, *, fused: bool = False
) -> torch.optim.Optimizer:
    """An optimiser of `groups` of parameters, which may have a rate or a decay of their own.

    fused: torch's one kernel a group, quicker where there are many.
    """
    shared: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay, "fused": fused or None}
    if settings.name == "SGD":
        return torch.optim.SGD(groups, momentum=settings.momentum, **shared)
    kind = torch.optim.AdamW if settings.name == "AdamW" else torch.optim.Adam
    return kind(groups, betas=settings.betas, eps=settings.eps, **shared)


def build_scheduler(
    optimizer: torch.optim.Optimizer, settings: SchedulerConfig, total_steps: int, epochs: int | None = None
) -> Any:
    """A schedule over `total_steps`, of each group from its own rate; None for a constant rate.

    epochs: how many they are, for the schedule that counts them; they are taken to be of equal length.
    """
    if settings.name == "constant":
        return None
    if settings.name == "step":
        assert epochs is not None and settings.every_epochs is not None and settings.factor is not None
        every, factor = settings.every_epochs * total_steps, settings.factor
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor ** (step * epochs // every))
    from transformers import get_scheduler

    warmup = settings.warmup_steps or round(settings.warmup_ratio * total_steps)
    factors = [
        # The polynomial schedule looks at the rate of an optimiser to know where it ends, and would take one for all groups.
        get_scheduler(
            settings.name,
            torch.optim.SGD([torch.zeros(1)], lr=group["lr"]),
            num_warmup_steps=warmup,
            num_training_steps=total_steps,
        ).lr_lambdas[0]
        for group in optimizer.param_groups
    ]
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
