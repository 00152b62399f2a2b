"""Sound: the one door for audio files (`info`, `read`) and the acoustic front-ends (`headwater.audio.frontends`)."""

from __future__ import annotations

from headwater.audio.io import AudioInfo, info, read

__all__ = ["AudioInfo", "info", "read"]
