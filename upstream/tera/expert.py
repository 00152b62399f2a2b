"""Frames altered in time, frequency and magnitude, reconstructed (https://arxiv.org/abs/2007.06028)."""

from __future__ import annotations

from headwater.mam.model import MaskedAcousticModel


class Tera(MaskedAcousticModel):
    """Frames altered in time, frequency and magnitude, reconstructed (https://arxiv.org/abs/2007.06028)."""
