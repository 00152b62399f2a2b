"""The norms of separation networks. Frames are (B, C, K); `lengths` (B,) are valid frames, or None where all are.

Statistics run over valid frames only; what lies beyond them is whatever it becomes, and never enters anything.
"""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from headwater.nn.convolution import ChannelNorm, FrameBatchNorm, TimeNorm
from headwater.separation.cumulative import CumulativeNorm
from headwater.separation.settings import Norm

Affine = TypeVar("Affine", bound=nn.Module)


def build_norm(kind: Norm, channels: int, *, affine: bool, eps: float) -> nn.Module:
    """A module (x, lengths) -> x."""
    if kind == "gLN":
        return TimeNorm(1, channels, affine=affine, eps=eps)
    if kind == "fgLN":
        return TimeNorm(channels, channels, affine=affine, eps=eps)
    if kind == "cumulative":
        return CumulativeNorm(channels, affine=affine, eps=eps)
    norm = FrameBatchNorm(channels) if kind == "BN" else ChannelNorm(channels, eps=eps)
    return norm if affine else _plain(norm)


def _plain(norm: Affine) -> Affine:
    """A norm whose scale and shift are no parameters."""
    for name in ("weight", "bias"):
        value = getattr(norm, name).detach()
        delattr(norm, name)
        norm.register_buffer(name, value, persistent=False)
    return norm
