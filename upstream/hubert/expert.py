"""HuBERT (https://arxiv.org/abs/2106.07447), and what others trained in its form."""

from __future__ import annotations

from headwater.hf.model import SpeechEncoder
from headwater.mam.model import MaskedAcousticModel


class Hubert(SpeechEncoder):
    """See `headwater.hf`; cards.yaml has the settings."""


class HubertFrames(MaskedAcousticModel):
    """A Transformer on the frames of a front-end, trained as its paper has it. Weight files bring their settings."""
