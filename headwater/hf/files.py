"""Weights of speech encoders from every kind of place: checkpoints of fairseq and S3PRL, directories of transformers, and our own files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headwater.errors import DataError, UsageError
from headwater.fairseq import Checkpoint, read_fairseq, tuned_countermeasure
from headwater.hf.architectures import architecture_of, build, config_of, kind_of
from headwater.hf.keys import Renamed, encoder_of, fit, from_fairseq, from_transformers
from headwater.hf.settings import EncoderSettings
from headwater.pickles import read_pickle
from headwater.results.files import write_bytes, write_json
from headwater.settings import truth, validate
from headwater.weights import blaming, is_safetensors, read_header, read_safetensors

CONFIG, PREPROCESSOR, PROCESSOR = "config.json", "preprocessor_config.json", "processor_config.json"
# layer_norm's in fairseq, and the feature extractor's in transformers.
FAIRSEQ_EPS, TRANSFORMERS_EPS = 1e-5, 1e-7


@dataclass(frozen=True)
class Encoder:
    """Settings, weights under transformers' names, and the names of tensors in the file that an encoder has no use for."""

    settings: EncoderSettings
    weights: dict[str, Tensor]
    unused: tuple[str, ...] = field(default=())


def read_encoder(path: str | Path, normalize: float | None = None, named: str | None = None) -> Encoder:
    """The encoder in a file or directory.

    Args:
        normalize: see `EncoderSettings`; for directories that do not say it.
        named: the model type that the user named; for files that do not say theirs.

    Raises:
        DataError: missing, broken, of something else, or with weights that do not fit its settings. Nothing in it was run.
    """
    path = Path(path)
    if path.is_dir():
        return _directory(path, normalize)
    if normalize is not None:
        raise UsageError(
            f"upstream.config.normalize: {path} says by itself whether waveforms are normalised; leave it out"
        )
    return _ours(path, named) if is_safetensors(path) else _fairseq(read_fairseq(path, named), path)


def _fairseq(file: Checkpoint, path: Path) -> Encoder:
    inside, outside = encoder_of(file.weights, str(path))
    with blaming(path):
        normalize = truth({**file.model, **file.task}, "normalize")
        try:
            architecture = architecture_of(file, inside)
        except (ValueError, TypeError) as error:
            raise UsageError(str(error)) from None
        settings = validate(
            EncoderSettings, {"architecture": architecture, "normalize": FAIRSEQ_EPS if normalize else None}
        )
    renamed = from_fairseq(inside, architecture["model_type"] == "wav2vec2-conformer", str(path))
    return _fitted(settings, Renamed(renamed.weights, (*outside, *renamed.unused)), path)


def _ours(path: Path, named: str | None = None) -> Encoder:
    said = read_header(path).get("config")
    if not isinstance(said, dict):
        tuned = tuned_countermeasure(read_safetensors(path), path, named)
        if tuned is not None:
            return _fairseq(tuned, path)
        raise DataError(
            f"{path}: a safetensors file, but none of headwater's with settings in its header; give the directory that it lies in"
        )
    with blaming(path):
        settings = validate(EncoderSettings, said)
    return _fitted(settings, Renamed(dict(read_safetensors(path)), ()), path)


def _directory(path: Path, normalize: float | None) -> Encoder:
    ours = path / "model.safetensors"
    if ours.is_file() and read_header(ours).get("config"):
        return _ours(ours)
    architecture = _json(path / CONFIG)
    front, extractor = _extractor(path)
    with blaming(path):
        kind = kind_of(architecture)
    said: dict[str, Any] = {"architecture": architecture}
    if architecture["model_type"] in (
        "whisper",
        "wav2vec2-bert",
    ):  # their spectra are always normalised, in their own way
        if normalize is not None:
            raise UsageError(
                f"upstream.config.normalize is for encoders on waveforms, and {path} is none; leave it out"
            )
    elif extractor is not None:
        with blaming(front):
            wanted = truth(extractor, "do_normalize", missing=True)  # as transformers has it
        if normalize is not None and bool(normalize) != wanted:
            raise UsageError(f"upstream.config.normalize is {normalize:g}, and {front} says otherwise; leave it out")
        said |= {
            "sample_rate": extractor.get("sampling_rate", 16000),
            "normalize": TRANSFORMERS_EPS if wanted else None,
        }
    elif normalize is None:
        raise DataError(
            f"{front} is missing: it says whether waveforms are normalised; get it, or say upstream.config.normalize={TRANSFORMERS_EPS} (yes) or 0 (no)"
        )
    else:
        said |= {"normalize": normalize or None}
    with blaming(path):
        settings = validate(EncoderSettings, said)
    return _fitted(settings, from_transformers(_shards(path), kind.prefixes), path)


def _extractor(path: Path) -> tuple[Path, dict[str, Any] | None]:
    """What a directory says of its waveforms, and the file that says it; None where none does. Processors of transformers 5 keep it in a file of theirs."""
    front, processor = (path / name for name in (PREPROCESSOR, PROCESSOR))
    if front.is_file() or not processor.is_file():
        return front, _json(front) if front.is_file() else None
    inside = _json(processor).get("feature_extractor")
    return (processor, inside) if isinstance(inside, dict) else (front, None)


def _shards(path: Path) -> dict[str, Any]:
    """The tensors of a directory, from one file or several."""
    for name, read in (("model.safetensors", read_safetensors), ("pytorch_model.bin", read_pickle)):
        index = path / f"{name}.index.json"
        files = [path / name] if (path / name).is_file() else []
        if not files and index.is_file():
            listed = set(map(str, (_json(index).get("weight_map") or {}).values()))
            if any(Path(part).name != part for part in listed):
                raise DataError(f"{index} names files outside its directory")
            files = [path / part for part in sorted(listed)]
        if files:
            tensors: dict[str, Any] = {}
            for file in files:
                held = read(file)
                if not isinstance(held, dict):
                    raise DataError(f"{file}: no mapping from names to tensors")
                tensors |= {str(key): value for key, value in held.items()}
            return tensors
    raise DataError(f"{path}: no model.safetensors or pytorch_model.bin in it")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; a directory of transformers has {CONFIG}, {PREPROCESSOR} and model.safetensors"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a JSON object")
    return content


def _fitted(settings: EncoderSettings, renamed: Renamed, path: Path) -> Encoder:
    with blaming(path):
        shapes = empty(settings).state_dict()
    weights, unused = fit(renamed, shapes, str(path))
    return Encoder(settings, weights, unused)


def empty(settings: EncoderSettings) -> nn.Module:
    """The model without memory for its weights."""
    config = config_of(settings.architecture)
    with torch.device("meta"):
        return build(config)


def filled(encoder: Encoder) -> nn.Module:
    """The model with its weights, which are not copied."""
    model = empty(encoder.settings)
    model.load_state_dict(encoder.weights, assign=True)
    for name, module in list(model.named_modules()):
        # Tables that no file holds.
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            model.set_submodule(name, type(module)(model.config))
    return model


def write_directory(folder: Path, upstream: str, settings: EncoderSettings, weights: Mapping[str, Tensor]) -> None:
    """A directory of an encoder on waveforms that transformers loads, and whose model.safetensors is a weight file of ours: its header says what it is of."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    header = json.dumps(
        {"upstream": upstream, "config": settings.model_dump(mode="json")}, ensure_ascii=False, allow_nan=False
    )
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    write_bytes(folder / "model.safetensors", save(tensors, metadata={"format": "pt", "headwater": header}))
    config = config_of(settings.architecture)
    said = {key: value for key, value in config.to_dict().items() if not key.startswith("_")}
    write_json(folder / CONFIG, said | {"architectures": [kind_of(settings.architecture).model]})
    extractor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": settings.sample_rate,
        "padding_value": 0.0,
        "padding_side": "right",
        "do_normalize": settings.normalize is not None,
        "return_attention_mask": said.get("feat_extract_norm") != "group",
    }
    write_json(folder / PREPROCESSOR, extractor)
