"""What hubert learns: see its card."""

from __future__ import annotations

from headwater.masked.clusters import MaskedPrediction


class Hubert(MaskedPrediction):
    """Trains the upstream `hubert`; on frames, `hubert_frames`."""

    upstream = "hubert"
