"""Optimisers and schedules, all from torch and transformers."""

from __future__ import annotations

from typing import Any

import torch

from headwater.config import OptimizerConfig, SchedulerConfig


def build_optimizer(groups: list[dict[str, Any]], settings: OptimizerConfig) -> torch.optim.Optimizer:
    """An optimiser of `groups` of parameters, which may have a rate or a decay of their own."""
    if settings.name == "SGD":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
    kind = torch.optim.AdamW if settings.name == "AdamW" else torch.optim.Adam
    return kind(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, weight_decay=settings.weight_decay)


def build_scheduler(optimizer: torch.optim.Optimizer, settings: SchedulerConfig, total_steps: int) -> Any:
    """A schedule over `total_steps`; None for a constant rate."""
    if settings.name == "constant":
        return None
    from transformers import get_scheduler

    warmup = settings.warmup_steps or round(settings.warmup_ratio * total_steps)
    return get_scheduler(settings.name, optimizer, num_warmup_steps=warmup, num_training_steps=total_steps)
