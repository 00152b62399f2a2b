"""WavLM (https://arxiv.org/abs/2110.13900)."""

from __future__ import annotations

from headwater.hf.model import SpeechEncoder


class WavLM(SpeechEncoder):
    """See `headwater.hf`; cards.yaml has the settings."""
