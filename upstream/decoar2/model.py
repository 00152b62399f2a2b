"""DeCoAR 2.0 (https://arxiv.org/abs/2012.06659): an encoder on every second frame of log mel bins."""

from __future__ import annotations

from torch import Tensor, nn

from headwater.config import Share
from headwater.pretrained.encoder import ConvTransformerSettings
from headwater.pretrained.features import FeatureSettings


class Settings(FeatureSettings, ConvTransformerSettings):
    """The published model's, by default."""

    dropout_input: Share = 0.1


class DecoarNet(nn.Module):
    """A projection, and the encoder."""

    def __init__(self, settings: Settings, in_dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(in_dim, settings.encoder_embed_dim)
        self.dropout = nn.Dropout(settings.dropout_input)
        self.encoder = settings.build()

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """(B, T, in_dim), (B,) -> the first layer's input and every layer's output (B, T, dim), zero beyond the lengths."""
        return self.encoder(self.dropout(self.projection(x)), lengths)
