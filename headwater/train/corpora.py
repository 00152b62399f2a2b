"""From `data` settings to measured utterances by split: what every task starts with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from headwater.audio import read
from headwater.config import DataConfig
from headwater.data.corpus import Corpus, Utterance, drop_small_speakers
from headwater.data.features import is_features, read_features
from headwater.data.measure import audio_sha256, measure
from headwater.data.mixtures import compose, total
from headwater.data.readers import read_corpus
from headwater.data.splits import ensure_splits
from headwater.data.text import some
from headwater.errors import DataError, nearest
from headwater.identity import fingerprint


@dataclass(frozen=True)
class Measured:
    """Utterances with their lengths in samples at the task's rate, by split, and what a result says of the data."""

    corpus: Corpus
    splits: Mapping[str, list[tuple[Utterance, int]]]
    skipped: list[dict[str, str]]
    notes: list[str] = field(default_factory=list)
    audio_sha256: str = ""

    def describe(self, path: str | None, rate: int, extra: Any = None) -> dict[str, Any]:
        """The `data` part of `result.json`. `extra` (labels, trials) enters the hash."""
        lengths = sorted((utterance.id, samples) for part in self.splits.values() for utterance, samples in part)
        return {
            "name": self.corpus.name,
            "reader": self.corpus.reader,
            "path": path,
            "sha256": fingerprint(self.corpus.sha256(), self.audio_sha256, lengths, extra),
            "splits": {
                name: {
                    "utterances": len(part),
                    "seconds": round(sum(samples for _, samples in part) / rate, 2),
                    "speakers": len({speaker for utterance, _ in part for speaker in utterance.speakers}) or None,
                }
                for name, part in self.splits.items()
            },
            "skipped": self.skipped,
        }


def load_corpus(data: DataConfig, demo: Callable[[], Corpus]) -> Corpus:
    """The corpus that the settings name; the demo corpus without a path."""
    if data.path is None:
        corpus = demo()
        corpus = corpus.with_utterances(
            corpus.utterances,
            "no --data: this is the demo, synthetic speech; its numbers say nothing about human speech",
        )
        return only(corpus, data.where)
    corpus = read_corpus(
        data.path,
        root=data.root,
        reader=data.reader,
        splits="make" if data.splits == "make" else "auto",
        train_list=data.train_list,
        dev_list=data.dev_list,
        test_list=data.test_list,
        split_file=data.split_file,
    )
    return only(corpus, data.where)


def read_utterance(utterance: Utterance, data: DataConfig, rate: int) -> Tensor:
    """Its waveform (samples,) at `rate`, or its precomputed features (T, D). `DataError` names what is broken, and how to go on without it."""
    return Reader(data, rate)(utterance)


class Reader:
    """Utterances as they are heard at `rate`. memory: bytes of files that are kept in memory; called from several threads.

    Raises `DataError`, which names what is broken, and how to go on without it.
    """

    def __init__(self, data: DataConfig, rate: int, memory: float = 0.0) -> None:
        self.data, self.rate, self._left = data, rate, memory
        self._held: dict[tuple[Any, ...], Tensor] = {}

    def __call__(self, utterance: Utterance) -> Tensor:
        """Its waveform (samples,) float32, or its precomputed features (T, D)."""
        mixture = utterance.mixture
        if mixture is None:
            return self._file(utterance)
        return self._file(utterance)[mixture.first : mixture.last] if mixture.stored else total(self.parts(utterance))

    def parts(self, utterance: Utterance) -> Tensor:
        """The parts (C, samples) of a mixture, as they lie in it."""
        assert utterance.mixture is not None
        wavs = [self._file(source) for source in utterance.sources]
        try:
            return compose(wavs, utterance.mixture, self.rate)
        except DataError as error:
            raise DataError(f"{utterance.mixture.where or utterance.id}: {error}") from None

    def both(self, utterance: Utterance) -> tuple[Tensor, Tensor | None]:
        """The waveform, and the parts of a mixture that has some."""
        mixture = utterance.mixture
        if mixture is None or not mixture.parts:
            return self(utterance), None
        parts = self.parts(utterance)
        return self(utterance) if mixture.stored else total(parts), parts

    def _file(self, utterance: Utterance) -> Tensor:
        name = (utterance.path, utterance.start, utterance.end)
        if (held := self._held.get(name)) is not None:
            return held
        wav = _read_file(utterance, self.data, self.rate)
        if wav.nbytes <= self._left:
            self._left -= wav.nbytes
            self._held[name] = wav
        return wav


def _read_file(utterance: Utterance, data: DataConfig, rate: int) -> Tensor:
    if is_features(utterance.path):
        if utterance.mixture is not None:
            raise DataError(
                f"{utterance.path} holds features, which are read as a whole: {utterance.id} is a piece of sound"
            )
        return read_features(utterance.path)
    try:
        return read(
            utterance.path,
            start=utterance.start,
            end=utterance.end,
            sample_rate=rate,
            resample=data.resample,
            channel=data.channel,
        )
    except DataError as error:
        raise DataError(f"{error}\nLeave such files out with --skip-bad-audio.") from None


def only(corpus: Corpus, where: Mapping[str, str]) -> Corpus:
    """The utterances whose columns say what `where` says. `DataError` where there is no such column or no such row."""
    for column, value in where.items():
        found = Counter(utterance.labels.get(column) for utterance in corpus.utterances)
        if set(found) <= {None}:
            columns = sorted({name for utterance in corpus.utterances for name in utterance.labels})
            raise DataError(f"data.where: {corpus.name} has no column {column!r}.{nearest(column, columns)}")
        if value not in found:
            raise DataError(
                f"data.where: no row of {corpus.name} says {value!r} in the column {column!r}; there are {some(sorted(map(str, found)))}"
            )
        kept = [utterance for utterance in corpus.utterances if utterance.labels.get(column) == value]
        corpus = corpus.with_utterances(
            kept, f"{len(kept)} of {len(corpus.utterances)} utterances say {value} in the column {column}"
        )
    return corpus


def needed_splits(alone: bool) -> tuple[str, ...]:
    """What a task needs: the test alone where a finished run is scored again or nothing is trained, else train and dev, too."""
    return ("test",) if alone else ("train", "dev", "test")


def measured(
    corpus: Corpus,
    data: DataConfig,
    *,
    seed: int,
    rate: int,
    needed: tuple[str, ...],
    by: Literal["utterance", "speaker"] = "utterance",
) -> Measured:
    """Splits (made where the corpus has none), limits, and lengths from the headers.

    needed: splits that must not be empty; DataError says what is missing. by: made splits share no "utterance" or no "speaker".
    """
    corpus = drop_small_speakers(corpus, data.min_utterances)
    if data.splits == "whole" and not corpus.splits():
        everything = [replace(utterance, split="test") for utterance in corpus.utterances]
        corpus = corpus.with_utterances(everything, "the corpus states no splits: all of it is scored")
    if set(needed) - set(corpus.splits()):
        corpus = ensure_splits(corpus, seed, by=by)
    missing = [name for name in needed if not corpus.split(name)]
    if missing:
        raise DataError(
            f"{data.path or corpus.name}: the split {missing[0]!r} has no utterances; this task needs {', '.join(needed)}"
        )
    parts = {name: spread(corpus.split(name), data.limit) for name in corpus.splits()}
    chosen = [utterance for part in parts.values() for utterance in part]
    good, samples, skipped = measure(
        chosen, sample_rate=rate, resample=data.resample, channel=data.channel, skip_bad=data.skip_bad_audio
    )
    lengths = {utterance.id: int(count) for utterance, count in zip(good, samples, strict=True)}
    splits = {
        name: [(utterance, lengths[utterance.id]) for utterance in part if utterance.id in lengths]
        for name, part in parts.items()
    }
    for name in needed:
        if not splits[name]:
            raise DataError(f"{data.path or corpus.name}: no readable utterance is left in the split {name!r}")
    notes = list(corpus.notes)
    if skipped:
        notes.append(f"{len(skipped)} broken file(s) skipped: {', '.join(str(path) for _, path, _ in skipped[:5])}")
    if data.limit is not None:
        notes.append(f"limited to {data.limit} utterances of each split: for trying out, not for reporting")
    return Measured(
        corpus,
        splits,
        [{"id": name, "path": str(path), "reason": reason} for name, path, reason in skipped],
        notes,
        audio_sha256(good),
    )


def shared_speakers(data: Measured) -> list[str]:
    """Notes on speakers that are in two splits: their voices are no new ones."""
    speakers = {
        split: {speaker for utterance, _ in part for speaker in utterance.speakers}
        for split, part in data.splits.items()
    }
    pairs = (("train", "dev"), ("train", "test"), ("dev", "test"))
    both = {(one, two): sorted(speakers.get(one, set()) & speakers.get(two, set())) for one, two in pairs}
    return [
        f"{len(shared)} speakers are in {one} and in {two}: {some(shared, 3)}"
        for (one, two), shared in both.items()
        if shared
    ]


def spread(utterances: Sequence[Utterance], limit: int | None) -> list[Utterance]:
    """At most `limit` utterances: the first of every speaker, then the second of every one, and so on. All of them without a limit."""
    if limit is None:
        return list(utterances)
    turns: Counter[str | None] = Counter()
    ranked = []
    for utterance in utterances:
        ranked.append((turns[utterance.speaker], utterance))
        turns[utterance.speaker] += 1
    return [utterance for _, utterance in sorted(ranked, key=lambda pair: pair[0])][:limit]
