"""Resynthesis: what is left of the sound in a representation, and how near vocoders come to the original."""

from __future__ import annotations

from .copying import CopySynthesis
from .nsf import NsfVocoder
from .probe import Vocoder

__all__ = ["CopySynthesis", "NsfVocoder", "Vocoder"]
