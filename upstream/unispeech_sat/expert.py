"""UniSpeech-SAT (https://arxiv.org/abs/2110.05752)."""

from __future__ import annotations

from headwater.hf.model import SpeechEncoder


class UniSpeechSat(SpeechEncoder):
    """See `headwater.hf`; cards.yaml has the settings."""
