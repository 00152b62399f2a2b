"""Contrastive predictive coding, modified (https://arxiv.org/abs/2002.02848): convolutions on the waveform, and a recurrent net on what they make of it."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from headwater.config import Section
from headwater.nn.convolution import ChannelNorm, ConvLayer, Window, frame_counts, ready
from headwater.nn.recurrent import pack, unpack

WINDOWS = (Window(10, 5, 3), Window(8, 4, 2), Window(4, 2, 1), Window(4, 2, 1), Window(4, 2, 1))
RECURRENT = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}


class Settings(Section):
    """CPC_audio's names."""

    hiddenEncoder: int = Field(256, ge=2, le=10**6)
    hiddenGar: int = Field(256, ge=1, le=10**6)
    nLevelsGRU: int = Field(1, ge=1, le=1000)
    arMode: Literal["LSTM", "GRU", "RNN"] = "LSTM"
    normMode: Literal["layerNorm", "ID"] = "layerNorm"
    cpc_mode: Literal["reverse"] | None = Field(None, description="reverse: the recurrent net goes from the end")


class ContrastiveNet(nn.Module):
    """z of the convolutions, c of the recurrent net on them."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        dim, self.reverse = settings.hiddenEncoder, settings.cpc_mode == "reverse"
        self.encoder = nn.ModuleList(
            ConvLayer(
                dim if number else 1,
                dim,
                window,
                bias=True,
                norm=ChannelNorm(dim, unbiased=True) if settings.normMode == "layerNorm" else None,
                activation=functional.relu,
            )
            for number, window in enumerate(WINDOWS)
        )
        kind = RECURRENT[settings.arMode]
        self.context = kind(dim, settings.hiddenGar, num_layers=settings.nLevelsGRU, batch_first=True)

    def encode(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, 1), (B,) -> z (B, T', hiddenEncoder), whatever beyond its lengths; (B,)."""
        x, frames, padded = ready(samples, lengths, WINDOWS)
        for layer in self.encoder:
            x, padded = layer(x, padded)
        return x.transpose(1, 2), frames

    def contextual(self, z: Tensor, lengths: Tensor, carried: object = None) -> tuple[Tensor, object]:
        """z (B, T, hiddenEncoder), (B,) -> c (B, T, hiddenGar), zero beyond the lengths, and the last state, which goes in as `carried` to go on from it."""
        if self.reverse:
            z = _turned(z, lengths)
        packed, last = self.context(pack(z, lengths), carried)
        c = unpack(packed, z.shape[1])
        return (_turned(c, lengths) if self.reverse else c), last


def frames(samples: Tensor) -> Tensor:
    """(B,) samples -> (B,) frames."""
    return frame_counts(samples, WINDOWS)


def _turned(x: Tensor, lengths: Tensor) -> Tensor:
    """(B, T, D) with the valid frames of every row in opposite order."""
    time = torch.arange(x.shape[1], device=x.device)[None]
    index = torch.where(time < lengths[:, None], lengths[:, None] - 1 - time, time)
    return x.gather(1, index[:, :, None].expand_as(x))
