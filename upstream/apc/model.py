"""Autoregressive predictive coding: recurrent layers that foretell frames, with a quantizer before the prediction or without.

Sources: APC (https://arxiv.org/abs/1904.03240), VQ-APC (https://arxiv.org/abs/2005.08392).
"""

from __future__ import annotations

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from headwater.config import Share
from headwater.nn import gru
from headwater.nn.recurrent import pack, unpack
from headwater.pretrained.features import FeatureSettings
from headwater.pretrained.predictive import PredictiveNetwork
from headwater.pretrained.quantizer import QuantizerSettings


class Settings(FeatureSettings):
    """S3PRL's `model.paras`, and the front-end."""

    num_layers: int = Field(3, ge=1, le=1000)
    hidden_size: int = Field(512, ge=1, le=10**6)
    dropout: Share = 0.1
    residual: bool = Field(True, description="from the second layer on, the input of a layer is added to its output")
    vq: QuantizerSettings | None = None

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        if self.vq is not None:
            self.vq.fits(self.hidden_size)
        return self


class PredictiveGru(PredictiveNetwork):
    """GRU layers, and a linear map from the last one, or from what a quantizer makes of it, to the frames to come."""

    def __init__(self, settings: Settings, in_dim: int) -> None:
        super().__init__()
        hidden, self.residual = settings.hidden_size, settings.residual
        self.layers = nn.ModuleList(
            nn.GRU(hidden if number else in_dim, hidden, batch_first=True) for number in range(settings.num_layers)
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.quantizer = None if settings.vq is None else settings.vq.build()
        self.postnet = nn.Linear(hidden, in_dim)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """(B, T, in_dim), (B,) -> the output of every layer (B, T, hidden), zero beyond the lengths."""
        packed = pack(x, lengths)
        states = []
        for number, layer in enumerate(self.layers):
            data = self.dropout(gru.run(layer, packed))  # type: ignore[arg-type]
            if number and self.residual:
                data = data + packed.data
            packed = PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
            states.append(unpack(packed, x.shape[1]))
        return tuple(states)
