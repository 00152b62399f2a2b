"""Who speaks in the anti-spoofing demo, and how their speech is copied. Everything here enters the hash that names the corpus in the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from headwater.data.demo_recipe import VOICES, Voice

VERSION = 1
SENTENCES = {"train": 6, "dev": 6, "test": 8}  # of each speaker, each once as it is and once copied


@dataclass(frozen=True)
class GriffinLim:
    """Magnitudes, or mel bands of them, with phases of Griffin-Lim. n_fft, hop: samples."""

    n_fft: int
    hop: int
    iterations: int
    num_mels: int | None = None


@dataclass(frozen=True)
class World:
    """WORLD's analysis and synthesis. period: ms between frames."""

    tracker: Literal["dio+stonemask", "harvest"]
    period: float


Attack = GriffinLim | World

SEEN: dict[str, Attack] = {
    "D01": GriffinLim(512, 128, 4, num_mels=24),
    "D02": GriffinLim(512, 128, 1),
    "D03": World("dio+stonemask", 10.0),
}
UNSEEN: dict[str, Attack] = {
    "D04": GriffinLim(400, 100, 4, num_mels=32),
    "D05": GriffinLim(512, 256, 2),
    "D06": World("harvest", 15.0),
}
ATTACKS = {"train": tuple(SEEN), "dev": tuple(SEEN), "test": (*SEEN, *UNSEEN)}

_FURTHER = {
    "dev": ("f3", "Annie", "aunty", "anika", "m5", "m6", "Andy", "boris"),
    "test": (
        "Alicia", "steph", "shelby", "Andrea", "zac", "grandma", "m8", "Gene", "Jacky", "Michael", "max", "john", "norbert", "david", "ed", "paul",
    ),
}  # fmt: skip
_RATES = (142, 150, 158)  # words a minute
_PITCH, _RANGE = 50, 50  # the variant's own


def _voices() -> dict[str, tuple[Voice, ...]]:
    """Train speaks with the voices of the demo corpus; no voice variant is in two splits."""
    further = {
        split: tuple(
            Voice(f"{split[0]}{number:02d}", "", variant, _PITCH, _RANGE, _RATES[number % len(_RATES)])
            for number, variant in enumerate(variants, start=1)
        )
        for split, variants in _FURTHER.items()
    }
    return {"train": VOICES, **further}


SPEAKERS = _voices()
