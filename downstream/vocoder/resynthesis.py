"""What all systems share: utterances that are their own labels, and waveforms that are measured against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, field_validator
from torch import Tensor

from headwater.audio.write import Signal
from headwater.config import PLACE, Section
from headwater.data.splits import parted_by
from headwater.metrics.extras import available
from headwater.nn.upstream import UpstreamSpec
from headwater.train.corpora import Measured, load_corpus, measured, needed_splits, shared_speakers
from headwater.train.task import Accumulator, Batch, Item, Sounds, Specification, Task
from headwater.train.weight_file import WeightFile

from .judges import Judge, load_judges
from .scoring import EXTRAS, MEASURES, RATE, Resyntheses

SOUND = "sound"


class ResynthesisConfig(Section):
    """crop_seconds: the longest piece that training sees. judges: folders of finished runs of speakers and phones that are asked about the tests."""

    crop_seconds: float | None = Field(None, gt=0)
    judges: Annotated[list[str], PLACE] = Field(default_factory=list)

    @field_validator("judges", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class Resynthesis(Task):
    """Base of the vocoders: the head's output is a waveform (B, samples) at 16 kHz, or has one (`waveform`)."""

    Config = ResynthesisConfig
    config: Any
    judges: Sequence[Judge] = ()
    # What is scored as it stands.
    weights: WeightFile | None = None

    @property
    def crop_seconds(self) -> float | None:  # type: ignore[override]
        return self.config.crop_seconds  # type: ignore[no-any-return]

    @property
    def trains(self) -> bool:
        """Whether there is anything to train; else the tests are scored at once."""
        return True

    def corpora(self) -> dict[str, list[Item]]:
        from headwater.data.demo import demo_corpus

        corpus = load_corpus(self.data, demo_corpus)
        # Systems without training are asked about the same test.
        needed = needed_splits(hasattr(self, "spec"))
        data = measured(corpus, self.data, seed=self.seed, rate=RATE, needed=needed, by=parted_by(corpus))
        self.notes += [*data.notes, *shared_speakers(data), *available(MEASURES, EXTRAS, RATE)[1]]
        self.judges = load_judges(self.config.judges, self.data, self.seed)
        self.notes += [judge.note() for judge in self.judges]
        self.restore(self.state())
        parts = {split: [Item(one, size) for one, size in part] for split, part in data.splits.items()}
        items = {split: part for split, part in parts.items() if self.trains or split not in ("train", "dev")}
        self.description = data.describe(self.data.path, RATE, self.content(data, items) or None)
        if self.judges:
            self.description["judges"] = [judge.describe() for judge in self.judges]
        return items

    def content(self, data: Measured, items: Mapping[str, Sequence[Item]]) -> dict[str, Any]:
        """What a run is of besides its audio and settings, by sha256: a file says more than its name."""
        weights = {"weights": self.weights.sha256} if self.weights is not None else {}
        return {**weights, "judges": [judge.sha256 for judge in self.judges]} if self.judges else weights

    def restore(self, state: Mapping[str, Any]) -> None:
        measures, _ = available(MEASURES, EXTRAS, RATE)
        judged = [measure for judge in self.judges for measure in judge.measures]
        self.spec = Specification(
            "signal", "the waveform", (*measures, *judged), dev_measures=measures[:1], sample_rate=RATE
        )

    def sounds(self, item: Item, wav: Tensor, parts: Tensor | None) -> Sounds:
        return Sounds(labels={SOUND: wav})

    def waveform(self, output: Any) -> Tensor:
        """(B, samples), zero beyond each utterance."""
        return output  # type: ignore[no-any-return]

    def score(self, split: str) -> Accumulator:
        judges = [judge.columns for judge in self.judges] if split != "dev" else []
        return Resyntheses(self.spec.measures_of(split), self.waveform, SOUND, judges)

    def predict(self, output: Any, batch: Batch) -> list[dict[str, Any]]:
        return [
            {"id": item.id, "resynthesis": Signal(wav[:size], RATE)}
            for item, wav, size in zip(batch.items, self.waveform(output), batch.samples.tolist(), strict=True)
        ]


def samples_between_frames(upstream: UpstreamSpec) -> tuple[int, float]:
    """Stride and offset in samples at 16 kHz; that the stride is whole is seen to where batches are made."""
    scale = RATE / upstream.sample_rate
    return round(upstream.stride * scale), upstream.offset * scale
