"""Masked frames, reconstructed from both sides (https://arxiv.org/abs/1910.12638)."""

from __future__ import annotations

from headwater.mam.model import MaskedAcousticModel


class Mockingjay(MaskedAcousticModel):
    """Masked frames, reconstructed from both sides (https://arxiv.org/abs/1910.12638)."""
