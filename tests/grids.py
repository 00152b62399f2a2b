"""Grids on a tiny corpus, and the plain runs that each of their arms stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headwater.config import RunConfig
from headwater.settings import merge, parse_overrides, validate
from headwater.train.arms import Arm
from headwater.train.checkpoint import Checkpoint
from headwater.train.loop import Trainer
from headwater.train.parts import Prepared, prepare
from headwater.train.probing import Probing
from headwater.train.work import Work

SMALL = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
ALL: dict[str, Any] = {"layers": "all", "seeds": 2, "lrs": [3e-3, 3e-2]}


def grid_config(corpus: Path, *overrides: str, task: str = "phone", grid: dict[str, Any] | None = None) -> RunConfig:
    """Three hidden states of random weights; by default a grid of all layers, two rates and two seeds: 16 arms."""
    base: dict[str, Any] = {
        "upstream": {"name": "tera", "config": {"random_weights": 0, "transformer": SMALL}},
        "downstream": task,
        "grid": ALL if grid is None else grid,
        "data": {"path": str(corpus), "labels": str(corpus.parent / "phones.txt")},
        "batch": {"size": 4},
        "scheduler": {"name": "linear", "warmup_steps": 3},
        "runner": {"total_steps": 12, "eval_step": 4, "save_step": 5, "log_step": 3},
        "store": {"cache": False},
    }
    return validate(RunConfig, merge(base, parse_overrides(list(overrides))))


def prepared(config: RunConfig) -> Prepared:
    return prepare(config, device="cpu", say=lambda line: None)


def separate(config: RunConfig, arm: Arm) -> RunConfig:
    """The plain run that an arm stands for, on the data order of the grid's own seed."""
    chosen = {"selection": "hidden_states", "layer": arm.layer}
    return config.model_copy(
        update={
            "upstream": config.upstream.model_copy(update=chosen),
            "optimizer": config.optimizer.model_copy(update={"lr": arm.lr}),
            "grid": config.grid.model_copy(update={"layers": None, "seeds": 1, "lrs": []}),
        }
    )


def trainer_of(work: Work[Any], parts: Prepared, folder: Path) -> Trainer:
    return Trainer(
        work, parts.config, world=parts.world, device=parts.device, checkpoint=Checkpoint(folder), events=None,
    )  # fmt: skip


def probing(parts: Prepared) -> Probing:
    return Probing(parts.probe, parts.task, parts.feed, parts.items, parts.config, parts.world)


def relative(one: Tensor, other: Tensor) -> float:
    """The distance in units of the norm of `other`."""
    return float(torch.linalg.vector_norm(one - other) / torch.linalg.vector_norm(other).clamp(min=1e-30))
