"""Frame-wise phone classification."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import Field, field_validator
from torch import nn

from headwater.config import Section
from headwater.data.labels import FrameLabels, label_centres, num_labels, read_frame_labels
from headwater.data.splits import parted_by
from headwater.errors import DataError, UsageError
from headwater.nn.heads import FrameClassifier
from headwater.nn.upstream import UpstreamSpec
from headwater.train.classification import ClassificationTask
from headwater.train.corpora import Measured, load_corpus, measured, needed_splits
from headwater.train.task import Item

RATE = 16000


class PhoneConfig(Section):
    """hidden: ReLU units of a hidden layer (0: none). context: frames side by side, odd."""

    hidden: int = Field(0, ge=0)
    context: int = Field(1, ge=1)

    @field_validator("context")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("an odd number is needed: as many frames before as after")
        return value


class Phone(ClassificationTask):
    """A label every 10 ms; each is judged on the frame nearest in time, so every label is scored exactly once whatever the upstream's stride."""

    Config = PhoneConfig

    def corpora(self) -> dict[str, list[Item]]:
        from headwater.data.demo import demo_corpus

        trained = hasattr(self, "spec")
        corpus = load_corpus(self.data, demo_corpus)
        needed, by = needed_splits(trained), parted_by(corpus)
        data = measured(corpus, self.data, seed=self.seed, rate=RATE, needed=needed, by=by)
        labels = self._labels(data)
        self._check(data, labels)
        self.notes += [*data.notes, *labels.notes]
        values = {utterance.id: labels.labels[utterance.id] for part in data.splits.values() for utterance, _ in part}
        digest = hashlib.sha256(
            b"".join(name.encode() + values[name].astype("<i2").tobytes() for name in sorted(values))
        ).hexdigest()
        self.description = data.describe(self.data.path, RATE, digest)
        if not trained:
            names = labels.classes or tuple(str(index) for index in range(labels.num_classes))
            self.specify("frame", names)
        elif labels.num_classes > len(self.classes) or labels.classes not in (None, self.classes):
            raise DataError(
                f"{self.data.labels}: its {labels.num_classes} classes are not the {len(self.classes)} that the run was trained on"
            )
        # One array of times that all utterances look into: a copy each would take more memory than the labels.
        centres = label_centres(max(map(len, values.values())))
        return {
            split: [
                Item(
                    utterance,
                    samples,
                    {"classes": values[utterance.id], "centres": centres[: len(values[utterance.id])]},
                )
                for utterance, samples in part
            ]
            for split, part in data.splits.items()
        }

    def _labels(self, data: Measured) -> FrameLabels:
        if self.data.path is None and self.data.labels is None:
            from headwater.data.demo import demo_labels

            return demo_labels()
        if self.data.labels is None:
            raise UsageError(
                "the phone task needs labels: -o data.labels=FILE (UTT l0 l1 ..., as CPC has them) or a file or folder of .lab or TextGrid files"
            )
        lengths = {utterance.id: samples for part in data.splits.values() for utterance, samples in part}
        path = Path(self.data.labels)
        named = hasattr(self, "spec") and (path.is_dir() or path.suffix.lower() in (".lab", ".textgrid"))
        return read_frame_labels(path, num_samples=lengths, classes=self.classes if named else None)

    def _check(self, data: Measured, labels: FrameLabels) -> None:
        """Every utterance has labels, and about as many as its length says: others belong to other audio."""
        lengths = {utterance.id: samples for part in data.splits.values() for utterance, samples in part}
        missing = [name for name in lengths if name not in labels.labels]
        if missing:
            raise DataError(
                f"{self.data.labels}: no labels for {len(missing)} of {len(lengths)} utterances, the first is {missing[0]!r}; "
                "labels are found by utterance id (the file's stem)"
            )
        for name, samples in lengths.items():
            due, given = num_labels(samples), len(labels.labels[name])
            if given == 0:
                raise DataError(
                    f"utterance {name!r} is too short for a label ({samples} samples; the first label needs 400); leave it out of the list"
                )
            if abs(due - given) > 2:
                raise DataError(
                    f"{self.data.labels}: utterance {name!r} has {given} labels, and its {samples} samples carry {due} "
                    "(one every 10 ms, 25 ms windows): labels of another hop or file"
                )

    def head(self, upstream: UpstreamSpec) -> nn.Module:
        return FrameClassifier(upstream.out_dim, len(self.classes), self.config.hidden, self.config.context)
