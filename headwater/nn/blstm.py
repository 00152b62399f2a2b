"""A bidirectional LSTM on the valid frames of a batch alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from headwater.nn.recurrent import pack, unpack


class Blstm(nn.Module):
    """(B, T, D), (B,) -> (B, T, D), zero beyond the lengths: one layer, half of the D units in each direction. D must be even."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, dim // 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        # bfloat16 would lose what is added up over time.
        with torch.autocast(x.device.type, enabled=False):
            return unpack(self.lstm(pack(x.float(), lengths))[0], x.shape[1])
