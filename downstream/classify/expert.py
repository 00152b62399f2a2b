"""Classification by any column of a list."""

from __future__ import annotations

from typing import Literal

from headwater.data.corpus import Corpus, Utterance
from headwater.data.splits import parted_by
from headwater.errors import DataError, nearest
from headwater.train.labelled import LabelledTask


class Classify(LabelledTask):
    """Which label of the column `data.label_column` is it? The demo asks for the speaker's gender."""

    @property
    def column(self) -> str:
        return self.data.label_column or ("label" if self.data.path is not None else "gender")

    def label(self, utterance: Utterance) -> str | None:
        return utterance.speaker if self.column == "speaker" else utterance.labels.get(self.column)

    def split_by(self, corpus: Corpus) -> Literal["utterance", "speaker"]:
        """Voices must not give a label away: where speakers are known, train and test share none."""
        return parted_by(corpus) if self.column != "speaker" else "utterance"

    def _check_labels(self, corpus: Corpus) -> None:
        columns = sorted({name for utterance in corpus.utterances for name in utterance.labels})
        if self.column not in (*columns, "speaker"):
            raise DataError(
                f"{self.data.path or corpus.name} has no column {self.column!r}.{nearest(self.column, columns)} "
                f"Columns that could be labels: {', '.join(columns) or 'none'}; choose with -o data.label_column=NAME"
            )
        super()._check_labels(corpus)

    def advice(self) -> str:
        return f"fill the column {self.column!r}, or choose another with -o data.label_column=NAME"
