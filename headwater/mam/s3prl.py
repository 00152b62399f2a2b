"""S3PRL's weight files of every generation, read and written.

| generation | has | settings at |
|---|---|---|
| v0.0 (before 2020-04) | Mockingjay, Settings | Settings.Config.mockingjay |
| v0.1 (2020) | Transformer, Settings | Settings.Config.transformer, .online |
| 2021 | Transformer, Config | Config |
| HEAD (since 2021-09) | Transformer, Upstream_Config | Upstream_Config |
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from headwater.config import Section
from headwater.errors import DataError, UsageError
from headwater.mam.settings import Settings, TaskSettings, TransformerSettings
from headwater.mam.weights import Weights, head_shapes, transformer_shapes
from headwater.pickles import read_pickle
from headwater.results.files import write_bytes
from headwater.settings import validate
from headwater.weights import blaming, fitting, same_names, some

# Besides tensors and settings, files may hold the schedule of their optimiser, and a timer.
STAND_INS = {
    f"{module}.{name}"
    for module in ("optimizers", "transformer.optimization", "mockingjay.optimization")
    for name in (
        "_LRSchedule",
        "ConstantLR",
        "WarmupLinearSchedule",
        "WarmupConstantSchedule",
        "WarmupCosineSchedule",
        "WarmupCosineWithHardRestartsSchedule",
    )
} | {"utility.timer.Timer"}

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
# What the front-ends read, by the key that says which kind it is.
AUDIO = {
    "kaldi": ("kaldi", "delta", "cmvn", "sample_rate"),
    "input": ("target_level", "win_ms", "hop_ms", "n_freq", "n_mels", "n_mfcc", "input", "target", "sample_rate"),
}
OURS_ALONE = {"first_norm", "downsample_rate", "num_conv_pos_embeddings"}  # no settings of S3PRL's present code

INPUT = {"projection": "input_representations.spec_transform", "input_norm": "input_representations.LayerNorm"}
LAYER = {
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "up": ("intermediate.dense",),
    "down": ("output.dense",),
    "output_norm": ("output.LayerNorm",),
}
# With pre_layer_norm, S3PRL has these modules under a second name.
ALIASES = {"attention_norm": ("attention.LayerNorm",), "output_norm": ("LayerNorm",)}
# Our module -> S3PRL's names of it; the weights of several S3PRL modules may be one of ours, joined.
Table = dict[str, list[tuple[str, ...]]]
HEAD: Table = {"dense": [("dense",)], "norm": [("LayerNorm",)], "output": [("output",)]}


def read(path: str | Path) -> Weights:
    """A weight file of S3PRL.

    Raises:
        DataError: missing, broken, no such file at all, or with weights that do not fit its settings. Nothing in it was run.
    """
    file = read_pickle(path, STAND_INS)
    if not isinstance(file, dict):
        raise DataError(f"{path} holds {type(file).__name__}, not a checkpoint of S3PRL's Mockingjay family")
    file = dict(file)
    generation, raw = _layout(file, path)
    state = _state(file["Mockingjay" if generation == "v0.0" else "Transformer"], path)
    head = None if file.get("SpecHead") is None else _state(file["SpecHead"], path)
    projection = state.get(f"{INPUT['projection']}.weight")
    if not isinstance(projection, Tensor) or projection.dim() != 2:
        raise DataError(f"{path}: {INPUT['projection']}.weight is missing, or no matrix")
    with blaming(path):
        settings = _settings(raw, generation, projection.shape[1])
        transformer = _convert(state, _table(settings), transformer_shapes(settings), f"{path}, transformer")
        if head is not None:
            shapes = head_shapes(settings, head.get("output.bias"))
            head = _convert(head, HEAD, shapes, f"{path}, SpecHead")
    return Weights(generation, settings, transformer, head)


def write(
    path: str | Path, settings: Settings, transformer: Mapping[str, Tensor], head: Mapping[str, Tensor] | None = None
) -> None:
    """A file that S3PRL's present code loads (`tera_local`, `mockingjay_local`, `audio_albert_local`), without the state of an optimiser.

    Raises:
        UsageError: the model has what that code cannot do (stacked frames, pruned heads, output norms of v0.1).
    """
    chosen = settings.transformer
    if chosen.downsample_rate > 1 or not chosen.first_norm or chosen.prune_headids or chosen.num_conv_pos_embeddings:
        raise UsageError(
            "S3PRL has no files for a model with downsample_rate above 1, first_norm: false, prune_headids or num_conv_pos_embeddings; "
            "keep it as a file of headwater"
        )
    config: dict[str, Any] = settings.model_dump(mode="json")
    config["transformer"] = {k: v for k, v in config["transformer"].items() if k not in OURS_ALONE and v is not None}
    if not settings.audio:
        del config["audio"]
    elif "input" in settings.audio:
        config["audio"].setdefault("target_level", "None")
    file: dict[str, Any] = {"Step": 0, "Config": {}, "Upstream_Config": config}
    file["Transformer"] = _unconvert(transformer, _table(settings))
    if head is not None:
        file["SpecHead"] = _unconvert(head, HEAD)
    buffer = io.BytesIO()
    torch.save(file, buffer)
    write_bytes(Path(path), buffer.getvalue())


def _state(weights: Any, path: str | Path) -> dict[str, Any]:
    """Weights by name. Very old files have the names that TensorFlow gives to those of a LayerNorm."""
    if not isinstance(weights, dict):
        raise DataError(f"{path}: its weights are no mapping from names to tensors")
    return {
        str(name).replace("gamma", "weight").replace("beta", "bias"): value for name, value in dict(weights).items()
    }


def _layout(file: dict[str, Any], path: str | Path) -> tuple[str, dict[str, Any]]:
    """The generation of a file, and its settings as they lie in it."""
    settings = file.get("Settings")
    old = dict(settings).get("Config") if isinstance(settings, dict) else None
    for generation, weights, held, group in (
        ("v0.0", "Mockingjay", old, "mockingjay"),
        ("v0.1", "Transformer", old, "transformer"),
        ("2021", "Transformer", file.get("Config"), "transformer"),
        ("HEAD", "Transformer", file.get("Upstream_Config"), "transformer"),
    ):
        if weights in file and isinstance(held, dict) and group in held:
            return generation, dict(held)
    raise DataError(
        f"{path} is no checkpoint of S3PRL's Mockingjay family: it needs Transformer and Upstream_Config (or Config, or Settings), "
        f"and holds {some([str(key) for key in file])}"
    )


class _Changed(Section):
    """Settings that have another name or meaning today, or another default."""

    downsample_rate: int = Field(1, ge=1)
    max_input_length: int = 0
    pre_layer_norm: bool = False
    mask_frequency: float = Field(0.0, ge=0)


def _settings(raw: Mapping[str, Any], generation: str, width: int) -> Settings:
    """The settings under today's names. What S3PRL does not read is left out. `UsageError` where they make no sense.

    width: dims of what enters the projection, stacked frames where there are any.
    """
    old = generation in ("v0.0", "v0.1")
    encoder = _group(raw, "mockingjay" if generation == "v0.0" else "transformer")
    lacking = [name for name in SIZES if name not in encoder]
    if lacking:
        raise UsageError(f"transformer lacks {', '.join(lacking)}")
    pretraining = encoder if old else _group(raw, "task")
    audio = _group(raw, "online" if old else "audio")
    settings = {
        "transformer": _known(encoder, TransformerSettings.model_fields),
        "task": {"sequence_length": 0, **_known(pretraining, TaskSettings.model_fields)},
        "audio": _known(audio, AUDIO["kaldi" if "kaldi" in audio else "input"]),
    }
    settings["task"].pop("position_encoding_size", None)
    changed = validate(_Changed, _known({**encoder, **pretraining}, _Changed.model_fields))
    # The widest band was a number of dims; it is a share of them today.
    band = changed.mask_frequency
    settings["task"]["mask_frequency"] = min(1.0, band / width) if old or band > 1 else band
    if old:
        settings["transformer"].setdefault("input_dim", width // changed.downsample_rate)
        settings["transformer"]["first_norm"] = not changed.pre_layer_norm
        settings["task"]["sequence_length"] = changed.max_input_length
        settings["audio"].pop("target_level", None)  # of its pretraining: the model itself did not normalise levels
    return validate(Settings, settings)


def _group(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    group = raw.get(name) or {}
    if not isinstance(group, dict):
        raise UsageError(f"setting {name!r} is a group of settings, not {type(group).__name__}")
    return dict(group)


def _known(group: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The settings of these names that were given, as plain values: old files have numbers, and None, as text."""
    plain = {name: _plain(group[name]) for name in names if name in group}
    return {name: value for name, value in plain.items() if value is not None}


def _plain(value: Any, depth: int = 0) -> Any:
    if depth > 8:
        raise UsageError("its settings are nested too deeply")
    if isinstance(value, dict):
        return {str(key): _plain(inner, depth + 1) for key, inner in dict(value).items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner, depth + 1) for inner in value]
    if isinstance(value, str):
        return None if value in ("None", "") else _number(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise UsageError(f"a setting is of the type {type(value).__name__}, which is none of text, number, list or mapping")


def _number(text: str) -> str | float:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def _table(settings: Settings) -> Table:
    chosen = settings.transformer
    table: Table = {ours: [(theirs,)] for ours, theirs in INPUT.items()}
    for layer in range(chosen.num_hidden_layers):
        for name, parts in LAYER.items():
            places = table.setdefault(f"layers.{0 if chosen.share_layer else layer}.{name}", [])
            for names in (parts, ALIASES.get(name) if chosen.pre_layer_norm else None):
                if names:
                    places.append(tuple(f"encoder.layer.{layer}.{part}" for part in names))
    if chosen.pre_layer_norm:
        first = 0 if chosen.first_norm else 1
        for state in range(first, chosen.num_hidden_layers + 1):
            table[f"state_norms.{state}"] = [(f"encoder.LayerNorm.{state - first}",)]
    return table


def _convert(
    state: Mapping[str, Any], table: Table, shapes: Mapping[str, Sequence[int]], where: str
) -> dict[str, Tensor]:
    """S3PRL's names -> ours. What is there under several names must be equal; one of them is enough."""
    sources: dict[str, list[list[str]]] = {}
    for ours in shapes:
        module, _, kind = ours.rpartition(".")
        places = [[f"{name}.{kind}" for name in names] for names in table[module]]
        sources[ours] = [names for names in places if any(name in state for name in names)] or places[:1]
    same_names(state, {name for places in sources.values() for names in places for name in names}, where)
    converted = {}
    for ours, places in sources.items():
        size, *rest = shapes[ours]
        values = [
            torch.cat([fitting(state[name], (size // len(names), *rest), f"{where}: {name}") for name in names])
            for names in places
        ]
        for names, value in zip(places, values):
            if not torch.equal(value, values[0]):
                raise DataError(f"{where}: {places[0][0]} and {names[0]} are one in this architecture, yet they differ")
        converted[ours] = values[0]
    return converted


def _unconvert(state: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """Our names -> S3PRL's; several names of one module share its tensor."""
    theirs = {}
    for ours, value in state.items():
        module, _, kind = ours.rpartition(".")
        places = table[module]
        parts = [part.clone() for part in value.detach().cpu().chunk(len(places[0]))]
        theirs.update({f"{name}.{kind}": part for names in places for name, part in zip(names, parts)})
    return theirs
