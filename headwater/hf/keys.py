"""Names of tensors: fairseq's and those of older transformers, as transformers has them today; every tensor of a file is used, or named as left out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headwater.errors import DataError
from headwater.weights import fitting, some

# The last tensor name of the first convolution: what stands before it is where an encoder lies in a larger model.
_ANCHOR = "feature_extractor.conv_layers.0.0.weight"
_CONV = r"feature_extractor\.conv_layers\.(\d+)"
_POSITION = r"encoder\.pos_conv"
_LAYER = r"encoder\.layers\.(\d+)"
_ATTENTION = rf"{_LAYER}\.self_attn"

# fairseq's names -> transformers', as regular expressions of whole names.
_TABLE = {
    r"mask_emb": "masked_spec_embed",
    rf"{_CONV}\.0\.(weight|bias)": r"feature_extractor.conv_layers.\1.conv.\2",
    rf"{_CONV}\.2(?:\.1)?\.(weight|bias)": r"feature_extractor.conv_layers.\1.layer_norm.\2",
    r"layer_norm\.(weight|bias)": r"feature_projection.layer_norm.\1",
    r"post_extract_proj\.(weight|bias)": r"feature_projection.projection.\1",
    rf"{_POSITION}\.0\.bias": "encoder.pos_conv_embed.conv.bias",
    rf"{_POSITION}\.0\.(?:weight_g|parametrizations\.weight\.original0)": "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    rf"{_POSITION}\.0\.(?:weight_v|parametrizations\.weight\.original1)": "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
    rf"{_POSITION}\.(\d+)\.0\.(weight|bias)": r"encoder.pos_conv_embed.layers.\1.conv.\2",
    r"encoder\.layer_norm\.(weight|bias)": r"encoder.layer_norm.\1",
    rf"{_ATTENTION}\.([qkv]|out)_proj\.(weight|bias)": r"encoder.layers.\1.attention.\2_proj.\3",
    rf"{_ATTENTION}\.grep_a": r"encoder.layers.\1.attention.gru_rel_pos_const",
    rf"{_ATTENTION}\.grep_linear\.(weight|bias)": r"encoder.layers.\1.attention.gru_rel_pos_linear.\2",
    rf"{_ATTENTION}\.relative_attention_bias\.weight": r"encoder.layers.\1.attention.rel_attn_embed.weight",
    rf"{_LAYER}\.self_attn_layer_norm\.(weight|bias)": r"encoder.layers.\1.layer_norm.\2",
    rf"{_LAYER}\.fc1\.(weight|bias)": r"encoder.layers.\1.feed_forward.intermediate_dense.\2",
    rf"{_LAYER}\.fc2\.(weight|bias)": r"encoder.layers.\1.feed_forward.output_dense.\2",
    rf"{_LAYER}\.final_layer_norm\.(weight|bias)": r"encoder.layers.\1.final_layer_norm.\2",
}
# The conformer's layers, in the place of the same names above.
_CONFORMER = {
    rf"{_ATTENTION}\.(linear_(?:q|k|v|out)\.(?:weight|bias)|linear_pos\.weight|pos_bias_[uv])": r"encoder.layers.\1.self_attn.\2",
    rf"{_ATTENTION}\.rotary_emb\.inv_freq": "encoder.embed_positions.inv_freq",
    rf"{_LAYER}\.self_attn_layer_norm\.(weight|bias)": r"encoder.layers.\1.self_attn_layer_norm.\2",
    rf"{_LAYER}\.conv_module\.(.+)": r"encoder.layers.\1.conv_module.\2",
    rf"{_LAYER}\.(ffn[12])\.w_1\.(weight|bias)": r"encoder.layers.\1.\2.intermediate_dense.\3",
    rf"{_LAYER}\.(ffn[12])\.w_2\.(weight|bias)": r"encoder.layers.\1.\2.output_dense.\3",
    rf"{_LAYER}\.(ffn[12])\.layer_norm\.(weight|bias)": r"encoder.layers.\1.\2_layer_norm.\3",
}
# What only pretraining, recognition or a teacher needs, under fairseq's names.
_HEADS = re.compile(r"(quantizer|project_q|final_proj|label_embs_concat|_ema|proj|target_glu|decoder|mask_emb)(\..*|$)")


class Renamed(NamedTuple):
    """Tensors under transformers' names, and the names of those that the encoder has no use for."""

    weights: dict[str, Any]
    unused: tuple[str, ...]


def encoder_of(weights: Mapping[str, Any], path: str) -> tuple[dict[str, Any], list[str]]:
    """The tensors of the one encoder in a fairseq file, without what stands before their names, and the names of all others."""
    prefixes = [name.removesuffix(_ANCHOR) for name in weights if name.endswith(_ANCHOR)]
    if len(prefixes) != 1:
        raise DataError(
            f"{path}: {len(prefixes) or 'no'} convolutional encoders in it ({_ANCHOR}), and one is needed; it holds {some(list(weights))}"
        )
    (prefix,) = prefixes
    inside = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    return inside, [name for name in weights if not name.startswith(prefix)]


def from_fairseq(weights: Mapping[str, Any], conformer: bool, path: str) -> Renamed:
    """fairseq's names -> transformers'. `DataError` for a name that no such model has, and for two that mean the same."""
    table = {re.compile(old): new for old, new in {**_TABLE, **(_CONFORMER if conformer else {})}.items()}
    renamed: dict[str, Any] = {}
    unused: list[str] = []
    strange: list[str] = []
    for name, value in weights.items():
        match = next(((found, new) for old, new in table.items() if (found := old.fullmatch(name))), None)
        if match is None:
            (unused if _HEADS.match(name) else strange).append(name)
            continue
        ours = match[0].expand(match[1])
        # Every layer of a rotary conformer keeps a copy of the same frequencies.
        if ours in renamed and not (isinstance(value, Tensor) and torch.equal(value, renamed[ours])):
            raise DataError(f"{path}: {name} is there twice, with different values")
        renamed[ours] = value
    if strange:
        raise DataError(f"{path} holds tensors that no model of this family has: {some(strange)}")
    return Renamed(renamed, tuple(unused))


def from_transformers(weights: Mapping[str, Any], prefixes: Sequence[str]) -> Renamed:
    """Without the prefix of a model with heads, and with today's names of a weight norm; what lies beside the encoder is unused."""
    prefix = next((prefix for prefix in prefixes if any(name.startswith(prefix) for name in weights)), "")
    renamed, unused = {}, []
    for name, value in weights.items():
        if not name.startswith(prefix):
            unused.append(name)
            continue
        ours = name.removeprefix(prefix)
        for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
            ours = re.sub(rf"\bconv\.{old}$", f"conv.parametrizations.weight.{new}", ours)
        renamed[ours] = value
    return Renamed(renamed, tuple(unused))


def fit(renamed: Renamed, shapes: Mapping[str, Tensor], path: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of a model with this state (`shapes`), float32, and the names of all others that the file has.

    Raises DataError for one that is missing, has another shape, or is no plain tensor.
    """
    found = dict(renamed.weights)
    # What only pretraining has a use for, and files of fine-tuned models may lack; a conformer never uses its positional convolution.
    optional = {"masked_spec_embed"}
    if any(".conv_module." in name for name in shapes):
        optional |= {name for name in shapes if name.startswith("encoder.pos_conv_embed.")}
    missing = sorted(set(shapes) - set(found) - optional)
    more = [name for name in found if name not in shapes]
    parts = {name.split(".")[0] for name in shapes}
    strange = [name for name in more if name.split(".")[0] in parts]
    if missing or strange:
        said = [f"lacks {some(missing)}"] * bool(missing) + [f"has {some(strange)}, which does not belong"] * bool(
            strange
        )
        raise DataError(f"{path}: by its settings, it {' and '.join(said)}")
    fitted = {}
    for name, expected in shapes.items():
        if name in found and expected.is_floating_point():
            fitted[name] = fitting(found[name], expected.shape, f"{path}: {name}")
        else:  # besides those above, the counter of a batch norm
            fitted[name] = torch.zeros(expected.shape, dtype=expected.dtype)
    return fitted, (*renamed.unused, *more)
