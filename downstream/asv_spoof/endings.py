"""How steps of time become one vector an utterance.

A new ending is a class like these and one line in `ENDINGS`. Each takes (B, T, D) and lengths (B,), and gives (B, `out_dim`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from headwater.errors import UsageError
from headwater.nn.blstm import Blstm
from headwater.nn.lengths import mask, zero_beyond
from headwater.nn.maps import max_feature_map
from headwater.nn.pooling import mean_pool

if TYPE_CHECKING:
    from .systems import SystemConfig


class Ending(nn.Module, ABC):
    """The base of all. `steps`: how many there always are; None where they depend on the utterance."""

    out_dim: int

    @abstractmethod
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor: ...


class Mean(Ending):
    """The mean over time."""

    def __init__(self, dim: int, steps: int | None, config: SystemConfig) -> None:
        super().__init__()
        self.out_dim = dim

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return mean_pool(x, lengths)


class Fixed(Ending):
    """All steps side by side, a linear layer, max feature map: for utterances that were all brought to one length (`window`)."""

    def __init__(self, dim: int, steps: int | None, config: SystemConfig) -> None:
        super().__init__()
        assert steps is not None  # the settings ask for a window
        self.linear = nn.Linear(steps * dim, config.hidden)
        self.out_dim = config.hidden // 2

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return max_feature_map(self.linear(x.flatten(1)))


class Attention(Ending):
    """Self-weighted pooling: weights a = softmax over time of tanh(x . w), y = a x, then the sum of y and its standard deviation over time, side by side.

    The published code adds noise of 1e-5 to y, in scoring, too; here its variance is added to that of y. So the deviation of a single step is 1e-5.
    """

    NOISE = 1e-5

    def __init__(self, dim: int, steps: int | None, config: SystemConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, dim))
        nn.init.kaiming_uniform_(self.weight)
        self.out_dim = 2 * dim

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            beyond = ~mask(lengths, x.shape[1])
            weights = torch.tanh(x @ self.weight[0]).masked_fill(beyond, -torch.inf).softmax(1)
            y = zero_beyond(x, lengths) * weights[:, :, None]
            total, count = y.sum(1), lengths[:, None].to(y)
            centred = zero_beyond(y - (total / count)[:, None], lengths)
            variance = centred.square().sum(1) / (count - 1).clamp(min=1)
            return torch.cat([total, torch.sqrt(variance + self.NOISE**2)], 1)


class LstmSum(Ending):
    """Two bidirectional LSTMs whose output is added to their input; then the mean over time, or the sum (`reduce`)."""

    def __init__(self, dim: int, steps: int | None, config: SystemConfig) -> None:
        super().__init__()
        if dim % 2:
            raise UsageError(
                f"ending lstm needs an even number of dims for its two directions; here are {dim} (input linear gives 128)"
            )
        self.layers = nn.ModuleList([Blstm(dim), Blstm(dim)])
        self.sum = config.reduce == "sum"
        self.out_dim = dim

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        y = x
        for layer in self.layers:
            y = layer(y, lengths)
        y = x + y
        return zero_beyond(y, lengths).sum(1) if self.sum else mean_pool(y, lengths)


ENDINGS: dict[str, Callable[[int, int | None, SystemConfig], Ending]] = {
    "mean": Mean,
    "fixed": Fixed,
    "attention": Attention,
    "lstm": LstmSum,
}
