"""What npc learns: see its card."""

from __future__ import annotations

from headwater.pretrained.prediction import FramePrediction


class Npc(FramePrediction):
    """Trains the upstream `npc`."""

    upstream = "npc"
