"""From the names that weights have in files of others to ours: tables of patterns, each for whole names, the first that fits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from headwater.weights import is_whole

Rules = Sequence[tuple[str, str]]

# fairseq's encoder -> `headwater.nn.conv_transformer.ConvTransformer` under the name `encoder`.
_LAYER = r"encoder\.layers\.(\d+)\."
ENCODER: Rules = (
    (r"encoder\.pos_conv\.0\.bias", "encoder.positions.bias"),
    (r"encoder\.pos_conv\.0\.(?:weight_g|parametrizations\.weight\.original0)", "encoder.positions.gain"),
    (r"encoder\.pos_conv\.0\.(?:weight_v|parametrizations\.weight\.original1)", "encoder.positions.direction"),
    (r"encoder\.layer_norm\.(.+)", r"encoder.norm.\1"),
    (_LAYER + r"self_attn\.out_proj\.(.+)", r"encoder.layers.\1.attention.output.\2"),
    (_LAYER + r"self_attn\.([qkv])_proj\.(.+)", r"encoder.layers.\1.attention.\2.\3"),
    (_LAYER + r"self_attn_layer_norm\.(.+)", r"encoder.layers.\1.attention_norm.\2"),
    (_LAYER + r"fc1\.(.+)", r"encoder.layers.\1.up.\2"),
    (_LAYER + r"fc2\.(.+)", r"encoder.layers.\1.down.\2"),
    (_LAYER + r"final_layer_norm\.(.+)", r"encoder.layers.\1.output_norm.\2"),
)

# S3PRL's quantizer of VQ-APC and NPC -> `headwater.nn.quantizers.LinearCodebooks` under the name `quantizer`.
QUANTIZER: Rules = (
    (r"vq_layers\.(\d+)\.vq_logits\.(.+)", r"quantizer.logits.\1.\2"),
    (r"vq_layers\.(\d+)\.codebook_CxE\.(.+)", r"quantizer.codebooks.\1.\2"),
)


def renamed(weights: Mapping[str, Any], rules: Rules) -> dict[str, Any]:
    """Weights under our names; what no rule fits keeps its own."""
    state = {}
    for name, value in weights.items():
        fitting = ((pattern, ours) for pattern, ours in rules if re.fullmatch(pattern, name))
        pattern, ours = next(fitting, (None, name))
        state[name if pattern is None else re.sub(pattern, ours, name)] = value
    return _joined(state)


def _joined(state: dict[str, Any]) -> dict[str, Any]:
    """Queries, keys and values are one map here."""
    for name in [name for name in state if ".attention.q." in name]:
        parts = [state.get(name.replace(".attention.q.", f".attention.{part}.")) for part in "qkv"]
        if all(is_whole(part) and part.shape == parts[0].shape for part in parts):  # type: ignore[union-attr]
            state[name.replace(".attention.q.", ".attention.qkv.")] = torch.cat(parts)  # type: ignore[arg-type]
            for part in "qkv":
                del state[name.replace(".attention.q.", f".attention.{part}.")]
    return state
