"""wav2vec 2.0, XLSR and XLS-R (https://arxiv.org/abs/2006.11477, https://arxiv.org/abs/2111.09296), and their conformers."""

from __future__ import annotations

from headwater.hf.model import SpeechEncoder
from headwater.mam.model import MaskedAcousticModel


class Wav2Vec2(SpeechEncoder):
    """See `headwater.hf`; cards.yaml has the settings."""


class Wav2Vec2Frames(MaskedAcousticModel):
    """A Transformer on the frames of a front-end, trained as its paper has it. Weight files bring their settings."""
