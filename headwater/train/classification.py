"""Classification of utterances or frames: the base of every task whose labels are classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from headwater.errors import DataError
from headwater.metrics import Metric, Ratio, evaluate
from headwater.nn.lengths import frame_index, mask
from headwater.train.accumulators import RowAccumulator, not_finite
from headwater.train.task import IGNORE, Batch, Specification, Task

if TYPE_CHECKING:
    from headwater.metrics import Measure


def targets(output: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Pair every label with the logits it is judged on.

    output: (B, C) for utterances; (B, T, C) for frames. Labels: `class` (B,), which all valid frames of an utterance share where the output is by frame; or
    `classes` (B, L) with their `centres` (B, L) in samples, each of which takes the frame nearest in time.

    Returns logits (N, C), labels (N,), and the row of the batch each belongs to (N,).
    """
    rows = torch.arange(len(output), device=output.device)
    if "centres" in batch.labels:
        labels, centres = batch.labels["classes"], batch.labels["centres"]
        valid = labels != IGNORE
        index = frame_index(centres, batch.lengths, batch.stride, batch.offset)
        row = rows[:, None].expand_as(labels)[valid]
        return output[row, index[valid]], labels[valid], row
    labels = batch.labels["class"]
    if output.dim() == 2:
        return output, labels, rows
    valid = mask(batch.lengths, output.shape[1])
    row = rows[:, None].expand_as(valid)[valid]
    return output[valid], labels[row], row


class ClassificationAccumulator(RowAccumulator):
    """Correct and total by utterance, the prediction where there is one an utterance, and the confusion matrix.

    The chance of its accuracy is that of always naming the commonest class of what was scored, each label counted as often as accuracy counts it: frames where
    frames are judged, and of other data than the run's own where that is scored.
    """

    def __init__(self, measures: Sequence[Measure], classes: Sequence[str]) -> None:
        super().__init__(measures)
        self.classes = list(classes)
        self._confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
        self._pending: list[tuple[Batch, Tensor, Tensor, Tensor | None, Tensor]] = []
        # One for all batches: of thousands of classes, one a batch would fill the memory.
        self._pairs: Tensor | None = None

    def add(self, output: Tensor, batch: Batch) -> None:
        logits, labels, row = targets(output, batch)
        predictions = logits.argmax(1)
        hits = predictions == labels
        correct = torch.zeros(len(output), dtype=torch.int64, device=output.device).index_add_(0, row, hits.long())
        total = torch.bincount(row, minlength=len(output))
        size = len(self.classes)
        if self._pairs is None:
            self._pairs = torch.zeros(size * size, dtype=torch.int64, device=output.device)
        self._pairs.index_add_(0, labels * size + predictions, torch.ones_like(labels))
        answers = predictions if output.dim() == 2 else None
        self._pending.append((batch, correct, total, answers, torch.isfinite(logits).all()))

    def settle(self) -> None:
        for batch, correct, total, predictions, finite in self._pending:
            if not bool(finite):
                # The largest of NaNs is the first class: a number without meaning, and nothing that shows it.
                raise not_finite("an answer to the batch", batch.items[0].utterance)
            counts = zip(batch.items, correct.tolist(), total.tolist(), strict=True)
            answers = predictions.tolist() if predictions is not None else None
            for position, (item, hits, of) in enumerate(counts):
                row: dict[str, Any] = {"id": item.id, "speaker": item.utterance.speaker, "correct": hits, "total": of}
                if answers is not None:
                    row["label"] = self.classes[int(item.labels["class"])]
                    row["prediction"] = self.classes[answers[position]]
                self.scored[item.id] = row
        self._pending.clear()
        if self._pairs is not None:
            self._confusion += self._pairs.cpu().numpy().reshape(self._confusion.shape)
            self._pairs = None

    def state(self) -> Any:
        return {"rows": super().state(), "confusion": self._confusion}

    def merge(self, state: Mapping[str, Any]) -> None:
        super().merge(state["rows"])
        self._confusion = self._confusion + state["confusion"]

    def result(self, seed: int = 0) -> dict[str, Metric]:
        counts = self.confusion().sum(1)
        chance = 100.0 * int(counts.max()) / max(int(counts.sum()), 1)
        measures = [
            replace(measure, chance=chance) if isinstance(measure, Ratio) and measure.name == "accuracy" else measure
            for measure in self.measures
        ]
        return evaluate(measures, self.rows(), seed=seed)

    def confusion(self) -> np.ndarray:
        """(C, C) int64 counts, rows the labels, columns the predictions."""
        self.settle()
        return self._confusion

    def pictures(self) -> dict[str, bytes]:
        """The confusion of frames, which their rows do not hold; that of utterances is drawn from the rows."""
        if not self.scored or all("prediction" in row for row in self.scored.values()):
            return {}
        from headwater.results import plots

        return {"confusion": plots.confusion_plot(self.confusion(), self.classes, format="png")}


class ClassificationTask(Task):
    """Cross entropy on the labels of `targets`, accuracy in percent. A subclass gives the corpora and the head."""

    classes: tuple[str, ...]

    def specify(self, level: str, classes: Sequence[str]) -> None:
        """Set `spec`."""
        self.classes = tuple(classes)
        self._index = {name: number for number, name in enumerate(self.classes)}
        accuracy = Ratio("accuracy", "correct", "total")
        self.spec = Specification(level=level, labels="class", measures=(accuracy,), classes=self.classes)  # type: ignore[arg-type]

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        logits, labels, _ = targets(output, batch)
        total = nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
        return total, torch.tensor(len(labels), device=output.device)

    def score(self, split: str) -> ClassificationAccumulator:
        return ClassificationAccumulator(self.spec.measures_of(split), self.classes)

    def predict(self, output: Tensor, batch: Batch) -> list[dict[str, Any]]:
        if output.dim() == 2:
            best = output.float().softmax(1).max(1)
            return [
                {"id": item.id, "prediction": self.classes[index], "probability": round(share, 6)}
                for item, index, share in zip(batch.items, best.indices.tolist(), best.values.tolist(), strict=True)
            ]
        answers = output.argmax(2).tolist()
        rate = self.spec.sample_rate
        return [
            {
                "id": item.id,
                "prediction": [self.classes[index] for index in answer[:length]],
                "first_centre_s": batch.offset / rate,
                "step_s": batch.stride / rate,
            }
            for item, answer, length in zip(batch.items, answers, batch.lengths.tolist(), strict=True)
        ]

    def state(self) -> dict[str, Any]:
        return {"classes": list(self.classes), "level": self.spec.level}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.specify(state["level"], state["classes"])

    def class_index(self, label: str, where: str) -> int:
        """The number of a class; `DataError` for one that training did not have."""
        try:
            return self._index[label]
        except KeyError:
            raise DataError(
                f"{where}: the class {label!r} was not among the {len(self.classes)} classes of the training data"
            ) from None
