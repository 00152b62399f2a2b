"""DeCoAR 2.0 (https://arxiv.org/abs/2012.06659): an encoder on every second frame of log mel bins."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from headwater.config import Share
from headwater.nn.conv_transformer import ConvTransformer
from headwater.pretrained.features import FeatureSettings


class Settings(FeatureSettings):
    """fairseq's names, with the values of the published model."""

    encoder_layers: int = Field(12, ge=1, le=1000)
    encoder_embed_dim: int = Field(768, ge=1, le=10**6)
    encoder_ffn_embed_dim: int = Field(3072, ge=1, le=10**6)
    encoder_attention_heads: int = Field(12, ge=1)
    activation_fn: Literal["gelu", "relu"] = "gelu"
    conv_pos: int = Field(128, ge=1, le=10**4)
    conv_pos_groups: int = Field(16, ge=1)
    dropout: Share = 0.1
    dropout_input: Share = 0.1
    attention_dropout: Share = 0.1
    activation_dropout: Share = 0.0

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        for key in ("encoder_attention_heads", "conv_pos_groups"):
            if self.encoder_embed_dim % getattr(self, key):
                raise ValueError(f"encoder_embed_dim {self.encoder_embed_dim} is not a multiple of {key}")
        return self


class DecoarNet(nn.Module):
    """A projection, and the encoder."""

    def __init__(self, settings: Settings, in_dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(in_dim, settings.encoder_embed_dim)
        self.dropout = nn.Dropout(settings.dropout_input)
        self.encoder = ConvTransformer(
            settings.encoder_embed_dim,
            settings.encoder_layers,
            settings.encoder_attention_heads,
            settings.encoder_ffn_embed_dim,
            kernel=settings.conv_pos,
            groups=settings.conv_pos_groups,
            activation=settings.activation_fn,
            dropout=settings.dropout,
            attention_dropout=settings.attention_dropout,
            activation_dropout=settings.activation_dropout,
        )

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """(B, T, in_dim), (B,) -> the first layer's input and every layer's output (B, T, dim), zero beyond the lengths."""
        return self.encoder(self.dropout(self.projection(x)), lengths)
