"""Conv-TasNet files of other projects: kaituoxu, JusperLee (plain, skip, deep), asteroid, torchaudio, naplab.

A file is known by its keys. Sizes are read off its tensors; what they cannot say (activations, causality where no key tells, the blocks of a repeat in a flat
list) comes from settings beside the weights in the file, or from the caller, under the names of that project's own code. Every tensor has its place in our
model, or is one that the project's code never uses, and is named in a note.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from headwater.errors import DataError, UsageError
from headwater.pickles import read_pickle
from headwater.separation.convtasnet import ConvTasNet
from headwater.separation.naming import Project
from headwater.separation.projects import PROJECTS
from headwater.separation.settings import Architecture, Padding
from headwater.weights import fitting_state, is_safetensors, is_whole, read_safetensors, same_names, shapes_of, some

_STATES = ("state_dict", "model_state_dict")
_SETTINGS = ("model_args", "net_conf")
_RATES = ("sample_rate", "sr")


@dataclass(frozen=True)
class Foreign:
    """A model, the project whose file it is of, and what a user must know of it. sample_rate: of the sound it was trained on, where its settings say."""

    model: ConvTasNet
    project: str
    notes: tuple[str, ...]
    sample_rate: int | None = None


def load_foreign(
    path: str | Path, settings: Mapping[str, Any] | None = None, *, padding: Padding | None = None
) -> Foreign:
    """The model of a file: a state dict, bare or as the project's training saves it, as a pickle of PyTorch's or safetensors. Nothing in it is run.

    Args:
        settings: what the file does not say, under the names of the project's code (`causal`, `activate`, ... of JusperLee's `net_conf`).
        padding: another one than that of its code; `cut` separates the end of the sound, too.

    Raises:
        DataError: no such file, or none of these projects; a tensor is missing, left over or of another shape.
        UsageError: a setting is needed, unknown or contradicts the tensors.
    """
    held: Any = read_safetensors(path) if is_safetensors(path) else read_pickle(path)
    if not isinstance(held, Mapping):
        raise DataError(f"{path} holds {type(held).__name__}, not the weights of a Conv-TasNet")
    inside = next((held[key] for key in _STATES if isinstance(held.get(key), Mapping)), held)
    beside = dict(held) if inside is not held else {}
    for key in _SETTINGS:
        if isinstance(held.get(key), Mapping):
            beside |= held[key]
    return convert(inside, settings, beside=beside, padding=padding, where=str(path))


def convert(
    state: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    *,
    beside: Mapping[str, Any] | None = None,
    padding: Padding | None = None,
    where: str = "the weights",
) -> Foreign:
    """As `load_foreign`, of a state dict. `beside`: settings of which some may have nothing to do with the model; those of the caller go first."""
    weights = _plain(state, where)
    project = next((kind for kind in PROJECTS if kind.mark in weights), None)
    if project is None:
        known = ", ".join(kind.name for kind in PROJECTS)
        raise DataError(f"{where}: no Conv-TasNet of {known} has such names: {some(sorted(weights))}")
    given = _given(project, settings or {}, beside or {})
    config, notes = _architecture(project, weights, given, where)
    config = config if padding is None else config.model_copy(update={"padding": padding})
    # On no device: a few tensors can ask for any amount of memory, and all are compared before there is any.
    with torch.device("meta"):
        shapes = shapes_of(ConvTasNet(config))
    names, unused = project.names(shapes, config), project.unused(config)
    same_names(weights, {*names, *unused}, where)
    moved = {ours: project.fitted(weights[theirs], shapes[ours]) for theirs, ours in names.items()}
    fitting = fitting_state(moved, shapes, where)
    model = ConvTasNet(config)
    model.load_state_dict(fitting, strict=False)  # BN counts batches, which files need not say
    return Foreign(model.eval(), project.name, (*notes, *_notes(config, unused)), _rate(given, where))


def _rate(given: Mapping[str, Any], where: str) -> int | None:
    """The sample rate that is said, in Hz."""
    for key in _RATES:
        value = given.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf or value % 1:
            raise DataError(f"{where}: {key} is {value!r}; it is a whole number of Hz")
        return int(value)
    return None


def _plain(state: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """Tensors without the prefix of DataParallel, and without counters."""
    found = {str(name).removeprefix("module."): value for name, value in state.items()}
    weights = {name: value for name, value in found.items() if not name.endswith("num_batches_tracked")}
    other = [name for name, value in weights.items() if not is_whole(value)]
    if other or not weights:
        raise DataError(
            f"{where} holds no weights of a Conv-TasNet: {some(other)} is no tensor"
            if other
            else f"{where}: nothing in it"
        )
    return weights


def _given(project: Project, settings: Mapping[str, Any], beside: Mapping[str, Any]) -> dict[str, Any]:
    unknown = [key for key in settings if key not in project.settings]
    if unknown:
        raise UsageError(f"{unknown[0]!r} is no setting of {project.name}; they are {', '.join(project.settings)}")
    return {**{key: beside[key] for key in project.settings if key in beside}, **settings}


def _architecture(
    project: Project, weights: Mapping[str, Tensor], given: Mapping[str, Any], where: str
) -> tuple[Architecture, list[str]]:
    """Sizes off the tensors, the rest as given. Raises as `load_foreign`."""
    said = project.said(given)
    read = {**project.sizes(weights, said, where), **project.differs(weights, said)}
    lacking = [project.called(key) for key in project.needed if key not in {**said, **read}]
    if lacking:
        raise UsageError(
            f"{where}: no tensor of this file of {project.name} says {' and '.join(lacking)}; give it in the settings"
        )
    settled, notes = project.settled(said, read)
    for key, value in settled.items():
        if key in read and read[key] != value:
            raise UsageError(f"{where}: {project.called(key)} was given as {value!r}; its tensors say {read[key]!r}")
    asked = {key: value for key, value in settled.items() if key in Architecture.model_fields}
    try:
        return Architecture(**{**asked, **read}), notes
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise DataError(f"{where}: {'.'.join(map(str, problem['loc']))} of its network: {problem['msg']}") from None


def _notes(config: Architecture, unused: list[str]) -> list[str]:
    notes = []
    if config.causal and config.sees_future:
        notes.append(
            f"It is said to be causal and is not: it has {' and '.join(config.sees_future)}. It cannot separate a stream."
        )
    if config.padding in ("zeros", "short"):
        lost = "silent" if config.padding == "zeros" else "missing"
        notes.append(
            f"As in its own code, up to {config.hop - 1} samples at the end are {lost}; with padding: cut, they are separated."
        )
    if unused:
        notes.append(
            f"{len(unused)} tensors of the file have no part in what its own code computes: {some(unused, 3)}."
        )
    return notes
