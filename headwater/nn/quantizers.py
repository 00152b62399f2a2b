"""Quantizers: frames (B, T, D) -> codewords and the numbers of the codes, one a group of channels.

In eval mode the best code is taken; in training one is drawn (Gumbel softmax, https://arxiv.org/abs/1611.01144), with a straight-through gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from headwater.nn.convolution import Activation, TimeNorm


class Quantized(NamedTuple):
    """codewords (B, T, D'); codes (B, T, groups) int64; scores: per group (B, T, entries), the larger the likelier, where there are any."""

    codewords: Tensor
    codes: Tensor
    scores: tuple[Tensor, ...] = ()


def gumbel(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Noise by which the largest of noisy scores is a draw from their softmax."""
    return -torch.empty(*shape, device=generator.device).exponential_(generator=generator).log()


def choose(scores: Tensor, temperature: float, training: bool, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(..., entries) -> one-hot (..., entries), and the numbers (...). In training `noise` is that of the draw; None takes torch's global generator."""
    if training and noise is not None:
        soft = ((scores.float() + noise) / temperature).softmax(-1)
        codes = soft.argmax(-1)
        return (functional.one_hot(codes, soft.shape[-1]) - soft.detach() + soft).type_as(scores), codes
    if training:
        hot = functional.gumbel_softmax(scores.float(), tau=temperature, hard=True).type_as(scores)
        return hot, hot.argmax(-1)
    codes = scores.argmax(-1)
    return functional.one_hot(codes, scores.shape[-1]).to(scores), codes


class LinearCodebooks(nn.Module):
    """Each group of channels has a linear map to its entries, and a matrix of codewords (VQ-APC, https://arxiv.org/abs/2005.08392, and NPC)."""

    def __init__(self, entries: Sequence[int], dims: Sequence[int], temperature: float) -> None:
        super().__init__()
        self.dims, self.temperature = list(dims), temperature
        self.logits = nn.ModuleList(nn.Linear(dim, size) for dim, size in zip(dims, entries, strict=True))
        self.codebooks = nn.ModuleList(
            nn.Linear(size, dim, bias=False) for dim, size in zip(dims, entries, strict=True)
        )

    @property
    def entries(self) -> list[int]:
        """Of each codebook."""
        return [codebook.in_features for codebook in self.codebooks]  # type: ignore[misc]

    def forward(self, x: Tensor, noise: Sequence[Tensor] | None = None) -> Quantized:
        """noise: see `choose`, per group (B, T, entries)."""
        words, codes, scores = [], [], []
        drawn = [None] * len(self.dims) if noise is None else noise
        for part, logits, codebook, one in zip(x.split(self.dims, -1), self.logits, self.codebooks, drawn, strict=True):
            scores.append(logits(part))
            hot, chosen = choose(scores[-1], self.temperature, self.training, one)
            words.append(codebook(hot))
            codes.append(chosen)
        return Quantized(torch.cat(words, -1), torch.stack(codes, -1), tuple(scores))


class GumbelQuantizer(nn.Module):
    """vq-wav2vec's Gumbel variant (https://arxiv.org/abs/1910.05453): a small net scores the entries of every group.

    shared: one codebook for all groups. depth: layers of the net, the hidden ones of `2 * in_dim`.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        entries: int,
        groups: int,
        shared: bool,
        depth: int,
        activation: Activation,
        temperature: float,
    ) -> None:
        super().__init__()
        self.groups, self.entries, self.temperature, self.activation = groups, entries, temperature, activation
        self.codebook = nn.Parameter(torch.rand((1 if shared else groups) * entries, out_dim // groups))
        widths = [in_dim, *[2 * in_dim] * (depth - 1)]
        self.hidden = nn.ModuleList(nn.Linear(one, two) for one, two in pairwise(widths))
        self.logits = nn.Linear(widths[-1], groups * entries)
        nn.init.normal_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Quantized:
        for layer in self.hidden:
            x = self.activation(layer(x))
        scores = self.logits(x).unflatten(-1, (self.groups, self.entries))
        hot, codes = choose(scores, self.temperature, self.training)
        codebook = self.codebook.view(-1, self.entries, self.codebook.shape[-1]).expand(self.groups, -1, -1)
        words = torch.einsum("btgv,gvd->btgd", hot, codebook.to(hot))
        return Quantized(words.flatten(2), codes, tuple(scores.unbind(2)))


class KmeansQuantizer(nn.Module):
    """vq-wav2vec's k-means variant: the nearest entry to a projection, which is normalised over (valid) time; the gradient goes straight to the projection.

    `scores` are the negative distances.
    """

    def __init__(self, dim: int, *, entries: int, groups: int, shared: bool) -> None:
        super().__init__()
        self.groups = groups
        self.codebook = nn.Parameter(0.01 * torch.randn(entries, 1 if shared else groups, dim // groups))
        self.projection = nn.Conv1d(dim, dim, 1, groups=groups, bias=False)
        self.norm = TimeNorm(groups, dim)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Quantized:
        projected = self.norm(self.projection(x.transpose(1, 2)), lengths).transpose(1, 2)
        grouped = projected.unflatten(-1, (self.groups, -1))
        codebook = self.codebook.expand(-1, self.groups, -1)
        words, codes, scores = [], [], []
        for group in range(self.groups):
            entries, part = codebook[:, group], grouped[:, :, group]
            with torch.no_grad():  # products of matrices would round codes that lie close together into each other
                exact = "donot_use_mm_for_euclid_dist"
                scores.append(-torch.cdist(part.float(), entries.float()[None], compute_mode=exact))
            codes.append(scores[-1].argmax(-1))
            words.append(part + (entries[codes[-1]] - part).detach())
        return Quantized(torch.cat(words, -1), torch.stack(codes, -1), tuple(scores))
