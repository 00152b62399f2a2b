"""The encoder of wav2vec 2.0's base models, as DistilHuBERT and DeCoAR 2.0 have it: convolutional positions, a norm, post-norm layers.

Source: https://arxiv.org/abs/2006.11477, section 2. Exact for any lengths.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from headwater.nn.lengths import zero_beyond
from headwater.nn.transformer import Rows, TransformerLayer

EPS = 1e-5


class PositionalConvolution(nn.Module):
    """x + gelu(conv(x)) with a wide grouped kernel; every tap of it has a direction and a norm of its own (weight norm)."""

    def __init__(self, dim: int, kernel: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.kernel, self.groups = kernel, groups
        self.direction = nn.Parameter(torch.empty(dim, dim // groups, kernel))
        nn.init.normal_(self.direction, std=math.sqrt(4 * (1 - dropout) / (kernel * dim)))
        self.gain = nn.Parameter(self._norm().detach().clone())
        self.bias = nn.Parameter(torch.zeros(dim))

    def _norm(self) -> Tensor:
        return torch.linalg.vector_norm(self.direction, dim=(0, 1), keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim), zero beyond the lengths -> (B, T, dim)."""
        weight = self.direction * (self.gain / self._norm())
        y = functional.conv1d(x.transpose(1, 2), weight, self.bias, padding=self.kernel // 2, groups=self.groups)
        return x + functional.gelu(y[:, :, : x.shape[1]]).transpose(1, 2)


class Layer(TransformerLayer):
    """With dropout between the two linear maps, too."""

    def __init__(
        self, dim: int, heads: int, inner: int, *, activation: str, dropouts: tuple[float, float, float]
    ) -> None:
        """dropouts: of what is added, of attention, of activations."""
        super().__init__(
            dim,
            heads,
            inner,
            activation=activation,
            dropout=dropouts[0],
            attention_dropout=dropouts[1],
            eps=EPS,
            pre_norm=False,
        )
        self.inner_dropout = nn.Dropout(dropouts[2])

    def _mlp(self, x: Tensor) -> Tensor:
        return self.dropout(self.down(self.inner_dropout(self.activation(self.up(x)))))


class ConvTransformer(nn.Module):
    """(B, T, dim), (B,) -> the first layer's input and every layer's output, (B, T, dim) each, zero beyond the lengths."""

    def __init__(
        self,
        dim: int,
        layers: int,
        heads: int,
        inner: int,
        *,
        kernel: int,
        groups: int,
        activation: str = "gelu",
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        activation_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.positions = PositionalConvolution(dim, kernel, groups, dropout)
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.dropout = nn.Dropout(dropout)
        dropouts = (dropout, attention_dropout, activation_dropout)
        self.layers = nn.ModuleList(
            Layer(dim, heads, inner, activation=activation, dropouts=dropouts) for _ in range(layers)
        )
        self.layers.apply(_initialise)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        rows = Rows.of(lengths.tolist(), x.device)
        size = max(rows.lengths)
        x = self.positions(zero_beyond(x[:, :size], lengths))
        states = [rows.join(self.dropout(self.norm(x)))]
        for layer in self.layers:
            states.append(layer(states[-1], rows))
        return tuple(rows.split(state) for state in states)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
