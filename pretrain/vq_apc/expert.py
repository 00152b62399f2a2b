"""What vq_apc learns: see its card."""

from __future__ import annotations

from headwater.pretrained.prediction import FrameForetelling


class VqApc(FrameForetelling):
    """Trains the upstream `vq_apc`."""

    upstream = "vq_apc"
