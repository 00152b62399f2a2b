"""What a task answers a sound with while it comes in."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Stream(Protocol):
    """One sound of any length. In all, as many samples come out as went in."""

    @property
    def latency(self) -> int:
        """Samples that must be in before the first one comes out."""

    def push(self, samples: Tensor) -> Tensor:
        """The next samples (n,), any number -> what is final now: signals (C, m), m >= 0."""

    def finish(self) -> Tensor:
        """What is left: (C, m)."""
