"""What wav2vec2 learns: see its card."""

from __future__ import annotations

from headwater.masked.contrastive import Contrastive


class Wav2Vec2(Contrastive):
    """Trains the upstream `wav2vec2`; on frames, `wav2vec2_frames`."""

    upstream = "wav2vec2"
