"""Recurrent nets on the valid frames of a batch alone: exact for any lengths, zero beyond them."""

from __future__ import annotations

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence


def pack(x: Tensor, lengths: Tensor) -> PackedSequence:
    """(B, T, D), (B,) -> its valid frames, which PyTorch's recurrent nets take."""
    return pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)


def unpack(packed: PackedSequence, size: int) -> Tensor:
    """The opposite of `pack`: (B, size, D), zero beyond the lengths."""
    return pad_packed_sequence(packed, batch_first=True, total_length=size)[0]
