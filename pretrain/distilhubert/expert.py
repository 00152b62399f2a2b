"""What distilhubert learns: see its card."""

from __future__ import annotations

from headwater.pretrained.distillation import Distillation


class DistilHubert(Distillation):
    """Trains the upstream `distilhubert`."""

    upstream = "distilhubert"
