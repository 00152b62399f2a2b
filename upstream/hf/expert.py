"""Speech encoders in the form of transformers: a directory, or a name on huggingface.co."""

from __future__ import annotations

from headwater.hf.model import SpeechEncoder


class HuggingFace(SpeechEncoder):
    """See `headwater.hf`; cards.yaml has the settings."""
