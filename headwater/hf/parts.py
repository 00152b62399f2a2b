"""The parts of an encoder in which an utterance could see the padding of its batch, without that."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from headwater.nn.lengths import mask, zero_beyond


def conv_lengths(lengths: Tensor, kernel: int, stride: int) -> Tensor:
    """Frames of a convolution without padding."""
    return torch.div(lengths - kernel, stride, rounding_mode="floor") + 1


def extractor(layers: nn.ModuleList, wave: Tensor, lengths: Tensor | None) -> Tensor:
    """The strided convolutions, (B, samples) -> (B, T, C). lengths: valid samples, None where all are.

    No convolution here is padded, so valid frames see valid samples alone; only a norm over time needs to know the lengths.
    """
    h = wave[:, None]
    for layer in layers:
        norm, conv = getattr(layer, "layer_norm", None), layer.conv
        assert isinstance(conv, nn.Conv1d)
        if lengths is not None:
            lengths = conv_lengths(lengths, conv.kernel_size[0], conv.stride[0])
        if lengths is not None and isinstance(norm, nn.GroupNorm):
            h = layer.activation(_time_norm(conv(h), lengths, norm))  # type: ignore[operator]
        else:
            h = layer(h)
    return h.transpose(1, 2)


def _time_norm(x: Tensor, lengths: Tensor, norm: nn.GroupNorm) -> Tensor:
    """A group norm with a group for each channel, (B, C, T), over valid frames."""
    valid = mask(lengths, x.shape[-1])[:, None]
    count = lengths[:, None, None]
    wide = x.float().masked_fill(~valid, 0.0)
    mean = wide.sum(-1, keepdim=True) / count
    variance = (wide - mean).masked_fill(~valid, 0.0).square().sum(-1, keepdim=True) / count
    normed = (wide - mean) * torch.rsqrt(variance + norm.eps)
    return (normed * norm.weight[:, None] + norm.bias[:, None]).to(x.dtype)


def positions(module: nn.Module, x: Tensor, lengths: Tensor | None) -> Tensor:
    """The positional convolutions, (B, T, D) -> (B, T, D), of an x that is zero beyond the lengths (None: all frames are valid)."""
    stacked = getattr(module, "layers", None)
    if stacked is None:
        batch_norm = getattr(module, "batch_norm", None)
        if batch_norm is not None:
            x = batch_norm(x.transpose(1, 2)).transpose(1, 2)
        return module.activation(_position_conv(module.conv, _zeroed(x, lengths)))  # type: ignore[arg-type, operator]
    for layer in stacked:
        y = layer.layer_norm(_position_conv(layer.conv, _zeroed(x, lengths)))
        x = layer.activation(y)
    return x


def _zeroed(x: Tensor, lengths: Tensor | None) -> Tensor:
    return x if lengths is None else zero_beyond(x, lengths)


def _position_conv(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """An even kernel gives a frame too many, the last."""
    y = functional.conv1d(x.transpose(1, 2), conv.weight, conv.bias, padding=conv.padding, groups=conv.groups)
    return y[..., : x.shape[1]].transpose(1, 2)


def attend_to(lengths: Tensor | None, size: int) -> Tensor | None:
    """The keys that may be attended to, (B, 1, 1, T) bool; None for all."""
    return None if lengths is None else mask(lengths, size)[:, None, None]


def relative_bias(attention: Any, size: int) -> Tensor:
    """WavLM's bias of each head for each distance, (heads, T, T), which all layers share: entry (q, k) is that of k - q."""
    distances = torch.arange(1 - size, size, device=attention.rel_attn_embed.weight.device)
    values = attention.rel_attn_embed(attention._relative_positions_bucket(distances)).T
    device = values.device.type
    if torch.is_autocast_enabled(device):  # every layer multiplies all of it
        values = values.to(torch.get_autocast_dtype(device))
    return values.unfold(1, size, 1).flip(1)


def gated_attention(attention: Any, x: Tensor, bias: Tensor, keys: Tensor | None) -> Tensor:
    """WavLM's attention, (B, T, D) -> (B, T, D): the bias is weighed by a gate of each query and head (https://arxiv.org/abs/2110.13900, eq. 1)."""
    heads = x.unflatten(-1, (attention.num_heads, -1))
    a, b = attention.gru_rel_pos_linear(heads).unflatten(-1, (2, 4)).sum(-1).sigmoid().unbind(-1)  # (B, T, heads)
    gate = a * (b * attention.gru_rel_pos_const.view(-1) - 1.0) + 2.0
    scores = gate.to(bias.dtype).transpose(1, 2)[..., None] * bias
    if keys is not None:
        scores = scores.masked_fill(~keys, -torch.inf)
    q, k, v = (
        project(x).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    dropout = attention.dropout if attention.training else 0.0
    y = functional.scaled_dot_product_attention(q, k, v, attn_mask=scores.to(q.dtype), dropout_p=dropout)
    return attention.out_proj(y.transpose(1, 2).flatten(2))
