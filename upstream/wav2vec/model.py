"""wav2vec (https://arxiv.org/abs/1904.05862) and vq-wav2vec (https://arxiv.org/abs/1910.05453): convolutions on the waveform, a quantizer on their frames
or none, and causal convolutions on what it gives."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional

from headwater.config import Section, Share
from headwater.nn.convolution import (
    Activation,
    ConvLayer,
    TimeNorm,
    Window,
    ready,
)
from headwater.nn.quantizers import GumbelQuantizer, KmeansQuantizer, Quantized
from headwater.pretrained.layers import Layers, dims_of, windows_of

ACTIVATIONS: dict[str, Activation] = {"relu": functional.relu, "gelu": functional.gelu}
FEATURES = "[(512, 10, 5), (512, 8, 4), (512, 4, 2), (512, 4, 2), (512, 4, 2), (512, 1, 1), (512, 1, 1), (512, 1, 1)]"
AGGREGATOR = "[" + ", ".join(f"(512, {kernel}, 1)" for kernel in range(2, 14)) + "]"


class Settings(Section):
    """fairseq's names and defaults."""

    conv_feature_layers: Layers = Field(FEATURES, description="(channels, kernel, stride) of each")
    conv_aggregator_layers: Layers = Field(AGGREGATOR, description="the same; strides are 1")
    activation: Literal["relu", "gelu"] = "relu"
    dropout: Share = Field(0.0, description="of predictions")
    dropout_features: Share = 0.0
    dropout_agg: Share = 0.0
    no_conv_bias: bool = Field(False, description="no biases in the aggregator")
    agg_zero_pad: bool = Field(False, description="zeros before the first frame, not its repetition")
    skip_connections_feat: bool = False
    skip_connections_agg: bool = False
    residual_scale: float = Field(0.5, gt=0)
    log_compression: bool = False
    non_affine_group_norm: bool = False
    prediction_steps: int = Field(12, ge=1, le=1000)
    aggregator: Literal["cnn"] = "cnn"
    project_features: Literal["none"] = "none"
    vq_type: Literal["none", "gumbel", "kmeans"] = "none"
    vq_vars: int = Field(320, ge=1)
    vq_groups: int = Field(2, ge=1)
    vq_dim: int = Field(0, ge=0, description="dims of a codeword, all groups together; 0: as many as features have")
    vq_depth: int = Field(1, ge=1, le=100)
    vq_temp: tuple[float, float, float] = Field(
        (2.0, 0.5, 0.999995), description="of the Gumbel softmax: first, last, factor"
    )
    combine_groups: bool = Field(False, description="one codebook for all groups")

    @field_validator("vq_temp", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        """Command lines of 2019 had them as text."""
        return value.strip("()[] ").split(",") if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        if any(window.stride != 1 for window in windows_of(self.conv_aggregator_layers)):
            raise ValueError("conv_aggregator_layers: strides are 1")
        dim = dims_of(self.conv_feature_layers)[-1]
        if self.vq_type != "none" and (dim % self.vq_groups or self.code_dim % self.vq_groups):
            raise ValueError(
                f"vq_groups {self.vq_groups} do not divide the {dim} dims of features, or the {self.code_dim} of codewords"
            )
        if self.vq_type == "kmeans" and self.code_dim != dim:
            raise ValueError("vq_dim of k-means is that of features: 0")
        return self

    @property
    def code_dim(self) -> int:
        """Dims of what the aggregator sees."""
        dim = dims_of(self.conv_feature_layers)[-1]
        return dim if self.vq_type == "none" else self.vq_dim or dim


class CausalLayer(nn.Module):
    """The first frame repeated (or zeros) before the beginning, convolution, dropout, norm, activation, and the input added to it."""

    def __init__(self, in_dim: int, dim: int, kernel: int, settings: Settings) -> None:
        super().__init__()
        self.left, self.mode = kernel - 1, "constant" if settings.agg_zero_pad else "replicate"
        self.layer = ConvLayer(
            in_dim,
            dim,
            Window(kernel),
            bias=not settings.no_conv_bias,
            norm=TimeNorm(1, dim, affine=not settings.non_affine_group_norm),
            activation=ACTIVATIONS[settings.activation],
            dropout=settings.dropout_agg,
        )
        self.skip, self.scale = settings.skip_connections_agg, math.sqrt(settings.residual_scale)
        self.residual = nn.Conv1d(in_dim, dim, 1, bias=False) if self.skip and in_dim != dim else None

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, C, T) -> (B, C', T)."""
        before = functional.pad(x, (self.left, 0), self.mode)
        y, _ = self.layer(before, None if lengths is None else lengths + self.left)
        if not self.skip:
            return y
        return (y + (x if self.residual is None else self.residual(x))) * self.scale


class Encoded(NamedTuple):
    """z (B, C, T), whatever beyond its lengths; frames (B,); the same, or None where nothing is padded."""

    z: Tensor
    frames: Tensor
    padded: Tensor | None


class Wav2vecNet(nn.Module):
    """Features z, codewords where there is a quantizer, context c, and what c foretells."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.windows, self.log_compression = windows_of(settings.conv_feature_layers), settings.log_compression
        self.skip, self.scale = settings.skip_connections_feat, math.sqrt(settings.residual_scale)
        activation = ACTIVATIONS[settings.activation]
        dims = [1, *dims_of(settings.conv_feature_layers)]
        self.features = nn.ModuleList(
            ConvLayer(
                in_dim,
                dim,
                window,
                bias=False,
                norm=TimeNorm(1, dim, affine=not settings.non_affine_group_norm),
                activation=activation,
                dropout=settings.dropout_features,
            )
            for in_dim, dim, window in zip(dims, dims[1:], self.windows)
        )
        self.quantizer = _quantizer(settings)
        dims = [settings.code_dim, *dims_of(settings.conv_aggregator_layers)]
        self.aggregator = nn.ModuleList(
            CausalLayer(in_dim, dim, window.kernel, settings)
            for in_dim, dim, window in zip(dims, dims[1:], windows_of(settings.conv_aggregator_layers))
        )
        self.steps = nn.ConvTranspose2d(dims[-1], settings.code_dim, (1, settings.prediction_steps))
        self.dropout = nn.Dropout(settings.dropout)

    def encode(self, samples: Tensor, lengths: Tensor) -> Encoded:
        """Waveforms (B, T, 1), (B,) -> features."""
        x, frames, padded = ready(samples, lengths, self.windows)
        for layer in self.features:
            y, shorter = layer(x, padded)
            if self.skip and y.shape[1] == x.shape[1]:
                y = (y + self._thinned(x, y.shape[2], padded, shorter)) * self.scale
            x, padded = y, shorter
        if self.log_compression:
            x = (x.abs() + 1).log()
        return Encoded(x, frames, padded)

    @staticmethod
    def _thinned(x: Tensor, size: int, before: Tensor | None, after: Tensor | None) -> Tensor:
        """Every n-th frame, n being the whole ratio of the lengths before and after: of each utterance its own."""
        if before is None or after is None:
            return x[:, :, :: x.shape[2] // size][:, :, :size]
        steps = torch.div(before, after, rounding_mode="floor")
        index = (torch.arange(size, device=x.device)[None] * steps[:, None]).clamp(max=x.shape[2] - 1)
        return x.gather(2, index[:, None].expand(-1, x.shape[1], -1))

    def quantize(self, encoded: Encoded) -> Quantized:
        """Codewords and codes of every frame."""
        assert self.quantizer is not None
        return self.quantizer(encoded.z.transpose(1, 2), encoded.padded)

    def aggregate(self, x: Tensor, padded: Tensor | None) -> list[Tensor]:
        """z or codewords (B, C, T) -> the output of every layer, (B, C', T); the last is c."""
        states = []
        for layer in self.aggregator:
            x = layer(x, padded)
            states.append(x)
        return states

    def predict(self, c: Tensor) -> Tensor:
        """c (B, C, T) -> (B, C', T, steps): what it says of the frames to come, z or codewords, one step after another."""
        return self.dropout(self.steps(c[..., None]))


def _quantizer(settings: Settings) -> nn.Module | None:
    chosen: dict[str, Any] = {
        "entries": settings.vq_vars,
        "groups": settings.vq_groups,
        "shared": settings.combine_groups,
    }
    dim = dims_of(settings.conv_feature_layers)[-1]
    if settings.vq_type == "gumbel":
        return GumbelQuantizer(
            dim,
            settings.code_dim,
            depth=settings.vq_depth,
            activation=ACTIVATIONS[settings.activation],
            temperature=settings.vq_temp[0],
            **chosen,
        )
    return KmeansQuantizer(dim, **chosen) if settings.vq_type == "kmeans" else None
