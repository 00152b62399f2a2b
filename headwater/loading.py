"""From a name to a ready upstream."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headwater.config import merge, read_yaml
from headwater.errors import UsageError, place_of
from headwater.nn.upstream import ForeignUpstream, Upstream, refuse_ckpt
from headwater.registry import Card, upstreams


def load_upstream(
    name: str, *, ckpt: str | None = None, config: Mapping[str, Any] | str | Path | None = None, device: str = "cpu"
) -> Upstream:
    """See `headwater.load`."""
    card = upstreams[name]
    settings = read_yaml(config) if isinstance(config, (str, Path)) else dict(config or {})
    expert = card.load()
    if isinstance(expert, type) and issubclass(expert, Upstream):
        model = expert.from_card(card, ckpt, settings)
    elif isinstance(expert, type) and issubclass(expert, nn.Module):
        model = _foreign(expert, card, ckpt, settings)
    else:
        raise UsageError(f"upstream {name!r}: {card.expert} is neither a headwater Upstream nor an nn.Module")
    model.card, model.name = card, card.name
    model.padding_invariant = model.padding_invariant and card.padding_invariant
    try:
        return model.eval().to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from None


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
