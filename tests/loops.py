"""Training without a command line, for tests: a corpus of tones, a plugin with a batch norm, and the parts of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from corpora import make_corpus, make_labels
from torch import Tensor

from headwater.config import RunConfig
from headwater.registry import add_plugin, registries
from headwater.results.run import RunFolder
from headwater.settings import merge, parse_overrides, validate
from headwater.train import runner
from headwater.train.checkpoint import Checkpoint
from headwater.train.loop import Standing, Trainer
from headwater.train.parts import Prepared, prepare
from headwater.train.probing import Probing

PLUGIN = '''
import torch
from torch import nn


class LoopModel(nn.Module):
    """Two layers and a batch norm on log mel bins."""

    frontend = "mel"
    out_dim = 8

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.norm, self.second = nn.Linear(80, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)
        for parameter in self.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)

    def forward(self, x):
        y = torch.nn.functional.gelu(self.first(x))
        return self.second(self.norm(y.transpose(1, 2)).transpose(1, 2))
'''


def tones(folder: Path) -> Path:
    """The list of 30 utterances, and their labels beside it."""
    make_labels(folder, speakers=3, utterances=10, seconds=0.3)
    return make_corpus(folder, speakers=3, utterances=10, seconds=0.3)


@contextmanager
def registered(folder: Path) -> Iterator[str]:
    """The plugin, known by the name that is given."""
    (folder / "loop_model.py").write_text(PLUGIN, encoding="utf-8")
    add_plugin(folder / "loop_model.py")
    yield "LoopModel"
    for kind in ("upstream", "downstream"):
        registries[kind].cards.pop("LoopModel", None)  # type: ignore[index]


def settings_of(corpus: Path, *overrides: str, upstream: str = "fbank_no_cmvn", task: str = "phone") -> RunConfig:
    """18 training utterances in batches of 4, and SpecAugment so that the random state matters."""
    base: dict[str, Any] = {
        "upstream": {"name": upstream},
        "downstream": task,
        "data": {"path": str(corpus), "labels": str(corpus.parent / "phones.txt")},
        "batch": {"size": 4},
        "optimizer": {"lr": 0.01},
        "runner": {"total_steps": 12, "eval_step": 4, "save_step": 5, "log_step": 3},
        "specaug": {"time_width": 10, "frequency_width": 20},
    }
    return validate(RunConfig, merge(base, parse_overrides(list(overrides))))


def prepared(corpus: Path, *overrides: str, **kinds: str) -> Prepared:
    return prepare(settings_of(corpus, *overrides, **kinds), device="cpu", say=lambda line: None)


def train(parts: Prepared, folder: Path) -> Standing:
    """In a folder as a run has begun it."""
    folder.mkdir(parents=True, exist_ok=True)
    return runner.train(parts, RunFolder(folder))


def trained(corpus: Path, folder: Path, *overrides: str, **kinds: str) -> tuple[Standing, dict[str, Tensor]]:
    """The standing, and the weights as they were at the last step (not the best ones)."""
    parts = prepared(corpus, *overrides, **kinds)
    standing = train(parts, folder)
    last = Checkpoint(folder / "checkpoint").load()
    assert last is not None
    return standing, last["module"]


def trainer_of(parts: Prepared, folder: Path, kind: type[Trainer] = Trainer) -> Trainer:
    work = Probing(parts.probe, parts.task, parts.feed, parts.items, parts.config, parts.world)
    return kind(
        work, parts.config, world=parts.world, device=parts.device, checkpoint=Checkpoint(folder), events=None,
    )  # fmt: skip


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
