"""From a name to a ready upstream."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from headwater.download import fetch, file_sha256, is_address, weights_at
from headwater.errors import DataError, UsageError, place_of
from headwater.nn.upstream import ForeignUpstream, Upstream, refuse_ckpt
from headwater.registry import Card, upstreams
from headwater.settings import merge, read_yaml
from headwater.weights import read_header

CKPT = "ckpt:"  # before a path: the upstream that this weight file names


def load_upstream(
    name: str,
    *,
    ckpt: str | None = None,
    config: Mapping[str, Any] | str | Path | None = None,
    device: str = "cpu",
    refresh: bool = False,
) -> Upstream:
    """See `headwater.load`; `refresh` downloads again what is downloaded."""
    settings = read_yaml(config) if isinstance(config, (str, Path)) else dict(config or {})
    random = settings.get("random_weights") is not None
    found = find(name, ckpt, random=random, refresh=refresh)
    card, file = found.card, found.file
    expert = card.load()
    if isinstance(expert, type) and issubclass(expert, Upstream):
        model = expert.from_card(card, file, settings)
    elif isinstance(expert, type) and issubclass(expert, nn.Module):
        model = _foreign(expert, card, file, settings)
    else:
        raise UsageError(f"upstream {name!r}: {card.expert} is neither a headwater Upstream nor an nn.Module")
    model.card, model.name = card, card.name
    if file is not None and Path(file).is_file() and not random:
        model.weight_file = {"name": Path(file).name, "url": found.url, "sha256": file_sha256(Path(file))}
    model.padding_invariant = model.padding_invariant and card.padding_invariant
    try:
        return model.eval().to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from None


class Found(NamedTuple):
    """What a name means: the card, its weight file if any, and the address that this came from."""

    card: Card
    file: str | None = None
    url: str | None = None


def find(name: str, ckpt: str | None = None, *, random: bool = False, refresh: bool = False) -> Found:
    """The card and the weights that a name means: the user's (`ckpt:PATH`, -k), which go first, else the card's. What has an address is fetched.

    Without the card's own weights (the user's, or `random` ones) the card is called after what takes their place, so that no result is taken for that of the
    official model.
    """
    if name == CKPT:
        raise UsageError(f"-u {CKPT} needs a path behind it: a run of pretraining, or a weight file")
    place = ckpt or (name.removeprefix(CKPT) if name.startswith(CKPT) else None)
    if place is None:
        found = _official(upstreams[name], random, refresh)
    else:
        url = place if is_address(place) else None
        path = fetch(weights_at(place), refresh=refresh) if url else Path(place).expanduser()
        if name.startswith(CKPT):
            path = path / "model.safetensors" if path.is_dir() else path
            card = _renamed(upstreams[_upstream_in(path)], f"{CKPT}{_label(path)}")
        else:
            card = upstreams[name]
            card = _renamed(card, f"{card.name}:{_label(path)}") if card.weights or card.needs_ckpt else card
        found = Found(card, str(path), url)
    return found._replace(card=_renamed(found.card, f"{found.card.name}:random")) if random else found


def _renamed(card: Card, name: str) -> Card:
    return card.model_copy(update={"name": name})


def _official(card: Card, random: bool, refresh: bool) -> Found:
    """A card with its own weights, where any are wanted."""
    if card.needs_ckpt and not random:
        raise UsageError(f"upstream {card.name!r} needs a weight file: -k FILE, or -k URL")
    if card.weights is None:
        return Found(card)
    # A random twin of a bundled model has its architecture, which the file says; that of an official one is on the card.
    if random and not card.weights.bundled:
        return Found(card)
    if card.weights.bundled:
        path = card.folder / card.weights.bundled
        if not path.is_file():
            raise DataError(f"upstream {card.name!r}: {path}, which its card names, is missing")
        return Found(card, str(path))
    try:
        return Found(card, str(fetch(card.weights, refresh=refresh)), card.weights.url)
    except DataError as error:
        small = f"\nThe small model -u {card.demo} needs no download." if card.demo else ""
        raise DataError(f"upstream {card.name!r}: {error}{small}") from None


def _upstream_in(path: Path) -> str:
    """The name of the upstream that a weight file is of, from its header."""
    advice = f"give the upstream and the file, such as -u tera -k {path}"
    try:
        named = read_header(path).get("upstream")
    except DataError as error:
        if not path.is_file():
            raise
        raise UsageError(
            f"-u {CKPT}{path}: {error}; S3PRL's checkpoints do not say what they are of: {advice}"
        ) from None
    if not isinstance(named, str):
        raise UsageError(f"-u {CKPT}{path}: the file does not say what it is of, as those of pretraining do: {advice}")
    return named


def _label(path: Path) -> str:
    """What a user's weight file is called in results: by its run's folder, or its own name."""
    return path.resolve().parent.name if path.name in ("model.safetensors", "upstream.safetensors") else path.stem


def _foreign(expert: type[nn.Module], card: Card, ckpt: str | None, settings: Mapping[str, Any]) -> Upstream:
    """Wrap a plain module. Its front-end is a registered upstream without layers of its own, named by `frontend` in the settings, card or class."""
    arguments = merge(card.config, settings)
    if ckpt is not None and "ckpt" in inspect.signature(expert).parameters:
        arguments["ckpt"] = ckpt
    else:
        refuse_ckpt(card.name, ckpt)
    frontend = arguments.pop("frontend", getattr(expert, "frontend", None))
    if not isinstance(frontend, str):
        raise UsageError(
            f'upstream {card.name!r} is a plain nn.Module and names no front-end: set `frontend = "fbank"` in the class, '
            "`frontend: fbank` in its card or -g file, "
            "or -o upstream.config.frontend=fbank (any of `headwater ls upstreams` that has no layers of its own)"
        )
    try:
        module = expert(**arguments)
    except Exception as error:
        raise UsageError(
            f"upstream {card.name!r}: {card.expert}({', '.join(arguments)}) failed: {type(error).__name__}: {error} ({place_of(error)})"
        ) from None
    return ForeignUpstream(module, _frontend(frontend, card.name))


def _frontend(name: str, owner: str) -> Any:
    """The front-end of a registered upstream that is nothing but one: the layers of another would be left out in silence."""
    expert = upstreams[name].load()
    if not (
        isinstance(expert, type) and issubclass(expert, Upstream) and expert.hidden_states is Upstream.hidden_states
    ):
        raise UsageError(
            f"upstream {owner!r} names {name!r} as its front-end, which has layers of its own; "
            "name one that has none, such as fbank (`headwater ls upstreams`)"
        )
    return load_upstream(name).frontend
