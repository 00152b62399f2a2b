"""The encoder of DistilHuBERT and DeCoAR 2.0, as fairseq's settings say it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from headwater.config import Section, Share
from headwater.nn.conv_transformer import ConvTransformer


class ConvTransformerSettings(Section):
    """fairseq's names, with the values of its base models."""

    encoder_layers: int = Field(12, ge=1, le=1000)
    encoder_embed_dim: int = Field(768, ge=1, le=10**6)
    encoder_ffn_embed_dim: int = Field(3072, ge=1, le=10**6)
    encoder_attention_heads: int = Field(12, ge=1)
    activation_fn: Literal["gelu", "relu"] = "gelu"
    conv_pos: int = Field(128, ge=1, le=10**4)
    conv_pos_groups: int = Field(16, ge=1)
    dropout: Share = 0.1
    attention_dropout: Share = 0.1
    activation_dropout: Share = 0.0

    @model_validator(mode="after")
    def _divides(self) -> ConvTransformerSettings:
        for key in ("encoder_attention_heads", "conv_pos_groups"):
            if self.encoder_embed_dim % getattr(self, key):
                raise ValueError(f"encoder_embed_dim {self.encoder_embed_dim} is not a multiple of {key}")
        return self

    def build(self) -> ConvTransformer:
        return ConvTransformer(
            self.encoder_embed_dim,
            self.encoder_layers,
            self.encoder_attention_heads,
            self.encoder_ffn_embed_dim,
            kernel=self.conv_pos,
            groups=self.conv_pos_groups,
            activation=self.activation_fn,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            activation_dropout=self.activation_dropout,
        )
