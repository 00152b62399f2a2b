"""Classification by a label that each utterance has (its speaker, a column of its list): the base of `speaker` and `classify`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from headwater.config import Section
from headwater.data.corpus import Corpus, Utterance
from headwater.errors import DataError
from headwater.nn.heads import FrameClassifier, PooledLinear
from headwater.nn.upstream import UpstreamSpec
from headwater.train.classification import ClassificationTask
from headwater.train.corpora import load_corpus, measured, needed_splits
from headwater.train.task import Item


class LabelledConfig(Section):
    """level: one answer an utterance, or one a frame. projector: dims of a linear layer before the mean (0: none)."""

    level: Literal["utterance", "frame"] = "utterance"
    projector: int = Field(0, ge=0)


class LabelledTask(ClassificationTask):
    """Mean over valid frames and a linear layer, or a linear layer on every frame."""

    Config = LabelledConfig
    noun = "class"

    @property
    def pooling(self) -> Literal["mean"] | None:  # type: ignore[override]
        return "mean" if self.config.level == "utterance" else None

    def label(self, utterance: Utterance) -> str | None:
        """The utterance's label; None where it has none."""
        return utterance.speaker

    def split_by(self, corpus: Corpus) -> Literal["utterance", "speaker"]:
        """What made splits must not share."""
        return "utterance"

    def demo(self) -> Corpus:
        """The corpus without `--data`."""
        from headwater.data.demo import demo_corpus

        return demo_corpus()

    def corpora(self) -> dict[str, list[Item]]:
        trained = hasattr(self, "spec")
        corpus = load_corpus(self.data, self.demo)
        self._check_labels(corpus)
        needed, by = needed_splits(trained), self.split_by(corpus)
        data = measured(corpus, self.data, seed=self.seed, rate=16000, needed=needed, by=by)
        self.notes += data.notes
        self.description = data.describe(self.data.path, 16000)
        parts = {
            split: [(utterance, samples, str(self.label(utterance))) for utterance, samples in part]
            for split, part in data.splits.items()
        }
        if not trained:
            classes = sorted({label for _, _, label in parts["train"]})
            if len(classes) < 2:
                raise DataError(f"the train split has {len(classes)} {self.noun}; at least two are needed")
            self.specify(self.config.level, classes)
        if self.data.limit is not None:
            known = set(self.classes)
            parts = {split: [row for row in part if row[2] in known] for split, part in parts.items()}
        return {
            split: [
                Item(utterance, samples, {"class": self.class_index(label, f"{utterance.path} ({split})")})
                for utterance, samples, label in part
            ]
            for split, part in parts.items()
        }

    def _check_labels(self, corpus: Corpus) -> None:
        missing = [utterance.id for utterance in corpus.utterances if not self.label(utterance)]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(corpus.utterances)} utterances have no {self.noun}, the first is {missing[0]!r}; {self.advice()}"
            )

    def advice(self) -> str:
        """What to do where labels are missing."""
        return "give a CSV with the column `speaker`, or a folder with one folder a speaker"

    def head(self, upstream: UpstreamSpec) -> nn.Module:
        if self.config.level == "frame":
            return FrameClassifier(upstream.out_dim, len(self.classes))
        return PooledLinear(upstream.out_dim, len(self.classes), self.config.projector)
