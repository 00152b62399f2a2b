"""Separation: who says what, where several speak at once? Masks on any upstream, Conv-TasNet on the waveform, and systems between and beyond."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from headwater.audio.write import Signal
from headwater.data.corpus import Corpus, Utterance
from headwater.data.demo_mixtures import demo_voices
from headwater.data.dynamic import Pool, Voice, fixed_mixtures, mixture_of, voice_of
from headwater.data.measure import measure
from headwater.data.mixtures import Part, total
from headwater.data.splits import ensure_splits
from headwater.data.text import some
from headwater.errors import DataError
from headwater.nn.upstream import UpstreamSpec
from headwater.separation.overlap import join
from headwater.separation.quality import INSTALL
from headwater.separation.rescale import RULES
from headwater.train.corpora import load_corpus, measured
from headwater.train.pieces import consecutive
from headwater.train.stream import Stream
from headwater.train.task import Batch, Draw, Item, Sounds, Specification, Task
from headwater.train.windows import Block, Windows

from .scoring import (
    BREAKDOWNS,
    COUNTED,
    SDRI,
    SI_SDR,
    SI_SDRI,
    Scores,
    missing_packages,
    quality_measures,
)
from .settings import BLIND, SeparationConfig
from .systems import SYSTEMS, System, alone

# Energy of what a stored mixture and the sum of its sources differ by, against its own: 16 bits differ by far less, another mixture by far more.
MISFIT = 1e-3


class Separation(Task):
    """SI-SDR improvement over the mixture, in the best order of speakers."""

    Config = SeparationConfig
    config: SeparationConfig
    system: System

    @property
    def crop_seconds(self) -> float | None:  # type: ignore[override]
        return self.config.segment_seconds if self.config.segments == "random" else None

    @property
    def draws(self) -> bool:  # type: ignore[override]
        return self.config.dynamic

    @property
    def windows(self) -> Windows | None:  # type: ignore[override]
        # How many speakers one-and-rest finds may differ from window to window.
        seconds = self.config.window_seconds
        return None if self.config.sources is None else Windows(seconds, seconds / 2, self.config.rate)

    @property
    def unpredictable(self) -> str | None:  # type: ignore[override]
        if self.config.system != "oracle":
            return None
        return "an oracle is told the sources, so it cannot separate files of which only the mixture is known"

    # data

    def corpora(self) -> dict[str, list[Item]]:
        needed = ("test",) if hasattr(self, "spec") or self.config.system == "oracle" else ("train", "dev", "test")
        corpus = load_corpus(self.data, demo_voices)
        if all(utterance.mixture is None for utterance in corpus.utterances):
            corpus = self._mixed(corpus, needed)
        corpus = corpus.with_utterances(self._as_asked(utterance) for utterance in corpus.utterances)
        data = measured(corpus, self.data, seed=self.seed, rate=self.config.rate, needed=needed)
        self.notes += [*data.notes, *_shared_speakers(data.splits), *self._lacking()]
        items = {
            split: [Item(utterance, samples, {"count": len(clean(utterance))}) for utterance, samples in part]
            for split, part in data.splits.items()
            if split != "train" or "train" in needed
        }
        self.description = data.describe(self.data.path, self.config.rate)
        self._specify([item.utterance for item in items["test"]])
        if self.draws and "train" in items:
            self._pool = Pool(self._voices(items["train"]), self.config.levels)
        if self.config.segments == "consecutive" and "train" in items:
            sizes = (round(s * self.config.rate) for s in (self.config.segment_seconds, self.config.shortest_seconds))
            items["train"] = consecutive(items["train"], *sizes)
        return items

    def _mixed(self, corpus: Corpus, needed: Sequence[str]) -> Corpus:
        """Mixtures of a corpus of single speakers, always the same ones; splits share no speaker."""
        if set(needed) == {"test"} and not corpus.splits():
            corpus = corpus.with_utterances(replace(one, split="test") for one in corpus.utterances)
        elif _overlap(corpus) or set(needed) - set(corpus.splits()):
            unsplit = (replace(one, split=None) for one in corpus.utterances) if _overlap(corpus) else corpus.utterances
            corpus = ensure_splits(corpus.with_utterances(unsplit), self.seed, by="speaker")
        made, said = list[Utterance](), []
        for split in corpus.splits():
            pool = Pool(self._measured(corpus.split(split)), self.config.levels)
            number = len(pool.voices) if split == "train" else self.config.mixtures
            made += fixed_mixtures(pool, split, number, self.config.drawn, self.seed)
            said.append(f"{split} {number} of {len(pool.voices)} files by {len(pool.speakers)} speakers")
        return corpus.with_utterances(made, f"mixtures are made when they are read: {', '.join(said)}")

    def _measured(self, utterances: Sequence[Utterance]) -> list[Voice]:
        good, samples, _ = measure(
            utterances,
            sample_rate=self.config.rate,
            resample=self.data.resample,
            channel=self.data.channel,
            skip_bad=self.data.skip_bad_audio,
        )
        return [voice_of(utterance, int(count)) for utterance, count in zip(good, samples, strict=True)]

    def _voices(self, items: Sequence[Item]) -> list[Voice]:
        """What the sources of some mixtures say, each file once."""
        parts = dict.fromkeys(
            Part(part.path, start=part.start, end=part.end, speaker=part.speaker)
            for item in items
            for part in clean(item.utterance)
        )
        return self._measured(
            [
                Utterance(str(number), part.path, part.start, part.end, speaker=part.speaker)
                for number, part in enumerate(parts)
            ]
        )

    def _as_asked(self, utterance: Utterance) -> Utterance:
        """With or without noise, cut or padded. Raises DataError for more or fewer sources than the system separates."""
        mixture, wanted = utterance.mixture, self.config.sources
        if mixture is None:
            raise DataError(f"{utterance.path} is no mixture, and other rows of this data are: keep them apart")
        count = len(clean(utterance))
        if wanted is not None and count != wanted:
            group = "superb" if self.config.system == "superb" else "net"
            raise DataError(
                f"{mixture.where or utterance.id}: {count} sources, and this system separates {wanted}: "
                f"-o task.{group}.speakers={count} for a system of as many, or -d separation_one_and_rest for any number"
            )
        if mixture.stored:
            return utterance
        parts = tuple(part for part in mixture.parts if self.config.noise or not part.noise)
        asked = replace(mixture, parts=parts, length="shortest" if self.config.length == "min" else "longest")
        return replace(utterance, mixture=asked)

    def _lacking(self) -> list[str]:
        missing = missing_packages(self.config)
        return [f"tests have no {' and no '.join(missing)} scores: {INSTALL} brings what measures them"] * bool(missing)

    def draw(self, item: Item, draw: Draw) -> Item:
        generator, counts = draw.generator("mix"), self.config.drawn
        count = counts[int(generator.integers(len(counts)))]
        mixed = self._as_asked(mixture_of(item.id, self._pool.draw(count, generator)))
        return Item(mixed, item.num_samples, {"count": count})

    def sounds(self, item: Item, wav: Tensor, parts: Tensor | None) -> Sounds:
        if parts is None:
            return Sounds({"mixture": wav})
        mixture = item.utterance.mixture
        assert mixture is not None
        where = mixture.where or item.id
        for part, sound in zip(mixture.parts, parts, strict=True):
            # A piece of a mixture may be silent; a whole file is not.
            if mixture.whole and not bool(sound.any()):
                raise DataError(
                    f"{where}: {part.path} is silent, and nothing can be separated from silence; remove the mixture"
                )
        noisy = self.config.noise and not any(part.noise for part in mixture.parts)
        if mixture.stored and not noisy:
            off, loud = (float(one.double().square().sum()) for one in (wav - total(parts), wav))
            if off > MISFIT * loud:
                raise DataError(
                    f"{where}: {item.utterance.path} is not the sum of its sources (scaled, shifted or of others?). Where it holds noise besides, "
                    "name it in a column noise, or say -o task.noise=true"
                )
        sources = parts[[not part.noise for part in mixture.parts]]
        told = {"sources": sources} if self.config.system == "oracle" else {}
        return Sounds({"mixture": wav, **told}, {"sources": sources})

    # measures

    def _specify(self, test: Sequence[Utterance]) -> None:
        known = any(utterance.labels.get("genders") for utterance in test)
        counted = (COUNTED,) if self.config.system == "one_and_rest" else ()
        self.spec = Specification(
            level="signal",
            labels="sources",
            measures=(SI_SDRI, SI_SDR, *counted, SDRI, *quality_measures(self.config)),
            dev_measures=(SI_SDRI, SI_SDR, *counted),
            sample_rate=self.config.rate,
            breakdowns=tuple(one for one in BREAKDOWNS if known or one.key != "genders") if test else (),
        )

    def restore(self, state: Mapping[str, Any]) -> None:
        self._specify([])

    def score(self, split: str) -> Scores:
        return Scores(self.config, self.system, self.spec.measures_of(split), test=split != "dev")

    # the system

    def head(self, upstream: UpstreamSpec) -> nn.Module:
        # Losses and estimates are functions of settings and outputs alone, so that of one system serves all of a grid.
        self.system = SYSTEMS[self.config.system](self.config, upstream)
        return self.system

    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        losses, counts = self.system.losses(output, batch)
        return torch.where(counts, losses, torch.zeros_like(losses)).sum(), counts.sum()

    def predict(self, output: Any, batch: Batch) -> list[dict[str, Any]]:
        rule, rate = RULES[self.config.rescale], self.config.rate
        found = [
            rule(estimates, wav)
            for estimates, wav in zip(
                self.system.estimates(output, batch), alone(batch.inputs["mixture"], batch), strict=True
            )
        ]
        return [
            {"id": item.id, "speakers": len(sources), "source": [Signal(wav, rate) for wav in sources]}
            for item, sources in zip(batch.items, found, strict=True)
        ]

    def join(self, blocks: Iterator[Block], windows: Windows) -> Iterator[Mapping[str, Tensor]]:
        names: list[str] = []

        def separated() -> Iterator[tuple[int, Tensor]]:
            for block in blocks:
                names[:] = block.signals
                yield block.first, torch.stack(list(block.signals.values())).cpu()

        for stretch in join(separated()):
            yield dict(zip(names, stretch, strict=True))

    def stream(self, head: nn.Module) -> Stream:
        assert isinstance(head, System)
        if self.config.rescale != "unchanged":
            self.notes.append(
                f"levels are the network's own: {self.config.rescale} needs the whole sound"
                + f", and the loss {self.config.loss} left them open" * (self.config.loss in BLIND)
            )
        return head.stream()


def clean(utterance: Utterance) -> list[Part]:
    """The sources of a mixture, without noise."""
    return [part for part in utterance.mixture.parts if not part.noise] if utterance.mixture is not None else []


def _overlap(corpus: Corpus) -> bool:
    """Whether splits share a speaker."""
    speakers = [{one.speaker for one in corpus.split(split)} for split in corpus.splits()]
    return any(one & other for one, other in combinations(speakers, 2))


def _shared_speakers(splits: Mapping[str, Sequence[tuple[Utterance, int]]]) -> list[str]:
    """Speakers that are in two splits: their voices are no new ones."""
    speakers = {split: {name for utterance, _ in part for name in utterance.speakers} for split, part in splits.items()}
    return [
        f"{len(shared)} speakers are in {one} and in {other}: {some(sorted(shared), 3)}"
        for one, other in combinations(speakers, 2)
        if (shared := speakers[one] & speakers[other])
    ]
