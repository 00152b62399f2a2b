"""Checkpoints of fairseq, and what S3PRL's converter makes of them, without fairseq and omegaconf.

| form | has | settings at |
|---|---|---|
| fairseq to 2020 | model, args | args, one flat namespace for model and task |
| fairseq to March 2021 | model, cfg | cfg.model and cfg.task, of omegaconf's classes |
| fairseq since | model, cfg | the same, plain dicts |
| S3PRL | model_weight | model_cfg, task_cfg |
| WavLM, UniSpeech-SAT | model, cfg | cfg, one flat dict |
| a countermeasure of NII's project 07 | a state dict, or one under state_dict | nowhere: seen from names and shapes |
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

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
# Where the countermeasures of https://arxiv.org/abs/2111.07725 keep the model that was fine-tuned with them: LLGF, and LGF and GF.
TUNED = ("ssl_model.", "m_ssl.")
# What no shape tells, of the five models that they begin with: strides by kernels, attention heads by dims.
_STRIDES = {(10, 3, 3, 3, 3, 2, 2): (5, 2, 2, 2, 2, 2, 2)}
_ATTENTION_HEADS = {768: 12, 1024: 16, 1280: 16}


@dataclass(frozen=True)
class Checkpoint:
    """What a file says: settings of the model and its task as plain values, and weights by name; nested ones (`_ema`) under dotted names."""

    model: dict[str, Any]
    task: dict[str, Any]
    weights: dict[str, Any]


def read_fairseq(path: str | Path, named: str | None = None) -> Checkpoint:
    """A checkpoint of one of the forms above.

    Args:
        named: the model type that the user named, see `tuned_countermeasure`.

    Raises:
        DataError: missing, broken, or of another form. Nothing in it was run.
    """
    file = read_pickle(path, STAND_INS)
    tuned = tuned_countermeasure(file, path, named)
    if tuned is not None:
        return tuned
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


def state_dict_in(content: Any) -> Any:
    """What a checkpoint holds under `state_dict`, else the content itself."""
    inside = content.get("state_dict") if isinstance(content, Mapping) else None
    return inside if isinstance(inside, Mapping) else content


def tuned_countermeasure(content: Any, path: str | Path, named: str | None = None) -> Checkpoint | None:
    """The model that was fine-tuned inside a countermeasure (`TUNED`), with the back-end's tensors beside it; None where the content is no such state dict.

    named: "hubert" or not; it counts where nothing of the pretraining is left in the file that would tell HuBERT from wav2vec 2.0.

    Raises DataError where strides or attention heads, which are in no file of this form, are not those of the published models.
    """
    state = state_dict_in(content)
    found = [part for part in TUNED if isinstance(state, Mapping) and any(str(name).startswith(part) for name in state)]
    if not found:
        return None
    prefix = f"{found[0]}model."
    weights = {str(name): value for name, value in state.items()}
    inside = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    # These countermeasures hear the waveform as it is, whatever their model was pretrained on.
    return Checkpoint(_seen(inside, f"{path}: {prefix}", named), {"normalize": False}, weights)


def _seen(weights: Mapping[str, Any], where: str, named: str | None) -> dict[str, Any]:
    """The settings of a wav2vec 2.0 or HuBERT that its names and shapes leave open."""
    held = (weights.get(f"feature_extractor.conv_layers.{layer}.0.weight") for layer in range(MOST_LAYERS))
    convs = [value.shape for value in held if isinstance(value, Tensor) and value.dim() == 3]
    kernels = tuple(shape[2] for shape in convs)
    if kernels not in _STRIDES:
        raise DataError(
            f"{where}feature_extractor has convolutions with kernels of {list(kernels)}; a state dict does not say their strides, "
            f"which are known for {' and for '.join(str(list(known)) for known in _STRIDES)}"
        )
    norm = weights.get("encoder.layer_norm.weight")
    dims = len(norm) if isinstance(norm, Tensor) and norm.dim() else 0
    if dims not in _ATTENTION_HEADS:
        known = ", ".join(f"{heads} for {size} dims" for size, heads in _ATTENTION_HEADS.items())
        raise DataError(
            f"{where}encoder has {dims or 'no'} dims (layer_norm.weight); a state dict does not say its attention heads, which are known to be {known}"
        )
    if "encoder.layers.0.self_attn.grep_a" in weights:
        raise DataError(
            f"{where}encoder is a WavLM (self_attn.grep_a); a state dict does not say how far its relative positions reach"
        )
    quantized = any(name.startswith(("quantizer.", "project_q.")) for name in weights)
    clustered = any(name.startswith(("label_embs_concat", "final_proj.")) for name in weights)
    hubert = not quantized and (clustered or named == "hubert")
    return {
        "_name": "hubert" if hubert else "wav2vec2",
        "conv_feature_layers": [
            (shape[0], shape[2], stride) for shape, stride in zip(convs, _STRIDES[kernels], strict=True)
        ],
        "encoder_attention_heads": _ATTENTION_HEADS[dims],
        # A layer norm at each convolution goes with pre-norm layers in all of these models.
        "layer_norm_first": "feature_extractor.conv_layers.0.2.1.weight" in weights,
    }


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
