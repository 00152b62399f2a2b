"""Utterances that are mixed from several files when they are read: nothing of them lies on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from headwater.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

RULES = 1  # of `compose`: another number where the same mixture would come out otherwise


@dataclass(frozen=True)
class Part:
    """One sound of a mixture: a file, or the part of it from `start` to `end` (seconds).

    It is played `speed` times as fast (pitch and all), brought to `level` (the RMS of all of it, in dB of full scale) where one is given, then times `gain`.
    Of what is played then, its first `skip` samples at the task's rate are left out. `noise` is no source: the mixture is as long as its sources are, and noise
    that is shorter begins anew.
    """

    path: Path
    gain: float = 1.0
    start: float | None = None
    end: float | None = None
    level: float | None = None
    speed: float = 1.0
    speaker: str | None = None
    skip: int = 0
    noise: bool = False

    def described(self, name: str) -> list[Any]:
        """All that decides how it sounds, `name` standing for the file."""
        rest = [{"skip": self.skip}] * (self.skip > 0) + [{"noise": True}] * self.noise
        return [name, self.gain, self.start, self.end, self.level, self.speed, *rest]


@dataclass(frozen=True)
class Mixture:
    """What an utterance is mixed from: the sum of its parts, which begin together, cut to the shortest or padded to the longest.

    first, last: the piece of it that is meant, in samples at the task's rate; all of it when not given.
    stored: the utterance's own file is the mix, and the parts, if any, are what it was made of (with noise or without), each exactly as long.
    where: FILE:LINE of the list that says it, for errors.
    """

    parts: tuple[Part, ...]
    length: Literal["shortest", "longest"] = "shortest"
    first: int = 0
    last: int | None = None
    stored: bool = False
    where: str | None = None

    @property
    def whole(self) -> bool:
        """Whether all of it is meant."""
        return self.first == 0 and self.last is None

    def described(self, names: Sequence[str]) -> list[Any]:
        """All that decides how it sounds, `names` standing for the files of its parts."""
        parts = [part.described(name) for part, name in zip(self.parts, names, strict=True)]
        return [RULES, parts, self.length, self.first, self.last, self.stored]

    def samples(self, sizes: Sequence[int]) -> int:
        """Its length for parts whose files give so many samples each.

        Raises DataError for a stored mix of parts of unequal length, and for a piece outside the mixture.
        """
        played = [_played(size, part) for size, part in zip(sizes, self.parts, strict=True)]
        if self.stored and len({*played}) > 1:
            raise DataError(f"its sources are of unequal length: {', '.join(map(str, played))} samples")
        sources = [size for size, part in zip(played, self.parts, strict=True) if not part.noise]
        return self.piece(max(sources) if self.length == "longest" else min(sources))

    def piece(self, whole: int) -> int:
        """The length of its piece where all of it has so many samples. Raises DataError for a piece outside it."""
        last = whole if self.last is None else self.last
        if not 0 <= self.first < last <= whole:
            raise DataError(f"the piece from sample {self.first} to {last} is empty or outside its {whole} samples")
        return last - self.first


def compose(wavs: Sequence[Tensor], mixture: Mixture, rate: int) -> Tensor:
    """The parts (C, samples) as they lie in the mixture, whose sum it is. wavs: what is read of their files, (samples,) float32 at `rate`.

    Raises DataError as `Mixture.samples` does.
    """
    size = mixture.samples([len(wav) for wav in wavs])
    made = wavs[0].new_zeros(len(wavs), size)
    for row, wav, part in zip(made, wavs, mixture.parts, strict=True):
        sound = _sounding(wav, part, rate)
        if part.noise:
            sound = sound.repeat(-(-(mixture.first + size) // len(sound)))
        piece = sound[mixture.first : mixture.first + size]
        row[: len(piece)] = piece
    return made


def total(parts: Tensor) -> Tensor:
    """The mixture (samples,) of parts (C, samples), added up in their order: its bits depend on no number of threads."""
    mixed = parts[0].clone()
    for part in parts[1:]:
        mixed += part
    return mixed


def pieces(samples: int, size: int, shortest: int = 1) -> list[tuple[int, int]]:
    """Consecutive pieces (first, last) of `size` samples that lose none: the last one ends with the sound.

    A rest below `shortest` samples is given to a piece that starts earlier and overlaps the one before; a longer one is a shorter piece of its own. What is
    not longer than `size` is one piece.

    >>> pieces(10, 4), pieces(9, 4, shortest=2), pieces(3, 4)
    ([(0, 4), (4, 8), (8, 10)], [(0, 4), (4, 8), (5, 9)], [(0, 3)])
    """
    cuts = [(first, min(first + size, samples)) for first in range(0, samples, size)]
    if len(cuts) > 1 and cuts[-1][1] - cuts[-1][0] < shortest:
        cuts[-1] = (samples - size, samples)
    return cuts


def _played(size: int, part: Part) -> int:
    """Samples of a part once its speed is changed, without those that are left out: soxr rounds the resampled length, halves upwards."""
    return _fast(size, part) - part.skip


def _fast(size: int, part: Part) -> int:
    return size if part.speed == 1.0 else int(size / part.speed + 0.5)


def _sounding(wav: Tensor, part: Part, rate: int) -> Tensor:
    import numpy as np
    import torch

    if part.speed != 1.0:
        import soxr

        played = soxr.resample(wav.numpy(), rate * part.speed, rate, quality="VHQ")
        fitted = np.zeros(_fast(len(wav), part), dtype=np.float32)
        fitted[: len(played)] = played[: len(fitted)]
        wav = torch.from_numpy(fitted)
    factor = part.gain
    if part.level is not None:
        # numpy adds in an order of its own whatever the threads; silence stays silence.
        power = float(np.mean(np.square(wav.numpy(), dtype=np.float64)))
        factor *= 10 ** (part.level / 20) / power**0.5 if power > 0 else 1.0
    wav = wav[part.skip :]
    return wav * factor if factor != 1.0 else wav
