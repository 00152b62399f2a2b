"""A checkpoint of anybody's as a directory of safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headwater.errors import UsageError
from headwater.hf.files import read_encoder, write_directory
from headwater.hf.model import SpeechEncoder
from headwater.registry import Card, upstreams
from headwater.weights import left_out


def convert(source: Path, target: Path, *, upstream: str | None = None, force: bool = False) -> str:
    """Write the encoder in `source` into the folder `target`; sentences on what came of it.

    Raises:
        UsageError: the target is there already, or the name is not of this family.
        DataError: the source is missing, broken, or of something else.
    """
    if target.exists() and not force:
        raise UsageError(f"{target} is there already; --force overwrites it")
    if target.is_file():
        raise UsageError(f"{target} is a file; a directory is written")
    if source.is_dir():
        form = "hf" if (source / "config.json").is_file() else "ckpt"
        raise UsageError(f"{source} is a directory already: -u {form}:{source} loads it")
    if upstream is not None and not issubclass(upstreams[upstream].load(), SpeechEncoder):
        raise UsageError(f"-u {upstream} is no speech encoder of transformers")
    encoder = read_encoder(source, named=None if upstream is None else _type(upstreams[upstream]))
    name = upstream or _named(encoder.settings.architecture["model_type"])
    write_directory(target, name, encoder.settings, encoder.weights)
    count = sum(value.numel() for value in encoder.weights.values())
    kind = encoder.settings.architecture["model_type"]
    return f"{target}: {kind}, {count} numbers; -u hf:{target} loads it, and so does transformers\n{left_out(encoder.unused)}"


def _type(card: Card) -> Any:
    """The model type of a card's own architecture, None where it has none."""
    return card.config.get("architecture", {}).get("model_type")


def _named(model_type: str) -> str:
    """The upstream whose own architecture is of this type, the first on the cards; else the one for all of them."""
    for card in upstreams:
        if _type(card) == model_type and card.plugin is None:
            return card.name
    return next(card.name for card in upstreams if card.prefix == "hf:")
