"""Mixtures that are drawn from what single speakers say: who, what, from where, how loud and how fast.

The levels are those of dynamic mixing as it is done for WSJ0-2mix (the RMS of the first source in dB of full scale, and how far the others lie off it).
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from pydantic import Field

from headwater.config import Section
from headwater.data.corpus import Utterance
from headwater.data.mixtures import Mixture, Part
from headwater.errors import DataError

if TYPE_CHECKING:
    import numpy as np

QUIETEST, LOUDEST = -45.0, 0.0  # dB of full scale


class Levels(Section):
    """How drawn sources sound. All in dB but the speed."""

    mean: float = Field(
        -27.43, description="level of the first source: the mean of a normal distribution, cut to -45 .. 0"
    )
    deviation: float = Field(2.57, ge=0)
    offset: float = Field(
        -2.51, description="of the other sources against the first: the mean of a normal distribution"
    )
    offset_deviation: float = Field(2.66, ge=0)
    speed: float = Field(0.0, ge=0, lt=0.5, description="sources are played up to this share faster or slower")


@dataclass(frozen=True)
class Voice:
    """What one file holds of one speaker: so many samples at the task's rate. gender: a letter, where it is known."""

    part: Part
    samples: int
    gender: str = ""


def voice_of(utterance: Utterance, samples: int) -> Voice:
    """An utterance of one speaker as a source."""
    part = Part(utterance.path, start=utterance.start, end=utterance.end, speaker=utterance.speaker)
    return Voice(part, samples, utterance.labels.get("gender", "")[:1].upper())


class Pool:
    """Files of single speakers, from which mixtures are drawn. Raises `DataError` where a speaker is not known."""

    def __init__(self, voices: Iterable[Voice], levels: Levels) -> None:
        self.levels = levels
        self._voices: dict[str, list[Voice]] = defaultdict(list)
        for voice in sorted(voices, key=lambda voice: (str(voice.part.path), voice.part.start or 0.0)):
            if voice.part.speaker is None:
                raise DataError(
                    f"{voice.part.path}: nothing says who speaks here, and mixtures of different speakers are drawn by that; give a column `speaker` "
                    "(of a list of mixtures `speaker1`, `speaker2`), or switch dynamic mixing off"
                )
            self._voices[voice.part.speaker].append(voice)
        self.speakers = sorted(self._voices)

    @property
    def voices(self) -> list[Voice]:
        """All files: one of each speaker, then another one of each, and so on."""
        turns = zip_longest(*(self._voices[speaker] for speaker in self.speakers))
        return [voice for turn in turns for voice in turn if voice is not None]

    def draw(self, count: int, generator: np.random.Generator, first: Voice | None = None) -> tuple[Voice, ...]:
        """So many speakers, none twice, each as likely as it has files; a file of each; a window of the shortest's length; levels and speeds.

        first: the file of the first speaker, where it is not to be drawn.
        """
        left = [name for name in self.speakers if first is None or name != first.part.speaker]
        wanted = count - (first is not None)
        if len(left) < wanted:
            raise DataError(f"there are {len(self.speakers)} speakers, too few for mixtures of {count}")
        weights = [len(self._voices[name]) for name in left]
        shares = [weight / sum(weights) for weight in weights]
        chosen = [self._voices[left[place]] for place in generator.choice(len(left), wanted, replace=False, p=shares)]
        files = [files[int(generator.integers(len(files)))] for files in chosen]
        return self._played([*([] if first is None else [first]), *files], generator)

    def _played(self, voices: Sequence[Voice], generator: np.random.Generator) -> tuple[Voice, ...]:
        levels, reach = self.levels, self.levels.speed
        first = _clipped(generator.normal(levels.mean, levels.deviation))
        others = [_clipped(first + generator.normal(levels.offset, levels.offset_deviation)) for _ in voices[1:]]
        speeds = [float(generator.uniform(1 - reach, 1 + reach)) if reach else 1.0 for _ in voices]
        sizes = [int(voice.samples / speed) for voice, speed in zip(voices, speeds, strict=True)]
        return tuple(
            replace(
                voice,
                part=replace(voice.part, level=level, speed=speed, skip=int(generator.integers(size - min(sizes) + 1))),
            )
            for voice, level, speed, size in zip(voices, [first, *others], speeds, sizes, strict=True)
        )


def _clipped(level: float) -> float:
    return float(min(max(level, QUIETEST), LOUDEST))


def mixture_of(name: str, voices: Sequence[Voice], split: str | None = None) -> Utterance:
    """The utterance that is mixed from some files, and the genders of its speakers where all are known."""
    genders = "".join(voice.gender for voice in voices)
    labels = {"genders": genders} if len(genders) == len(voices) else {}
    parts = tuple(voice.part for voice in voices)
    return Utterance(name, parts[0].path, split=split, labels=labels, mixture=Mixture(parts))


def fixed_mixtures(pool: Pool, split: str, number: int, counts: Sequence[int], seed: int) -> list[Utterance]:
    """So many mixtures of a split, always the same ones, of as many speakers as `counts` say in turn; every file is the first source as often as any other."""
    import numpy as np

    made, firsts = [], pool.voices
    for index in range(number):
        generator = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
        first = firsts[index % len(firsts)]
        made.append(mixture_of(f"{split}-{index:05d}", pool.draw(counts[index % len(counts)], generator, first), split))
    return made
