"""Checkpoints of fairseq, and what S3PRL's converter makes of them, without fairseq and omegaconf.

| form | has | settings at |
|---|---|---|
| fairseq to 2020 | model, args | args, one flat namespace for model and task |
| fairseq to March 2021 | model, cfg | cfg.model and cfg.task, of omegaconf's classes |
| fairseq since | model, cfg | the same, plain dicts |
| S3PRL | model_weight | model_cfg, task_cfg |
| WavLM, UniSpeech-SAT | model, cfg | cfg, one flat dict |
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater.errors import DataError, UsageError
from headwater.pickles import StandIn, read_pickle

_FAIRSEQ = (
    "data.dictionary.Dictionary",
    "meters.AverageMeter",
    "meters.TimeMeter",
    "meters.StopwatchMeter",
    "dataclass.constants.Choices",
    *(
        f"tasks.{name}"
        for name in ("audio_pretraining.AudioPretrainingConfig", "hubert_pretraining.HubertPretrainingConfig")
    ),
    *(f"tasks.audio_finetuning.{name}Config" for name in ("AudioFinetuning",)),
    *(
        f"models.wav2vec.{name}Config"
        for name in ("wav2vec.Wav2Vec", "wav2vec2.Wav2Vec2", "wav2vec2_asr.Wav2Vec2Ctc", "wav2vec2_asr.Wav2Vec2Asr")
    ),
    *(f"models.hubert.{name}Config" for name in ("hubert.Hubert", "hubert_asr.HubertCtc", "hubert_asr.HubertAsr")),
    *(
        f"dataclass.configs.{name}Config"
        for name in (
            "Fairseq",
            "Common",
            "CommonEval",
            "DistributedTraining",
            "Dataset",
            "Optimization",
            "Checkpoint",
            "Generation",
            "EvalLM",
            "Interactive",
        )
    ),
)
_OMEGACONF = (
    "dictconfig.DictConfig",
    "listconfig.ListConfig",
    "base.ContainerMetadata",
    "base.Metadata",
    *(f"nodes.{kind}Node" for kind in ("Any", "String", "Integer", "Float", "Boolean", "Enum", "Value")),
)
# Besides tensors and plain containers, files may hold objects of these classes; they are read as attributes without behaviour.
STAND_INS = {f"fairseq.{name}" for name in _FAIRSEQ} | {f"omegaconf.{name}" for name in _OMEGACONF} | {"typing.Any"}
_MOST = 20_000  # settings in a file
MOST_LAYERS = 64


@dataclass(frozen=True)
class Checkpoint:
    """What a file says: settings of the model and its task as plain values, and weights by name; nested ones (`_ema`) under dotted names."""

    model: dict[str, Any]
    task: dict[str, Any]
    weights: dict[str, Any]


def read_fairseq(path: str | Path) -> Checkpoint:
    """A checkpoint of one of the forms above.

    Raises:
        DataError: missing, broken, or of another form. Nothing in it was run.
    """
    file = read_pickle(path, STAND_INS)
    if not isinstance(file, dict):
        raise DataError(f"{path} holds {type(file).__name__}, not a checkpoint of fairseq or S3PRL")
    held = file.get("model_weight", file.get("model"))
    if not isinstance(held, Mapping):
        raise DataError(
            f"{path} is no checkpoint of fairseq or S3PRL: it needs `model` with `args` or `cfg`, or `model_weight` with `model_cfg`, "
            f"and holds {', '.join(map(str, list(file)[:8])) or 'nothing'}"
        )
    model, task = _settings(file, path)
    return Checkpoint(model, task, _flat(held))


def _settings(file: Mapping[str, Any], path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    if "model_weight" in file:
        groups = plain(file.get("model_cfg"), path), plain(file.get("task_cfg"), path)
    else:
        cfg, args = plain(file.get("cfg"), path), plain(file.get("args"), path)
        nested = isinstance(cfg, dict) and isinstance(cfg.get("model"), dict)
        flat = cfg if isinstance(cfg, dict) else args
        groups = (cfg["model"], cfg.get("task")) if nested else (flat, flat)
    model, task = (group if isinstance(group, dict) else {} for group in groups)
    inner = model.get("w2v_args")  # of a fine-tuned model: what its encoder was pretrained with
    if isinstance(inner, dict):
        nested = isinstance(inner.get("model"), dict)
        task = {**(inner.get("task") or {} if nested else inner), **{k: v for k, v in task.items() if k == "normalize"}}
        model = {**(inner["model"] if nested else inner), "fine_tuned": model.get("_name") or model.get("arch")}
    return model, task


def plain(value: Any, path: str | Path) -> Any:
    """omegaconf's containers, namespaces and configuration classes as dicts, lists and values; what is none of these is left out (None)."""
    left = _MOST

    def read(value: Any, depth: int = 0) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > 32:
            raise DataError(f"{path}: its settings are nested too deeply")
        if isinstance(value, StandIn):
            fields = vars(value)
            # Never into `_parent`, which leads back.
            if "_content" in fields or "_val" in fields:
                return read(fields.get("_content", fields.get("_val")), depth + 1)
            return read(dict(fields), depth + 1) if fields else None
        if isinstance(value, Mapping):
            return {str(key): read(inner, depth + 1) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [read(inner, depth + 1) for inner in value]
        return value if isinstance(value, (str, bool, int, float)) else None

    return read(value)


def _flat(weights: Mapping[Any, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in weights.items():
        flat |= (
            {f"{name}.{inner}": v for inner, v in value.items()} if isinstance(value, Mapping) else {str(name): value}
        )
    return flat


def conv_layers(said: Any) -> list[tuple[int, int, int]]:
    """(channels, kernel, stride) of each convolution, from a list or from fairseq's Python expression, `[(512, 10, 5)] + [(512, 3, 2)] * 4`.

    Raises:
        UsageError: it is anything else than lists and tuples of whole numbers, with + and *. Nothing in it is ever run.
    """
    try:
        parse = isinstance(said, str) and len(said) <= 10_000
        found = _expression(ast.parse(said.strip(), mode="eval").body) if parse else said
        if not all(type(number) is int for layer in found for number in layer):
            raise ValueError
        layers = [(dim, kernel, stride) for dim, kernel, stride in found]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        layers = []
    if not 1 <= len(layers) <= MOST_LAYERS or min(min(layer) for layer in layers) < 1:
        raise UsageError(
            f"{str(said)[:80]!r} is no list of (channels, kernel, stride) of 1 to {MOST_LAYERS} layers, such as [(512, 10, 5)] + [(512, 3, 2)] * 4"
        )
    return layers


def _expression(node: ast.expr) -> Any:
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_expression(inner) for inner in node.elts]
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mult)):
        left, right = _expression(node.left), _expression(node.right)
        if isinstance(node.op, ast.Add) and isinstance(left, list) and isinstance(right, list):
            return left + right
        repeats = isinstance(node.op, ast.Mult) and isinstance(left, list) and isinstance(right, int)
        if repeats and len(left) * right <= MOST_LAYERS:
            return left * right
    raise ValueError("neither a list, a tuple, a number, a sum nor a product")
