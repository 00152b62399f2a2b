"""What all systems share: utterances that are their own labels, and waveforms that are measured against them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from headwater.audio.write import Signal
from headwater.config import Section
from headwater.nn.upstream import UpstreamSpec
from headwater.train.corpora import load_corpus, measured, shared_speakers
from headwater.train.task import Accumulator, Batch, Item, Sounds, Specification, Task

from .scoring import RATE, Resyntheses, available

SOUND = "sound"
_FEW_SPEAKERS = 3  # up to so many, new speakers would leave too little to train on


class ResynthesisConfig(Section):
    """crop_seconds: the longest piece that training sees."""

    crop_seconds: float | None = Field(None, gt=0)


class Resynthesis(Task):
    """Base of the vocoders: the head's output is a waveform (B, samples) at 16 kHz, or has one (`waveform`)."""

    Config = ResynthesisConfig
    config: Any
    # Of the file of weights that is scored as it stands: a run is of what it held, too, not only of its name.
    weights_sha256: str | None = None

    @property
    def crop_seconds(self) -> float | None:  # type: ignore[override]
        return self.config.crop_seconds  # type: ignore[no-any-return]

    @property
    def trains(self) -> bool:
        """Whether there is anything to train; else the tests are scored at once."""
        return True

    def corpora(self) -> dict[str, list[Item]]:
        from headwater.data.demo import demo_corpus

        trained = hasattr(self, "spec")
        corpus = load_corpus(self.data, demo_corpus)
        # Systems without training are asked about the same test.
        needed = ("test",) if trained else ("train", "dev", "test")
        by: Literal["speaker", "utterance"] = "speaker" if len(corpus.speakers()) > _FEW_SPEAKERS else "utterance"
        data = measured(corpus, self.data, seed=self.seed, rate=RATE, needed=needed, by=by)
        self.notes += [*data.notes, *shared_speakers(data), *available()[1]]
        self.description = data.describe(self.data.path, RATE, self.weights_sha256)
        self.restore(self.state())
        parts = {split: [Item(one, size) for one, size in part] for split, part in data.splits.items()}
        return {split: part for split, part in parts.items() if self.trains or split not in ("train", "dev")}

    def restore(self, state: Mapping[str, Any]) -> None:
        measures = available()[0]
        self.spec = Specification("signal", "the waveform", measures, dev_measures=measures[:1], sample_rate=RATE)

    def sounds(self, item: Item, wav: Tensor, parts: Tensor | None) -> Sounds:
        return Sounds(labels={SOUND: wav})

    def waveform(self, output: Any) -> Tensor:
        """(B, samples), zero beyond each utterance."""
        return output  # type: ignore[no-any-return]

    def score(self, split: str) -> Accumulator:
        return Resyntheses(self.spec.measures_of(split), self.waveform, SOUND)

    def predict(self, output: Any, batch: Batch) -> list[dict[str, Any]]:
        return [
            {"id": item.id, "resynthesis": Signal(wav[:size], RATE)}
            for item, wav, size in zip(batch.items, self.waveform(output), batch.samples.tolist(), strict=True)
        ]


def samples_between_frames(upstream: UpstreamSpec) -> tuple[int, float]:
    """Stride and offset in samples at 16 kHz; that the stride is whole is seen to where batches are made."""
    scale = RATE / upstream.sample_rate
    return round(upstream.stride * scale), upstream.offset * scale
