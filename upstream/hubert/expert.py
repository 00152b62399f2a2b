"""HuBERT (https://arxiv.org/abs/2106.07447), and what others trained in its form."""

from __future__ import annotations

from headwater.hf.model import SpeechEncoder


class Hubert(SpeechEncoder):
    """See `headwater.hf`; cards.yaml has the settings."""
