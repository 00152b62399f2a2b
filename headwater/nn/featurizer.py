"""Between upstream and head: which layers the head sees."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from headwater.errors import UsageError
from headwater.nn.upstream import UpstreamSpec


class Featurizer(nn.Module):
    """Softmax-weighted sum of the hidden states (SUPERB, https://arxiv.org/abs/2105.01051), the last one, or one by number.

    Parameters
    ----------
    spec: the upstream's. Of layers of unequal width those of `out_dim` take part; `left_out` names the others.
    selection: `hidden_states` for the weighted sum, `last_hidden_state` for the last layer.
    layer: one layer, counted from 0, negative from the end; it goes before `selection`.
    normalize: layer norm without parameters over the dims of every state before the sum.

    Raises UsageError for a layer that is not there.
    """

    def __init__(
        self, spec: UpstreamSpec, selection: str = "hidden_states", layer: int | None = None, normalize: bool = False
    ) -> None:
        super().__init__()
        count = len(spec.layer_dims)
        if layer is not None:
            if not -count <= layer < count:
                raise UsageError(
                    f"upstream {spec.name!r} has no layer {layer}: its {count} hidden states are numbered 0 to {count - 1} (or -{count} to -1)"
                )
            self.layers: tuple[int, ...] = (layer % count,)
        elif selection == "last_hidden_state":
            self.layers = (count - 1,)
        else:
            self.layers = tuple(index for index, dim in enumerate(spec.layer_dims) if dim == spec.out_dim)
        self.left_out = (
            tuple(spec.layer_names[i] for i in range(count) if i not in self.layers)
            if layer is None and selection == "hidden_states"
            else ()
        )
        self.layer_names = tuple(spec.layer_names[index] for index in self.layers)
        self.out_dim = spec.layer_dims[self.layers[0]]
        self.normalize = normalize
        self.weights = nn.Parameter(torch.zeros(len(self.layers))) if len(self.layers) > 1 else None

    def layer_weights(self) -> list[float]:
        """The share of each layer, summing to one."""
        return torch.softmax(self.weights.detach(), 0).tolist() if self.weights is not None else [1.0]

    def forward(self, states: tuple[Tensor, ...]) -> Tensor:
        """The states of `self.layers`, each (B, T, D) -> (B, T, D)."""
        if self.normalize:
            states = tuple(nn.functional.layer_norm(state, state.shape[-1:]) for state in states)
        if self.weights is None:
            return states[0]
        shares = torch.softmax(self.weights, 0)
        total = shares[0] * states[0]
        for share, state in zip(shares[1:], states[1:], strict=True):
            total = total + share * state
        return total
