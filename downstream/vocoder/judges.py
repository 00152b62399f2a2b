"""Judges: finished runs of this hub that are asked what is left of the speaker and of the phones in a resynthesis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headwater.config import DataConfig
from headwater.download import file_sha256
from headwater.errors import HeadwaterError, UsageError
from headwater.identity import fingerprint, numbers
from headwater.metrics import Mean, Measure, Ratio
from headwater.nn.heads import PooledLinear
from headwater.nn.lengths import mask
from headwater.train.classification import targets
from headwater.train.feed import Ready
from headwater.train.loop import autocast
from headwater.train.parts import Prepared
from headwater.train.reopened import reopen
from headwater.train.task import Item

from ..phone.expert import Phone
from ..speaker.expert import Speaker
from ..speaker.verification import Verification
from .scoring import RATE

Columns = dict[str, float | int | None]


class Judge(ABC):
    """A finished run that hears an original and its resynthesis. It is loaded once, with its upstream, and hears both at the upstream's own rate.

    measures: what its columns come to. sha256: of its weights, those of its upstream, and its settings.
    """

    measures: tuple[Measure, ...]

    def __init__(self, folder: Path, parts: Prepared) -> None:
        self.folder, self.parts = folder, parts
        self.weights_sha256 = file_sha256(folder / "model.safetensors")
        settings = numbers(parts.config, task=parts.task.Config)
        self.sha256 = fingerprint(
            self.weights_sha256, parts.weights_sha256, parts.upstream.name, parts.task.state(), settings
        )

    @abstractmethod
    def columns(self, items: Sequence[Item], originals: Sequence[Tensor], copies: Sequence[Tensor]) -> list[Columns]:
        """What it says of each pair of waveforms (samples,) at 16 kHz, which are equally long."""

    def describe(self) -> dict[str, Any]:
        """Who it is, for a result."""
        return {
            "run": str(self.folder),
            "task": self.parts.config.downstream,
            "upstream": self.parts.upstream.name,
            "weights_sha256": self.weights_sha256,
            "upstream_weights_sha256": self.parts.weights_sha256,
            "measures": [measure.name for measure in self.measures],
        }

    def note(self) -> str:
        """Who it is, in words."""
        names = ", ".join(measure.name for measure in self.measures)
        about = f"{self.parts.config.downstream} on {self.parts.upstream.name}, weights {self.weights_sha256[:12]}"
        return f"{names}: judged by {self.folder} ({about})"

    def answer(self, items: Sequence[Item], wavs: Sequence[Tensor]) -> tuple[Any, Ready]:
        """What its head gives for some waveforms, and the batch that they made."""
        group = [self.parts.feed.hears(item, wav) for item, wav in zip(items, wavs, strict=True)]
        (ready,) = self.parts.feed.heard([group])
        with torch.no_grad(), autocast(self.parts.config, self.parts.device):
            return self.parts.probe(ready.states, ready.lengths, ready.batch.inputs, ready.x)[0], ready


class SpeakerJudge(Judge):
    """Cosine of the embeddings of original and resynthesis: what the classifier of an identification sees, or what a verification compares."""

    measures = (Mean("speaker_cosine", "speaker_cosine", "", higher_is_better=True, optional=True),)

    def __init__(self, folder: Path, parts: Prepared) -> None:
        super().__init__(folder, parts)
        parts.probe.head = Embedding(parts.probe.head)

    def columns(self, items: Sequence[Item], originals: Sequence[Tensor], copies: Sequence[Tensor]) -> list[Columns]:
        bare = [Item(item.utterance, item.num_samples) for item in items]
        pair = [self.answer(bare, wavs)[0].double() for wavs in (originals, copies)]
        sizes = pair[0].norm(dim=1) * pair[1].norm(dim=1)
        # An embedding of nothing but zeros (the mean of normalised silence) points nowhere.
        cosines = (pair[0] * pair[1]).sum(1) / sizes
        rows = zip(cosines.tolist(), sizes.tolist(), strict=True)
        return [{"speaker_cosine": cosine if size > 0 else None} for cosine, size in rows]


class Embedding(nn.Module):
    """(B, T, D) -> (B, E): the embedding that a head of the speaker tasks makes on its way."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, frames: Tensor, lengths: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        if isinstance(self.head, PooledLinear):
            return self.head.embed(frames, lengths)
        embedding: Tensor = self.head(frames, lengths, inputs)[1]
        return embedding


class PhoneJudge(Judge):
    """Accuracy of its answers to the resynthesis, and to the original beside it; or, where there are no labels, how often both answers agree.

    items: with labels, by utterance; None where there are none.
    """

    def __init__(self, folder: Path, parts: Prepared, items: Mapping[str, Item] | None) -> None:
        super().__init__(folder, parts)
        self.items = items
        self.measures = (
            (Ratio("phone_agreement", "phone_same", "phone_total"),)
            if items is None
            else (
                Ratio("phone_accuracy", "phone_correct", "phone_total"),
                Ratio("phone_accuracy_original", "phone_correct_original", "phone_total"),
            )
        )

    def note(self) -> str:
        if self.items is not None:
            return super().note()
        return f"{super().note()}; there are no labels (data.labels), so its answers to the original stand for them"

    def columns(self, items: Sequence[Item], originals: Sequence[Tensor], copies: Sequence[Tensor]) -> list[Columns]:
        asked = [
            Item(item.utterance, item.num_samples) if self.items is None else self.items[item.id] for item in items
        ]
        (first, ready), (second, _) = (self.answer(asked, wavs) for wavs in (originals, copies))
        if self.items is None:
            heard = mask(ready.batch.lengths, first.shape[1])
            same = ((first.argmax(2) == second.argmax(2)) & heard).sum(1)
            return _rows(phone_same=same, phone_total=ready.batch.lengths)
        right = [_correct(output, ready) for output in (first, second)]
        return _rows(phone_correct=right[1][0], phone_correct_original=right[0][0], phone_total=right[0][1])


def _correct(output: Tensor, ready: Ready) -> tuple[Tensor, Tensor]:
    """Right answers and labels of each utterance, (B,) each."""
    logits, labels, row = targets(output, ready.batch)
    hits = (logits.argmax(1) == labels).long()
    return torch.zeros_like(ready.lengths).index_add_(0, row, hits), torch.bincount(row, minlength=len(output))


def _rows(**columns: Tensor) -> list[Columns]:
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in values]


def load_judges(runs: Sequence[str], data: DataConfig, seed: int) -> list[Judge]:
    """The judges that these folders hold, at most one of speakers and one of phones.

    data, seed: of the run that is judged; the labels of phones are those that the judge's own task finds there.

    Raises `UsageError` for what is no finished run, or one that cannot judge; else as opening a run does.
    """
    judges = [_judge(Path(run).expanduser().absolute(), data, seed) for run in runs]
    for kind in (SpeakerJudge, PhoneJudge):
        if len(same := [str(judge.folder) for judge in judges if isinstance(judge, kind)]) > 1:
            raise UsageError(f"task.judges: {' and '.join(same)} judge the same; give one of them")
    return judges


def _judge(folder: Path, data: DataConfig, seed: int) -> Judge:
    try:
        parts = reopen(folder, data=None, device=None, overrides={}, say=lambda line: None, with_data=False)
    except HeadwaterError as error:
        raise type(error)(f"task.judges: {error}") from None
    task, where = parts.task, f"task.judges: {folder}"
    if parts.config.upstream.features is not None:
        raise UsageError(f"{where} was trained on precomputed features, and a judge hears sound")
    if task.spec.sample_rate != RATE:
        raise UsageError(f"{where} is of a task at {task.spec.sample_rate} Hz; these utterances are at {RATE} Hz")
    if isinstance(task, Phone):
        return PhoneJudge(folder, parts, _labelled(task, data, seed))
    if isinstance(task, Verification) or (isinstance(task, Speaker) and isinstance(parts.probe.head, PooledLinear)):
        return SpeakerJudge(folder, parts)
    raise UsageError(
        f"{where} is a run of {parts.config.downstream} (probe {parts.config.probe}), which has neither an embedding of utterances nor phones; judges are "
        "runs of speaker, speaker_sid, speaker_verification, phone and their kind"
    )


def _labelled(own: Phone, data: DataConfig, seed: int) -> dict[str, Item] | None:
    """The utterances of `data` with their phones, as the judge's task reads and checks them; None where nothing says what the phones are."""
    if data.labels is None and data.path is not None:
        return None
    task = Phone(own.config, data, seed)
    task.restore(own.state())
    return {item.id: item for part in task.corpora().values() for item in part}
