"""What audio_albert learns: see its card."""

from __future__ import annotations

from headwater.mam.objective import MaskedReconstruction


class AudioAlbert(MaskedReconstruction):
    """Trains the upstream `audio_albert`."""

    upstream = "audio_albert"
