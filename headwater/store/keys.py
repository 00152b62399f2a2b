"""What frozen features are a function of: the bank that they belong to, and the key of each utterance in it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import Any

import torch

from headwater.config import FeatureSet
from headwater.identity import fingerprint
from headwater.nn.upstream import Upstream
from headwater.results.bundle import source_sha256
from headwater.store.sources import is_library, sources_sha256
from headwater.weights import state_sha256

SCHEMA = 1
# Settings of upstreams that say where something lies or how it is computed, not what comes out.
NEUTRAL_SETTINGS = ("cache_dir", "num_threads")
# What computes, decodes and resamples.
LIBRARIES = ("torch", "numpy", "soundfile", "soxr")


@dataclass(frozen=True)
class Bank:
    """Everything but the audio that decides features. Two upstreams that differ in any of it share nothing."""

    about: Mapping[str, Any]

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits."""
        return fingerprint(dict(self.about))[:32]

    @property
    def dtype(self) -> torch.dtype:
        return torch.float16 if self.about["dtype"] == "float16" else torch.float32

    @property
    def layer_dims(self) -> list[int]:
        return list(self.about["layer_dims"])


def bank_of(
    upstream: Upstream,
    config: Mapping[str, Any],
    features: FeatureSet | None,
    *,
    extract_dtype: str,
    dtype: str,
    device_type: str,
    state: str | None = None,
) -> Bank | None:
    """The bank of an upstream with the user's settings. None where it cannot be known (a class without source): then nothing may be kept.

    state: `state_sha256(upstream)`, where it is known already.
    """
    sources = _sources(upstream)
    card = upstream.card
    if sources is None or card is None:
        return None
    try:
        plugin = source_sha256(card.folder) if card.plugin is not None else None
    except OSError:
        return None
    return Bank(
        {
            "schema": SCHEMA,
            "upstream": card.name,
            "card": card.config,
            "settings": {key: value for key, value in config.items() if key not in NEUTRAL_SETTINGS},
            "facts": upstream.facts(),
            "state_sha256": state or state_sha256(upstream),
            "weights_sha256": (upstream.weight_file or {}).get("sha256"),
            "features": features.model_dump() if features is not None else None,
            "sample_rate": upstream.sample_rate,
            "stride": upstream.stride,
            "offset": upstream.offset,
            "layer_names": list(upstream.layer_names),
            "layer_dims": list(upstream.layer_dims),
            "padding_invariant": upstream.padding_invariant,
            "sources": sources,
            "plugin": plugin,
            "libraries": _libraries(upstream),
            "device": device_type,
            "matmul": torch.get_float32_matmul_precision(),
            "extract_dtype": extract_dtype,
            "dtype": dtype,
        }
    )


def _classes(upstream: Upstream) -> set[type]:
    """The classes that take part in the computation: of the upstream, its front-end, and every module in them."""
    parts: list[Any] = [*upstream.modules(), upstream.frontend]
    if isinstance(upstream.frontend, torch.nn.Module):
        parts += upstream.frontend.modules()
    return {base for part in parts for base in type(part).__mro__ if base is not object}


def _sources(upstream: Upstream) -> str | None:
    modules = {kind.__module__ for kind in _classes(upstream)}
    own = {name for name in modules if not is_library(name)}
    # A class of a cell or a prompt has a module, and no file.
    return sources_sha256({*own, "headwater.store.compute", "headwater.audio.io"})


def _libraries(upstream: Upstream) -> dict[str, str]:
    """Versions of what is installed and takes part."""
    roots = {kind.__module__.partition(".")[0] for kind in _classes(upstream) if is_library(kind.__module__)}
    held = {name: getattr(sys.modules.get(name), "__version__", None) for name in roots}
    named = {name: metadata.version(name) for name in LIBRARIES}
    return {name: str(version) for name, version in sorted({**held, **named}.items()) if version is not None}
