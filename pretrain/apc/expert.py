"""What apc learns: see its card."""

from __future__ import annotations

from headwater.pretrained.prediction import FrameForetelling


class Apc(FrameForetelling):
    """Trains the upstream `apc`."""

    upstream = "apc"
