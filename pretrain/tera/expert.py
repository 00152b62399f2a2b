"""What tera learns: see its card."""

from __future__ import annotations

from headwater.mam.objective import MaskedReconstruction


class Tera(MaskedReconstruction):
    """Trains the upstream `tera`."""

    upstream = "tera"
