"""The weights of a masked acoustic model, and our own file of them: safetensors, with the settings in its header."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headwater.mam.settings import Settings, build_head, build_transformer, input_dim_of
from headwater.settings import validate
from headwater.weights import blaming, fitting_state, read_parts, shapes_of, write_parts

OURS = "headwater"  # a generation of files


class Weights(NamedTuple):
    """What a weight file holds.

    generation: which layout the file has. settings: in full. transformer, head: float32 state dicts for `build_transformer` and `build_head`; a file need not
    have the pretraining head.
    """

    generation: str
    settings: Settings
    transformer: dict[str, Tensor]
    head: dict[str, Tensor] | None


def read_model(path: str | Path) -> Weights:
    """A file of `write_model`.

    Raises:
        DataError: missing, broken, of something else, or with weights that do not fit its settings.
    """
    facts, parts = read_parts(path, ("transformer", "head"))
    with blaming(path):
        settings = validate(Settings, facts["config"])
        transformer = fitting_state(parts["transformer"], transformer_shapes(settings), f"{path}, transformer")
        head = None
        if parts["head"]:
            shapes = head_shapes(settings, parts["head"].get("output.bias"))
            head = fitting_state(parts["head"], shapes, f"{path}, head")
        return Weights(OURS, settings, transformer, head)


def write_model(
    path: str | Path,
    upstream: str,
    settings: Settings,
    transformer: Mapping[str, Tensor],
    head: Mapping[str, Tensor] | None = None,
    *,
    facts: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """One safetensors file: tensors `transformer.*` and `head.*`, and in the header JSON with `upstream` (the name it is loaded by), `config` and `facts`."""
    parts = {"transformer": transformer, "head": head or {}}
    write_parts(path, upstream, settings.model_dump(mode="json"), parts, facts=facts, dtype=dtype)


def transformer_shapes(settings: Settings) -> dict[str, torch.Size]:
    """The tensors of `build_transformer`. `UsageError` for settings that describe none."""
    dim = input_dim_of(settings)
    with torch.device("meta"):
        return shapes_of(build_transformer(settings, dim))


def head_shapes(settings: Settings, bias: Any) -> dict[str, torch.Size]:
    """The tensors of `build_head`, where its answer is as wide as this output bias."""
    width = bias.numel() if isinstance(bias, Tensor) else 0
    with torch.device("meta"):
        return shapes_of(build_head(settings, max(1, width // settings.transformer.downsample_rate)))
