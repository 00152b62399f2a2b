"""What cpc learns: see its card."""

from __future__ import annotations

from headwater.pretrained.contrast import Contrast


class Cpc(Contrast):
    """Trains the upstream `modified_cpc`."""

    upstream = "modified_cpc"
