"""DistilHuBERT (https://arxiv.org/abs/2110.01900): two layers of HuBERT, and heads that foretell what its deeper layers say."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from headwater.config import Share
from headwater.nn.convolution import ChannelNorm, ConvLayer, TimeNorm, ready
from headwater.pretrained.encoder import ConvTransformerSettings
from headwater.pretrained.layers import Layers, dims_of, windows_of

LAYERS = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2"


class Settings(ConvTransformerSettings):
    """S3PRL's names (its `distiller` group), with the values of the published model."""

    extractor_mode: Literal["default", "layer_norm"] = Field(
        "default", description="default: the first convolution alone is normalised, over time"
    )
    extractor_conv_feature_layers: Layers = Field(LAYERS, description="(channels, kernel, stride) of each")
    extractor_dropout: Share = 0.0
    encoder_layers: int = Field(2, ge=1, le=1000)
    layer_norm_first: Literal[False] = False
    activation_dropout: Share = 0.1
    final_dim: int = Field(768, ge=1, le=10**6)
    pred_layer_id: list[int] = Field([4, 8, 12], min_length=1, description="the teacher's layers, one head each")


class Heads(nn.Module):
    """A hidden layer shared by all heads, and a linear map for each."""

    def __init__(self, dim: int, heads: int, out_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, heads * dim)
        self.weight = nn.Parameter(torch.empty(heads, dim, out_dim).uniform_(-(dim**-0.5), dim**-0.5))
        self.bias = nn.Parameter(torch.zeros(heads, out_dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, heads, T, out_dim)."""
        inner = functional.gelu(self.hidden(x)).unflatten(-1, (len(self.weight), -1))
        return torch.einsum("bthd,hde->bhte", inner, self.weight) + self.bias[:, None]


class Distilled(nn.Module):
    """Convolutions on the waveform, a projection, the encoder, the heads."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.windows, dim = windows_of(settings.extractor_conv_feature_layers), settings.encoder_embed_dim
        dims = [1, *dims_of(settings.extractor_conv_feature_layers)]
        self.extractor = nn.ModuleList(
            ConvLayer(
                in_dim,
                width,
                window,
                bias=False,
                norm=_norm(settings, number, width),
                activation=functional.gelu,
                dropout=settings.extractor_dropout,
            )
            for number, (in_dim, width, window) in enumerate(zip(dims, dims[1:], self.windows))
        )
        for layer in self.extractor:
            nn.init.kaiming_normal_(layer.conv.weight)  # type: ignore[union-attr, arg-type]
        self.projection = nn.Linear(dims[-1], dim)
        self.encoder = settings.build()
        self.heads = Heads(dim, len(settings.pred_layer_id), settings.final_dim)

    def forward(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """Waveforms (B, T, 1), (B,) -> the projection (B, T', dim), whatever beyond its lengths; every layer's output, zero there; (B,)."""
        x, frames, padded = ready(samples, lengths, self.windows)
        for layer in self.extractor:
            x, padded = layer(x, padded)
        projected = self.projection(x.transpose(1, 2))
        return projected, self.encoder(projected, frames)[1:], frames

    def predict(self, hidden: Tensor) -> Tensor:
        """The last layer's output (B, T, dim) -> what it says of the teacher's layers (B, heads, T, final_dim)."""
        return self.heads(hidden)


def _norm(settings: Settings, number: int, dim: int) -> nn.Module | None:
    if settings.extractor_mode == "layer_norm":
        return ChannelNorm(dim)
    return None if number else TimeNorm(dim, dim)
