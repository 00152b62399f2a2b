"""Mockingjay whose layers share their weights (https://arxiv.org/abs/2005.08575)."""

from __future__ import annotations

from headwater.mam.model import MaskedAcousticModel


class AudioAlbert(MaskedAcousticModel):
    """Mockingjay whose layers share their weights (https://arxiv.org/abs/2005.08575)."""
