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
from headwater.errors import DataError, UsageError
from headwater.nn.upstream import UpstreamSpec
from headwater.separation.foreign import Foreign, load_foreign
from headwater.separation.overlap import join
from headwater.separation.rescale import RULES
from headwater.separation.settings import Architecture
from headwater.train.corpora import load_corpus, measured, needed_splits, shared_speakers
from headwater.train.pieces import consecutive
from headwater.train.stream import Stream
from headwater.train.task import Batch, Draw, Item, Sounds, Specification, Task
from headwater.train.weight_file import WeightFile
from headwater.train.windows import Block, Windows

from .scoring import BREAKDOWNS, COUNTED, SDRI, SI_SDR, SI_SDRI, Scores, quality
from .settings import BLIND, SeparationConfig
from .systems import SYSTEMS, FilterSystem, System, alone

# Energy of what a stored mixture and the sum of its sources differ by, against its own: 16 bits differ by far less, another mixture by far more.
MISFIT = 1e-3
# A step of 16 bits: by so much each sample of each file may be off, which near silence is more than that share.
STEP = 2**-15


class Separation(Task):
    """SI-SDR improvement over the mixture, in the best order of speakers."""

    Config = SeparationConfig
    config: SeparationConfig
    system: System
    # Of the file of weights that the system starts from.
    weights_sha256: str | None = None
    _foreign: Foreign | None = None

    @property
    def trains(self) -> bool:
        """Whether there is anything to train; else dev and test are scored at once."""
        return self.config.system != "oracle" and (self.config.weights is None or self.config.fine_tune)

    @property
    def crop_seconds(self) -> float | None:  # type: ignore[override]
        return self.config.segment_seconds if self.config.segments == "random" and self.trains else None

    @property
    def draws(self) -> bool:  # type: ignore[override]
        return self.config.dynamic and self.trains

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
        again = hasattr(self, "spec")
        if self.config.weights is not None and not again:
            self._take(self.config.weights)
        corpus = load_corpus(self.data, demo_voices)
        # Where splits are made, all three are: what trains nothing is asked about the test of what trains.
        alone = again or (not self.trains and ("test" in corpus.splits() or self.data.splits == "whole"))
        needed = needed_splits(alone)
        if all(utterance.mixture is None for utterance in corpus.utterances):
            corpus = self._mixed(corpus, needed)
        corpus = corpus.with_utterances(self._as_asked(utterance) for utterance in corpus.utterances)
        data = measured(corpus, self.data, seed=self.seed, rate=self.config.rate, needed=needed)
        self.notes += [*data.notes, *shared_speakers(data), *quality(self.config)[1]]
        items = {
            split: [Item(utterance, samples, {"count": len(clean(utterance))}) for utterance, samples in part]
            for split, part in data.splits.items()
            if split != "train" or (self.trains and not again)
        }
        self.description = data.describe(self.data.path, self.config.rate, self.weights_sha256)
        self._specify([item.utterance for item in items["test"]])
        if self.draws and "train" in items:
            self._pool = Pool(self._voices(items["train"]), self.config.levels)
            self._noises = self._named_noises(items["train"])
        if self.config.segments == "consecutive" and "train" in items:
            sizes = (round(s * self.config.rate) for s in (self.config.segment_seconds, self.config.shortest_seconds))
            items["train"] = consecutive(items["train"], *sizes)
        return items

    def _take(self, path: str) -> None:
        """The network and the weights of a file: it says what the network is."""
        file = WeightFile.of(path)
        # Framed as ours are, so that all of a sound is separated.
        self._foreign = load_foreign(path, self.config.weights_settings, padding="cut")
        if (rate := self._foreign.sample_rate) not in (None, self.config.rate):
            raise UsageError(
                f"{path} is of sound at {rate} Hz, and task.rate is {self.config.rate}: -o task.rate={rate},,upstream.config.sample_rate={rate}"
            )
        if self._foreign.model.config.speakers < 2:
            raise UsageError(f"{path} gives one source, and of one speaker nothing can be separated")
        self.weights_sha256 = file.sha256
        self._adopt(self._foreign.model.config)
        self.notes += [f"Conv-TasNet of {self._foreign.project} with {file}", *self._foreign.notes]

    def _adopt(self, net: Architecture) -> None:
        self.config = self.config.model_copy(update={"net": net})

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

    def _named_noises(self, items: Sequence[Item]) -> list[Part]:
        """The noise of some mixtures, as each has it. Raises DataError where it is asked for and there is none."""
        mixtures = [item.utterance.mixture for item in items if item.utterance.mixture is not None]
        noises = dict.fromkeys(part for mixture in mixtures for part in mixture.parts if part.noise)
        if self.config.noise and not noises:
            raise DataError(
                f"{self.data.path}: task.noise=true, and no mixture of train names noise that could be drawn; name it in a column noise, "
                "or switch dynamic mixing off with -o task.dynamic=false"
            )
        return list(noises) if self.config.noise else []

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

    def draw(self, item: Item, draw: Draw) -> Item:
        generator, counts = draw.generator("mix"), self.config.drawn
        count = counts[int(generator.integers(len(counts)))]
        mixed = mixture_of(item.id, self._pool.draw(count, generator))
        if self._noises and mixed.mixture is not None:
            noise = self._noises[int(draw.generator("noise").integers(len(self._noises)))]
            mixed = replace(mixed, mixture=replace(mixed.mixture, parts=(*mixed.mixture.parts, noise)))
        return Item(self._as_asked(mixed), item.num_samples, {"count": count})

    def sounds(self, item: Item, wav: Tensor, parts: Tensor | None) -> Sounds:
        if parts is None:
            return Sounds({"mixture": wav})
        mixture = item.utterance.mixture
        assert mixture is not None
        where = mixture.where or item.id
        # Mixtures that are drawn are made of windows of files. In training such a window may be silent, as a piece of a listed mixture may be.
        drawn = mixture.where is None
        trained = drawn and item.utterance.split in (None, "train")
        for part, sound in zip(mixture.parts, parts, strict=True):
            # All measures are of what is left without the mean.
            if mixture.whole and not trained and not part.noise and bool((sound == sound[0]).all()):
                place = f" from {part.skip / self.config.rate:.3f} s on, for {len(sound) / self.config.rate:.3f} s"
                raise DataError(
                    f"{where}: {part.path} is {'constant' if bool(sound.any()) else 'silent'}{place * drawn}, and nothing can be separated from silence; "
                    + ("trim or remove the file" if drawn else "remove the mixture")
                )
        noisy = self.config.noise and not any(part.noise for part in mixture.parts)
        if mixture.stored and not noisy:
            off, loud = (float(one.double().square().sum()) for one in (wav - total(parts), wav))
            if off > MISFIT * loud + len(wav) * ((len(parts) + 1) * STEP) ** 2:
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
            measures=(SI_SDRI, SI_SDR, *counted, SDRI, *quality(self.config)[0]),
            dev_measures=(SI_SDRI, SI_SDR, *counted),
            sample_rate=self.config.rate,
            breakdowns=tuple(one for one in BREAKDOWNS if known or one.key != "genders") if test else (),
        )

    def state(self) -> dict[str, Any]:
        # A finished run does without the file, which alone says what its network is.
        if self.config.weights is None:
            return {}
        return {"net": self.config.net.model_dump(), "weights_sha256": self.weights_sha256}

    def restore(self, state: Mapping[str, Any]) -> None:
        if self.config.weights is not None:
            self._adopt(Architecture.model_validate(state["net"]))
            self.weights_sha256 = state["weights_sha256"]
        self._specify([])

    def score(self, split: str) -> Scores:
        return Scores(self.config, self.system, self.spec.measures_of(split), test=split != "dev")

    # the system

    def head(self, upstream: UpstreamSpec) -> nn.Module:
        # Losses and estimates are functions of settings and outputs alone, so that of one system serves all of a grid.
        self.system = SYSTEMS[self.config.system](self.config, upstream)
        if self._foreign is not None:
            assert isinstance(self.system, FilterSystem)
            self.system.net.load_state_dict(self._foreign.model.state_dict())
        return self.system.requires_grad_(self.trains)

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
        # How many there are is an answer only where it is asked.
        counts = [{"speakers": len(sources)} if self.config.sources is None else {} for sources in found]
        return [
            {"id": item.id, **count, "source": [Signal(wav, rate) for wav in sources]}
            for item, count, sources in zip(batch.items, counts, found, strict=True)
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
