"""The BERT encoder that Mockingjay, TERA and Audio ALBERT share: exact for any lengths, no work on padding but in attention scores.

A batch is kept as the list of its valid frames, (N, hidden), and the lengths of its rows; only attention sees rows. Cutting an utterance into chunks is
nothing but other rows.

Sources: BERT (https://arxiv.org/abs/1810.04805), Mockingjay (https://arxiv.org/abs/1910.12638), pre-norm (https://arxiv.org/abs/2002.04745).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from headwater.nn.lengths import mask

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "relu": functional.relu,
    "swish": functional.silu,
}


@dataclass(frozen=True)
class Rows:
    """Which of the N packed frames attend to each other.

    lengths: of the rows, in the order of the packed frames; they add up to N.
    valid: (rows, longest) bool, or None where all rows are equally long.
    """

    lengths: tuple[int, ...]
    valid: Tensor | None

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Rows:
        equal = min(lengths) == max(lengths)
        return cls(tuple(lengths), None if equal else mask(torch.tensor(lengths, device=device), max(lengths)))

    def split(self, x: Tensor) -> Tensor:
        """(N, D) -> (rows, longest, D), zero beyond each row."""
        if self.valid is None:
            return x.view(len(self.lengths), -1, x.shape[-1])
        padded = x.new_zeros(*self.valid.shape, x.shape[-1])
        padded[self.valid] = x
        return padded

    def join(self, x: Tensor) -> Tensor:
        """(rows, longest, D) -> (N, D)."""
        return x.reshape(-1, x.shape[-1]) if self.valid is None else x[self.valid]


def chunk_lengths(length: int, limit: int) -> list[int]:
    """The rows that one utterance of `length` frames is cut into where rows may hold `limit` frames (0: any number).

    S3PRL's rule, `torch.chunk(x, ceil(length / limit))`: chunks of equal length, the last one shorter.
    """
    if not 0 < limit < length:
        return [length]
    size = math.ceil(length / math.ceil(length / limit))
    return [size] * (length // size) + ([length % size] if length % size else [])


@lru_cache(maxsize=8)
def sinusoids(length: int, dim: int, device: torch.device) -> Tensor:
    """Positions (length, dim) float32: sin(t / 10000^(2 (j // 2) / dim)) for even j, cos for odd ones, rounded from float64."""
    j = torch.arange(dim, dtype=torch.float64)
    angle = torch.arange(length, dtype=torch.float64)[:, None] / 10000 ** (2 * (j // 2) / dim)
    return torch.where(j % 2 == 0, angle.sin(), angle.cos()).float().to(device)


class SelfAttention(nn.Module):
    """Multi-head attention within rows.

    `reach`: attention to frames further away is set to 0 after the softmax, without renormalising (https://arxiv.org/abs/2006.03265); None for all frames.
    """

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.output = nn.Linear(hidden, hidden)
        self.reach: int | None = None

    def forward(self, x: Tensor, rows: Rows, kept: Tensor | None = None) -> Tensor:
        """(N, hidden) -> (N, hidden). `kept` (heads,) multiplies the answer of each head: 0 prunes it."""
        q, k, v = self._heads(x, rows)
        if self.reach is None:
            attend = None if rows.valid is None else rows.valid[:, None, None, :]
            answer = functional.scaled_dot_product_attention(
                q, k, v, attn_mask=attend, dropout_p=self.dropout if self.training else 0.0
            )
        else:
            answer = functional.dropout(self._weights(q, k, rows), self.dropout, self.training) @ v
        if kept is not None:
            answer = answer * kept.to(answer)[:, None, None]
        return self.output(rows.join(answer.transpose(1, 2).flatten(2)))

    def weights(self, x: Tensor, rows: Rows) -> Tensor:
        """The attention maps, (rows, heads, longest, longest): what query (third axis) gives each key; 0 for keys beyond a row."""
        q, k, _ = self._heads(x, rows)
        return self._weights(q, k, rows)

    def _heads(self, x: Tensor, rows: Rows) -> list[Tensor]:
        padded = rows.split(self.qkv(x))
        return list(padded.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4))

    def _weights(self, q: Tensor, k: Tensor, rows: Rows) -> Tensor:
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if rows.valid is not None:
            scores = scores.masked_fill(~rows.valid[:, None, None, :], -torch.inf)
        attention = scores.softmax(-1)
        if self.reach is not None:
            time = torch.arange(attention.shape[-1], device=attention.device)
            attention = attention.masked_fill((time[:, None] - time[None, :]).abs() > self.reach, 0.0)
        return attention


class TransformerLayer(nn.Module):
    """Post-norm: a = LN(x + attn(x)); y = LN(a + mlp(a)). Pre-norm: a = x + attn(LN(x)); y = a + mlp(LN(a))."""

    def __init__(
        self,
        hidden: int,
        heads: int,
        intermediate: int,
        *,
        activation: str,
        dropout: float,
        attention_dropout: float,
        eps: float,
        pre_norm: bool,
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = SelfAttention(hidden, heads, attention_dropout)
        self.attention_norm = nn.LayerNorm(hidden, eps=eps)
        self.up = nn.Linear(hidden, intermediate)
        self.down = nn.Linear(intermediate, hidden)
        self.output_norm = nn.LayerNorm(hidden, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor, rows: Rows, kept: Tensor | None = None) -> Tensor:
        """(N, hidden) -> (N, hidden). `kept`: see `SelfAttention`."""
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.attention_norm(x), rows, kept))
            return x + self._mlp(self.output_norm(x))
        x = self.attention_norm(x + self.dropout(self.attention(x, rows, kept)))
        return self.output_norm(x + self._mlp(x))

    def attention_input(self, x: Tensor) -> Tensor:
        """What the attention of this layer sees, from the layer's input (N, hidden)."""
        return self.attention_norm(x) if self.pre_norm else x

    def _mlp(self, x: Tensor) -> Tensor:
        return self.dropout(self.down(self.activation(self.up(x))))


class Transformer(nn.Module):
    """Input projection, sinusoidal positions (and, where asked for, what a convolution makes of the frames around), N layers.

    input_dim, hidden, heads, intermediate: sizes. activation: gelu, relu or swish. dropout, attention_dropout: shares.
    shared: one layer, used N times (Audio ALBERT). pre_norm: see `TransformerLayer`; every hidden state is then normalised on its own.
    first_norm: whether the first hidden state is, too (S3PRL's v0.1 did not). chunk: the longest row in frames; longer utterances are cut into equal
    chunks (`chunk_lengths`), 0 for never. std: of the initial weights. near: the kernel of that convolution, odd (https://arxiv.org/abs/2006.11477, section 2:
    it finds out sooner than attention what lies beside a frame); 0 for none.

    `kept` (layers, heads) multiplies the answer of each head, for shared layers too: 0 prunes it. None, as it is at first, keeps all.
    """

    kept: Tensor | None

    def __init__(
        self,
        input_dim: int,
        hidden: int,
        layers: int,
        heads: int,
        intermediate: int,
        *,
        activation: str = "gelu",
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        eps: float = 1e-12,
        shared: bool = False,
        pre_norm: bool = False,
        first_norm: bool = True,
        chunk: int = 0,
        std: float = 0.02,
        near: int = 0,
    ) -> None:
        super().__init__()
        self.depth, self.chunk = layers, chunk
        self.projection = nn.Linear(input_dim, hidden)
        self.input_norm = nn.LayerNorm(hidden, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(
                hidden,
                heads,
                intermediate,
                activation=activation,
                dropout=dropout,
                attention_dropout=attention_dropout,
                eps=eps,
                pre_norm=pre_norm,
            )
            for _ in range(1 if shared else layers)
        )
        self.state_norms = nn.ModuleList(
            nn.LayerNorm(hidden, eps=eps) if pre_norm and (number or first_norm) else nn.Identity()
            for number in range(layers + 1)
        )
        self.near = nn.Conv1d(hidden, hidden, near, padding=near // 2, groups=math.gcd(hidden, 16)) if near else None
        self.register_buffer("kept", None, persistent=False)
        self.apply(lambda module: _initialise(module, std))

    def layer(self, number: int) -> TransformerLayer:
        """Layer `number` from 0; the same one for all numbers where layers are shared."""
        layer = self.layers[number if len(self.layers) > 1 else 0]
        assert isinstance(layer, TransformerLayer)
        return layer

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """(B, T, input_dim), (B,) -> layers + 1 hidden states (B, T, hidden), zero beyond the lengths: the first layer's input, then every layer's output."""
        whole, h, rows = self._begin(x, lengths)
        states = [h]
        for number in range(self.depth):
            states.append(self._through(number, states[-1], rows))
        return tuple(
            self._pad(whole.split(norm(h)), x.shape[1]) for norm, h in zip(self.state_norms, states, strict=True)
        )

    def last(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The last hidden state alone, (B, T, hidden)."""
        whole, h, rows = self._begin(x, lengths)
        for number in range(self.depth):
            h = self._through(number, h, rows)
        return self._pad(whole.split(self.state_norms[-1](h)), x.shape[1])

    def attention_maps(self, x: Tensor, lengths: Tensor) -> list[Tensor]:
        """One (rows, heads, longest, longest) a layer; a row is an utterance, or a chunk of one."""
        _, h, rows = self._begin(x, lengths)
        maps = []
        for number in range(self.depth):
            layer = self.layer(number)
            maps.append(layer.attention.weights(layer.attention_input(h), rows))
            h = self._through(number, h, rows)
        return maps

    def _through(self, number: int, h: Tensor, rows: Rows) -> Tensor:
        return self.layer(number)(h, rows, None if self.kept is None else self.kept[number])

    def _begin(self, x: Tensor, lengths: Tensor) -> tuple[Rows, Tensor, Rows]:
        counts = lengths.tolist()
        whole = Rows.of(counts, x.device)
        rows = whole
        if 0 < self.chunk < max(counts):
            rows = Rows.of([row for count in counts for row in chunk_lengths(count, self.chunk)], x.device)
        positions = sinusoids(max(rows.lengths), self.projection.out_features, x.device)
        frames = whole.join(x[:, : max(counts)])
        if rows.valid is None:
            positions = positions.repeat(len(rows.lengths), 1)
        else:
            positions = positions.expand(len(rows.lengths), -1, -1)[rows.valid]
        h = self.projection(frames)
        if self.near is not None:
            h = h + functional.gelu(rows.join(self.near(rows.split(h).transpose(1, 2)).transpose(1, 2)))
        return whole, self.dropout(self.input_norm(h + positions)), rows

    @staticmethod
    def _pad(x: Tensor, size: int) -> Tensor:
        return x if x.shape[1] == size else functional.pad(x, (0, 0, 0, size - x.shape[1]))


class ReconstructionHead(nn.Module):
    """Hidden states -> acoustic frames (S3PRL's SpecHead): linear, activation, LayerNorm, linear."""

    def __init__(
        self, hidden: int, out_dim: int, *, activation: str = "gelu", eps: float = 1e-12, std: float = 0.02
    ) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden, eps=eps)
        self.output = nn.Linear(hidden, out_dim)
        self.activation = ACTIVATIONS[activation]
        self.apply(lambda module: _initialise(module, std))

    def forward(self, h: Tensor) -> Tensor:
        """(..., hidden) -> (..., out_dim)."""
        return self.output(self.norm(self.activation(self.dense(h))))


def _initialise(module: nn.Module, std: float) -> None:
    # Without memory there is nothing to draw, and torch would load its compiler to find that out.
    if isinstance(module, nn.Linear) and not module.weight.is_meta:
        nn.init.normal_(module.weight, std=std)
        nn.init.zeros_(module.bias)
