"""Speaker identification and verification."""

from __future__ import annotations

from headwater.train.labelled import LabelledTask

from .verification import Verification

__all__ = ["Speaker", "Verification"]


class Speaker(LabelledTask):
    """Which of the training speakers is it?"""

    noun = "speaker"
