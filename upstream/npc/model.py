"""Non-autoregressive predictive coding (https://arxiv.org/abs/2011.00406): each frame is told from those around it, by convolutions that leave it out."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from headwater.config import Share
from headwater.nn.convolution import Activation, FrameBatchNorm, silence_beyond, where_padded
from headwater.pretrained.features import FeatureSettings
from headwater.pretrained.predictive import PredictiveNetwork
from headwater.pretrained.quantizer import QuantizerSettings

ACTIVATIONS: dict[str, Activation] = {"relu": functional.relu, "gelu": functional.gelu, "tanh": torch.tanh}


class Settings(FeatureSettings):
    """S3PRL's `model.paras`, and the front-end."""

    n_blocks: int = Field(4, ge=1, le=1000)
    hidden_size: int = Field(512, ge=1, le=10**6)
    kernel_size: int = Field(15, ge=1, le=10**4)
    mask_size: int = Field(5, ge=1, description="frames around the one to be told that the first block may not see")
    dropout: Share = 0.1
    residual: bool = True
    batch_norm: bool = True
    activate: Literal["relu", "gelu", "tanh"] = "relu"
    disable_cross_layer: bool = Field(False, description="the last masked convolution alone, not the sum of all")
    vq: QuantizerSettings | None = None
    dim_bottleneck: int | None = Field(None, ge=1, description="a linear bottleneck in the place of a quantizer")

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        if self.kernel_size % 2 == 0 or self.mask_size % 2 == 0:
            raise ValueError("kernel_size and mask_size must be odd")
        if self.hidden_taps(self.n_blocks - 1) >= self.kernel_size:
            raise ValueError(f"kernel_size {self.kernel_size} is no wider than what the last block may not see")
        if self.vq is not None and self.dim_bottleneck is not None:
            raise ValueError("vq or dim_bottleneck, not both")
        if self.vq is not None:
            self.vq.fits(self.hidden_size)
        return self

    def hidden_taps(self, block: int) -> int:
        """Taps that are zero in the masked convolution on block `block`, which sees one frame more to each side than the one before it."""
        return self.mask_size + 2 * (block + 1)


class Block(nn.Module):
    """conv, norm, activation, 1x1 conv, norm, dropout, (+ input), activation."""

    def __init__(self, settings: Settings, in_dim: int, *, residual: bool) -> None:
        super().__init__()
        hidden, self.residual = settings.hidden_size, residual
        self.conv = nn.Conv1d(in_dim, hidden, 3, padding=1)
        self.linear = nn.Conv1d(hidden, hidden, 1)
        self.norm1 = FrameBatchNorm(hidden) if settings.batch_norm else None
        self.norm2 = FrameBatchNorm(hidden) if settings.batch_norm else None
        self.dropout = nn.Dropout(settings.dropout)
        self.activation = ACTIVATIONS[settings.activate]

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        h = self.conv(x)
        h = self.activation(h if self.norm1 is None else self.norm1(h, lengths))
        h = self.linear(h)
        h = self.dropout(h if self.norm2 is None else self.norm2(h, lengths))
        return silence_beyond(self.activation(h + x if self.residual else h), lengths)


class MaskedConvolution(nn.Module):
    """A convolution whose middle taps are zero, and tanh."""

    mask: Tensor

    def __init__(self, dim: int, kernel: int, hidden_taps: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2)
        mask = torch.ones(kernel)
        mask[(kernel - hidden_taps) // 2 : (kernel + hidden_taps) // 2] = 0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        return torch.tanh(functional.conv1d(x, conv.weight * self.mask, conv.bias, padding=conv.padding))


class MaskedConvolutions(PredictiveNetwork):
    """Blocks, a masked convolution on each, and a linear map from their sum, or from what a quantizer makes of it, to the frame left out."""

    def __init__(self, settings: Settings, in_dim: int) -> None:
        super().__init__()
        hidden, self.cross = settings.hidden_size, not settings.disable_cross_layer
        self.blocks = nn.ModuleList(
            Block(settings, hidden if number else in_dim, residual=settings.residual and number > 0)
            for number in range(settings.n_blocks)
        )
        self.masked = nn.ModuleList(
            MaskedConvolution(hidden, settings.kernel_size, settings.hidden_taps(number))
            for number in range(settings.n_blocks)
        )
        self.quantizer = None if settings.vq is None else settings.vq.build()
        width = settings.dim_bottleneck
        self.bottleneck = None if width is None else nn.Linear(hidden, width, bias=False)
        self.postnet = nn.Linear(width or hidden, in_dim)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """(B, T, in_dim), (B,) -> block, masked convolution, block, ..., and what the prediction is made of; (B, T, dim), zero beyond the lengths."""
        h = x.transpose(1, 2)
        padded = where_padded(h, lengths)
        h = silence_beyond(h, padded)
        states: list[Tensor] = []
        for block, masked in zip(self.blocks, self.masked, strict=True):
            h = block(h, padded)
            states += [h, silence_beyond(masked(h), padded)]
        total = torch.stack(states[1::2]).sum(0) if self.cross else states[-1]
        last = total.transpose(1, 2)
        if self.bottleneck is not None:
            last = self.bottleneck(last)
        return *(state.transpose(1, 2) for state in states), last
