"""What is trained and scored: featurizer and head, on a frozen or a fine-tuned upstream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from headwater.config import SpecAugConfig
from headwater.errors import UsageError
from headwater.nn.featurizer import Featurizer
from headwater.nn.specaug import spec_augment
from headwater.nn.upstream import Upstream


class Probe(nn.Module):
    """(states of the featurizer's layers, lengths, inputs) -> the head's output. A fine-tuned upstream is part of it and takes waveforms instead."""

    def __init__(
        self,
        featurizer: Featurizer,
        head: nn.Module,
        upstream: Upstream | None = None,
        specaug: SpecAugConfig | None = None,
    ) -> None:
        super().__init__()
        self.featurizer, self.head, self.upstream, self.specaug = featurizer, head, upstream, specaug

    def train(self, mode: bool = True) -> Probe:
        """Batch norms of a fine-tuned upstream keep their statistics: a small corpus would spoil them."""
        super().train(mode)
        for module in self.upstream.modules() if self.upstream is not None else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(
        self, states: tuple[Tensor, ...] | None, lengths: Tensor, inputs: Mapping[str, Tensor], x: Tensor | None = None
    ) -> tuple[Any, Tensor]:
        """Give `states`, or `x` (B, T, in_dim), a front-end's output, for the fine-tuned upstream. Returns the output and the frames' lengths (B,)."""
        if self.upstream is not None and x is not None:
            features = self.upstream.encode(x, lengths)
            states = tuple(features.hidden_states[layer] for layer in self.featurizer.layers)
            lengths = features.lengths
        assert states is not None
        frames = self.featurizer(states)
        if self.training and self.specaug is not None:
            frames = spec_augment(frames, lengths, **self.specaug.model_dump())
        return self.head(frames, lengths, inputs), lengths


def freeze(upstream: Upstream, prefixes: list[str]) -> None:
    """Stop gradients of every upstream parameter whose name starts with one of `prefixes`. `UsageError` for a prefix that fits none."""
    names = [name for name, _ in upstream.named_parameters()]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            raise UsageError(
                f"upstream.freeze: no parameter of {upstream.name!r} starts with {prefix!r}; they start with {sorted({n.split('.')[0] for n in names})}"
            )
    for name, parameter in upstream.named_parameters():
        if any(name.startswith(prefix) for prefix in prefixes):
            parameter.requires_grad_(False)
