"""What APC, VQ-APC and NPC share: frames are told from the last hidden state, by way of a quantizer where there is one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from headwater.nn.quantizers import LinearCodebooks, Quantized
from headwater.pretrained.upstream import Pretrained


class PredictiveNetwork(nn.Module, ABC):
    """Gives all hidden states, of which `postnet` tells frames from the last one or from what `quantizer` makes of it."""

    quantizer: LinearCodebooks | None
    postnet: nn.Linear

    @abstractmethod
    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """(B, T, in_dim), (B,) -> hidden states (B, T, dim), zero beyond the lengths."""

    def predict(self, hidden: Tensor, noise: Sequence[Tensor] | None = None) -> tuple[Tensor, Quantized | None]:
        """The last state (B, T, dim) -> the frames (B, T, in_dim), and what they were made of where there is a quantizer, to which `noise` goes."""
        if self.quantizer is None:
            return self.postnet(hidden), None
        quantized = self.quantizer(hidden, noise)
        return self.postnet(quantized.codewords), quantized


class PredictiveModel(Pretrained):
    """Such a network as an upstream."""

    network: PredictiveNetwork

    def hidden_states(self, x: Tensor, lengths: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        return self.network(x, lengths), lengths

    def quantized(self, x: Tensor, lengths: Tensor) -> Tensor:
        _, quantized = self.network.predict(self.network(x, lengths)[-1])
        return super().quantized(x, lengths) if quantized is None else quantized.codes
