"""One weight file into another form: ours into S3PRL's, and back."""

from __future__ import annotations

from pathlib import Path

import torch

from headwater.errors import DataError, UsageError
from headwater.mam import s3prl
from headwater.mam.model import MaskedAcousticModel, read_weights
from headwater.mam.settings import Settings
from headwater.mam.weights import OURS, write_model
from headwater.registry import upstreams
from headwater.results.files import write_bytes
from headwater.weights import is_safetensors, read_header, read_safetensors, to_bytes

FORMS = (".ckpt", ".safetensors")


def export(source: Path, target: Path, *, upstream: str | None = None, half: bool = False, force: bool = False) -> str:
    """Write the weights of a pretraining run or a weight file, head included, as the suffix of `target` says; a sentence on what came of it.

    `half` writes float16, in half the bytes; what is computed with them is float32 as ever.

    Raises:
        UsageError: another suffix, a target that is there already, a name that is not the file's, or a model that the other form cannot hold.
        DataError: the source is missing, broken, or of something else.
    """
    path = source / "model.safetensors" if source.is_dir() else source
    if target.suffix not in FORMS:
        raise UsageError(f"--to {target}: it must end in .ckpt (S3PRL's file) or .safetensors (ours)")
    if target.exists() and not force:
        raise UsageError(f"{target} is there already; --force overwrites it")
    if half and target.suffix == ".safetensors" and _of_others(path):
        return halve(path, target)
    weights = read_weights(path)
    ours = weights.generation == OURS
    if half and target.suffix == ".ckpt":
        raise UsageError("--half: S3PRL's checkpoints are float32; write a .safetensors file")
    if ours and target.suffix == ".safetensors" and not half:
        raise UsageError(f"{path} is a file of headwater already; copy it, or write it in float16 with --half")
    facts = read_header(path) if ours else {}
    said = facts.get("upstream")
    if said is not None and not isinstance(said, str):
        raise DataError(f"{path}: its header names no upstream, but {said!r}")
    if said is not None and upstream not in (None, said):
        raise UsageError(f"-u {upstream}: {path} says that it is of {said}; leave -u out")
    card = upstreams[upstream or said or family(weights.settings)]
    if not issubclass(card.load(), MaskedAcousticModel):
        raise UsageError(
            f"{card.name} is no model of Mockingjay's family (mockingjay, tera, audio_albert), and {path} holds one"
        )
    name = card.name
    if target.suffix == ".ckpt":
        s3prl.write(target, weights.settings, weights.transformer, weights.head)
        return f"{target}: a checkpoint of S3PRL's, for its upstream {card.folder.name}_local (-k {target})"
    dtype = torch.float16 if half else torch.float32
    write_model(target, name, weights.settings, weights.transformer, weights.head, facts=facts, dtype=dtype)
    origin = str(path) if ours else f"a checkpoint of S3PRL ({weights.generation})"
    return f"{target}: {name}, from {origin}; -u ckpt:{target} loads it"


def _of_others(path: Path) -> bool:
    """Whether it is a file of ours, of an upstream of another family."""
    said = read_header(path).get("upstream") if is_safetensors(path) else None
    return isinstance(said, str) and not issubclass(upstreams[said].load(), MaskedAcousticModel)


def halve(source: Path, target: Path) -> str:
    """A file of ours in float16, whatever upstream it is of; a sentence on what came of it. `DataError` where it is broken."""
    header, tensors = read_header(source), read_safetensors(source)
    halves = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
    large = [name for name, value in halves.items() if not bool(torch.isfinite(value).all())]
    if large:
        raise DataError(f"{source}: {large[0]} holds numbers that float16 cannot hold")
    write_bytes(target, to_bytes(halves, header))
    return f"{target}: {header['upstream']}, from {source}; -u ckpt:{target} loads it"


def family(settings: Settings) -> str:
    """Which of the three a model is by what sets them apart: shared layers, and what is altered besides time."""
    if settings.transformer.share_layer:
        return "audio_albert"
    return "tera" if settings.task.mask_frequency or settings.task.noise_proportion else "mockingjay"
