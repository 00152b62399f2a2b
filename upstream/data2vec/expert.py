"""data2vec for speech (https://arxiv.org/abs/2202.03555)."""

from __future__ import annotations

from headwater.hf.model import SpeechEncoder


class Data2Vec(SpeechEncoder):
    """See `headwater.hf`; cards.yaml has the settings."""
