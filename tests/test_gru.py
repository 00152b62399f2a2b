"""A GRU layer trained by our own backward pass is torch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from headwater.nn.gru import run
from headwater.nn.recurrent import pack


@pytest.mark.parametrize("lengths", [[7], [5, 5, 5], [3, 9, 1, 9]])
def test_the_output_and_all_gradients_are_those_of_torch(lengths: list[int]) -> None:
    torch.manual_seed(0)
    layer = nn.GRU(6, 4, batch_first=True)
    x = torch.randn(len(lengths), max(lengths), 6)
    found = []
    for forward in (lambda packed: layer(packed)[0].data, lambda packed: run(layer, packed)):
        layer.zero_grad()
        given = x.clone().requires_grad_()
        out = forward(pack(given, torch.tensor(lengths)))
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        found.append([out.detach(), given.grad, *(parameter.grad.clone() for parameter in layer.parameters())])  # type: ignore[union-attr]
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
