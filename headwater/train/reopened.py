"""A finished run, opened again from its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from headwater.config import GridConfig, RunConfig
from headwater.errors import DataError, HeadwaterError, UsageError
from headwater.identity import places
from headwater.probes.knn import NearestNeighbours
from headwater.results.bundle import read_model, register_plugins
from headwater.results.run import RunFolder
from headwater.settings import flatten, merge, validate
from headwater.train.parts import Prepared, Say, build_task, misfits, prepare, task_class
from headwater.weights import read_header, read_safetensors, state_sha256

OF_ONE_CORPUS = ("root", "train_list", "dev_list", "test_list", "split_file", "asv_scores")
# What may change of a finished run: it decides no numbers.
FREE = ("store.cache", "store.budget_gib", "store.memory_gib", "upstream.ckpt")


def load_exactly(module: nn.Module, file: Path) -> None:
    """Fill a part of a run from its folder. `DataError` where the file is of another one."""
    state = read_safetensors(file)
    for prefix, part in module.named_modules():
        if isinstance(part, NearestNeighbours):
            part.make_room({name: state[f"{prefix}.{name}"] for name in ("labels", "k") if f"{prefix}.{name}" in state})
    if wrong := misfits(module, state):
        raise DataError(
            f"{file} is not of the run that config.yaml and model.json describe; {', '.join(wrong[:5])} differ(s) in name or shape"
        )
    module.load_state_dict(state)


def reopen(
    path: Path, *, data: str | None, device: str | None, overrides: dict[str, Any], say: Say, with_data: bool
) -> Prepared:
    """A finished run from its folder alone, with its trained probe; `data` takes the place of its own corpus.

    overrides: settings of data and batches, and those that decide no numbers. with_data: whether the corpus is read, and so the data that the task's own
    settings name. Raises UsageError for other overrides, and for what is no finished run.
    """
    place = RunFolder(path)
    if not place.finished:
        raise UsageError(f"{path} is no finished run: it has no result.json")
    model = read_model(place)
    register_plugins(path, model["plugins"])
    own = place.config()
    named = places(own, task=task_class(own).Config) if with_data else []
    _only_data(overrides, [*FREE, *(name for name in named if name.startswith("task."))])
    # What says where the run's own corpus lies, and how it is split, would be wrong of another.
    other: dict[str, Any] = {}
    if data is not None:
        other = {"data": {**dict.fromkeys(OF_ONE_CORPUS), "reader": "auto", "splits": "whole", "path": data}}
    # Of a grid, the folder holds the arm that was asked for.
    other["grid"] = GridConfig().model_dump()
    bundled = path / "upstream.safetensors"
    # Where bundled weights say what they are, those that the settings name need not be there any more.
    if bundled.is_file() and read_header(bundled):
        other["upstream"] = {"ckpt": str(bundled)}
    settings = merge(own.model_dump(), other, overrides)
    config = validate(RunConfig, settings)
    task = build_task(config)
    try:
        task.restore(model["task"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path / 'model.json'}: the key 'task' is broken ({error!r}); train again with --fresh"
        ) from None
    items = task.corpora() if with_data else {}
    parts = prepare(config, device=device, say=say, items=items, task=task)
    if bundled.is_file():
        load_exactly(parts.upstream, bundled)
        parts.weights_sha256 = state_sha256(parts.upstream)
    if parts.weights_sha256 != model["upstream"].get("weights_sha256"):
        raise HeadwaterError(
            f"upstream {config.upstream.name!r} has other weights now than when {path} was made; name the file it was trained on with -k"
        )
    load_exactly(parts.probe, path / "model.safetensors")
    parts.probe.eval()
    return parts


def _only_data(overrides: dict[str, Any], free: Sequence[str]) -> None:
    other = [
        key
        for key, value in flatten(overrides).items()
        if value != {} and key not in free and not key.startswith(("data.", "batch."))
    ]
    if other:
        raise UsageError(
            f"{other[0]}: a finished run keeps its settings; only data.*, batch.*, {', '.join(free)} can be given to it"
        )
