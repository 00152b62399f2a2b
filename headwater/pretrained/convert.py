"""A file of others as one of ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from headwater.errors import DataError, UsageError
from headwater.pretrained.upstream import Pretrained
from headwater.registry import Card, upstreams
from headwater.weights import left_out, write_parts


def own_card(source: Path, upstream: str | None = None) -> Card | None:
    """The card by which a model of ours can be loaded from `source`: that of this name, else the first whose class reads the file. None where there is none."""
    for card in _cards() if upstream is None else [upstreams[upstream]]:
        expert = card.load()
        if not issubclass(expert, Pretrained):
            continue
        if upstream is not None:
            return card
        try:
            held = expert.read(source)
        except DataError:
            continue
        return upstreams[expert.family(held.settings) or card.name]
    return None


def convert(source: Path, target: Path, card: Card, *, force: bool = False) -> str:
    """Write the weights in `source` as `target`/model.safetensors; a sentence on what came of it.

    Raises:
        UsageError: the target is there already.
        DataError: the source is missing, broken, or not of this family.
    """
    if target.exists() and not (force and target.is_dir()):
        raise UsageError(f"{target} is there already; --force overwrites a directory")
    held = card.load().read(source)
    target.mkdir(parents=True, exist_ok=True)
    write_parts(target / "model.safetensors", card.name, held.settings.model_dump(mode="json"), {"network": held.state})
    count = sum(value.numel() for value in held.state.values())
    return f"{target}: {card.name}, {count} numbers; -u ckpt:{target} loads it\n{left_out(held.unused)}"


def _cards() -> Iterator[Card]:
    """One card for each class, of those that come with Headwater."""
    seen = set()
    for card in upstreams:
        if card.plugin is None and (card.folder, card.expert) not in seen:
            seen.add((card.folder, card.expert))
            yield card
