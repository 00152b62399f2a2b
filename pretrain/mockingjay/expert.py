"""What mockingjay learns: see its card."""

from __future__ import annotations

from headwater.mam.objective import MaskedReconstruction


class Mockingjay(MaskedReconstruction):
    """Trains the upstream `mockingjay`."""

    upstream = "mockingjay"
