"""Optimisers and schedules, all from torch and transformers."""

from __future__ import annotations

from typing import Any

import torch

from headwater.config import OptimizerConfig, RunConfig
from headwater.train.probe import Probe


def build_optimizer(probe: Probe, config: RunConfig) -> torch.optim.Optimizer:
    """Two groups where the upstream is fine-tuned at its own rate."""
    settings: OptimizerConfig = config.optimizer
    upstream = [p for p in probe.upstream.parameters() if p.requires_grad] if probe.upstream is not None else []
    theirs = {id(p) for p in upstream}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in probe.parameters() if p.requires_grad and id(p) not in theirs]}
    ]
    if upstream:
        groups.append({"params": upstream, "lr": config.upstream.lr or settings.lr})
    groups = [group for group in groups if group["params"]]
    if settings.name == "SGD":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
    kind = torch.optim.AdamW if settings.name == "AdamW" else torch.optim.Adam
    return kind(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, weight_decay=settings.weight_decay)


def build_scheduler(optimizer: torch.optim.Optimizer, config: RunConfig, total_steps: int) -> Any:
    """A schedule over `total_steps`; None for a constant rate."""
    settings = config.scheduler
    if settings.name == "constant":
        return None
    from transformers import get_scheduler

    warmup = settings.warmup_steps or round(settings.warmup_ratio * total_steps)
    return get_scheduler(settings.name, optimizer, num_warmup_steps=warmup, num_training_steps=total_steps)
