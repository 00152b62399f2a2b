"""Small masked acoustic models for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headwater.mam.model import MaskedAcousticModel
from headwater.mam.settings import Settings, build_head, build_transformer, input_dim_of
from headwater.settings import merge

SMALL: dict[str, Any] = {
    "transformer": {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40},
    "task": {"sequence_length": 20},
    "audio": {"target_level": -25, "n_mels": 16, "input": {"feat_type": "mel", "log": True, "cmvn": True}},
}
KINDS: dict[str, dict[str, Any]] = {
    "post_norm": {},
    "pre_norm": {"transformer": {"pre_layer_norm": True}},
    "pre_norm_v01": {"transformer": {"pre_layer_norm": True, "first_norm": False}},
    "shared": {"transformer": {"share_layer": True}},
    "stacked": {"transformer": {"downsample_rate": 3}},
    "convolved": {"transformer": {"pre_layer_norm": True, "num_conv_pos_embeddings": 5}},
}


def small(kind: str = "post_norm", **groups: dict[str, Any]) -> Settings:
    return Settings.model_validate(merge(SMALL, KINDS[kind], groups))


def model(kind: str = "post_norm", seed: int = 0, **groups: dict[str, Any]) -> MaskedAcousticModel:
    """In eval mode, with weights large enough that attention is not flat."""
    settings = small(kind, **merge({"transformer": {"initializer_range": 0.2}}, groups))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MaskedAcousticModel(settings).eval()


def states_of(settings: Settings, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Random weights of the encoder, and of a head to its own input."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        dim = input_dim_of(settings)
        parts = build_transformer(settings, dim).state_dict(), build_head(settings, dim).state_dict()
        return tuple({name: torch.randn_like(value) for name, value in part.items()} for part in parts)  # type: ignore[return-value]


def same(one: dict[str, Tensor] | None, two: dict[str, Tensor] | None) -> bool:
    """The same names in the same order, and the same bits."""
    if one is None or two is None:
        return one is two
    return list(one) == list(two) and all(torch.equal(one[name], two[name]) for name in one)
