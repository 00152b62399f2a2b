"""What every reader returns: utterances, and the corpus they make up."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from headwater.data.mixtures import Mixture
from headwater.errors import DataError

SPLITS = ("train", "dev", "test")
_SPLIT_WORDS = {"train": "train", "dev": "dev", "test": "test", "valid": "dev", "val": "dev", "validation": "dev"}


@dataclass(frozen=True)
class Utterance:
    """One stretch of speech: a file, or the part of it from `start` to `end` (seconds). `labels` holds the further
    columns of a list. Of a `mixture`, `path` is the mixed file where there is one, else that of the first part."""

    id: str
    path: Path
    start: float | None = None
    end: float | None = None
    split: str | None = None
    speaker: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    mixture: Mixture | None = None

    @property
    def heard(self) -> tuple[Utterance, ...]:
        """The files that its sound is read from: itself, or the parts that it is mixed from."""
        return (self,) if self.mixture is None or self.mixture.stored else self.sources

    @property
    def sources(self) -> tuple[Utterance, ...]:
        """The parts of its mixture; none without one."""
        parts = self.mixture.parts if self.mixture is not None else ()
        return tuple(Utterance(self.id, part.path, part.start, part.end, self.split, part.speaker) for part in parts)

    @property
    def files(self) -> tuple[Utterance, ...]:
        """All that is read for training and scoring: what is heard, and the parts of a stored mixture."""
        return (self, *self.sources) if self.mixture is None or self.mixture.stored else self.sources

    @property
    def speakers(self) -> tuple[str, ...]:
        """Who is heard, as far as known."""
        return tuple(one.speaker for one in (self, *self.sources) if one.speaker is not None)


@dataclass(frozen=True)
class Corpus:
    """Utterances with unique ids. `notes` are sentences for the user: how the corpus was read, and what was left out or
    made up."""

    name: str
    reader: str
    root: Path
    utterances: tuple[Utterance, ...]
    notes: tuple[str, ...] = ()

    def split(self, name: str) -> tuple[Utterance, ...]:
        """The utterances of one split, in the order of the corpus. Empty when there are none."""
        return tuple(utterance for utterance in self.utterances if utterance.split == name)

    def splits(self) -> tuple[str, ...]:
        """The splits that occur, in the order train, dev, test."""
        present = {utterance.split for utterance in self.utterances}
        return tuple(split for split in SPLITS if split in present)

    def speakers(self) -> tuple[str, ...]:
        """All speakers, sorted as strings."""
        return tuple(sorted({utterance.speaker for utterance in self.utterances if utterance.speaker is not None}))

    def sha256(self) -> str:
        """A hash of ids, paths below the root, times, splits, speakers and labels; neither the order of the list nor
        the place of the corpus changes it."""
        digest = hashlib.sha256()
        for utterance in sorted(self.utterances, key=lambda utterance: utterance.id):
            path = relative(utterance.path, self.root)
            row: list[object] = [
                utterance.id,
                path,
                utterance.start,
                utterance.end,
                utterance.split,
                utterance.speaker,
                dict(utterance.labels),
            ]
            if utterance.mixture is not None:
                names = [relative(part.path, self.root) for part in utterance.mixture.parts]
                row.append(utterance.mixture.described(names))
            digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()

    def with_utterances(self, utterances: Iterable[Utterance], *notes: str) -> Corpus:
        """The same corpus with other utterances and further notes."""
        return replace(self, utterances=tuple(utterances), notes=(*self.notes, *notes))


def relative(path: Path, root: Path) -> str:
    """`path` below `root` with forward slashes; unchanged when it lies elsewhere."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return path.as_posix()


def split_name(word: str) -> str | None:
    """train, dev or test for any of the usual words (`valid`, `val` and `validation` are dev), None for another
    word."""
    return _SPLIT_WORDS.get(word.strip().lower())


def check_unique(utterances: Sequence[Utterance], places: Sequence[str], advice: str) -> None:
    """Refuses two utterances of one id. `places[i]` says where utterance i comes from (a line, a file).

    Raises
    ------
    DataError: names the id, both places and what to do.
    """
    first: dict[str, int] = {}
    for number, utterance in enumerate(utterances):
        earlier = first.setdefault(utterance.id, number)
        if earlier != number:
            raise DataError(
                f"two utterances have the id {utterance.id!r}: {places[earlier]} and {places[number]}; {advice}"
            )


def drop_small_speakers(corpus: Corpus, minimum: int) -> Corpus:
    """The corpus without the speakers who have fewer than `minimum` utterances; a note says how many went.

    Raises
    ------
    DataError: nobody is left, or no utterance has a speaker.
    """
    if minimum <= 1:
        return corpus
    counts = Counter(utterance.speaker for utterance in corpus.utterances)
    if set(counts) == {None}:
        raise DataError(
            f"{corpus.name}: no utterance has a speaker, so min_utterances={minimum} has no meaning here; remove -o data.min_utterances"
        )
    small = {speaker for speaker, count in counts.items() if speaker is not None and count < minimum}
    if not small:
        return corpus
    kept = [utterance for utterance in corpus.utterances if utterance.speaker not in small]
    if not kept:
        raise DataError(
            f"{corpus.name}: all {len(small)} speakers have fewer than {minimum} utterances; lower -o data.min_utterances"
        )
    lost = len(corpus.utterances) - len(kept)
    note = f"{len(small)} of {len(corpus.speakers())} speakers have fewer than {minimum} utterances"
    return corpus.with_utterances(kept, f"{note}; these {lost} utterances are left out")
