"""What became of a probe: how it is scored, and what the result says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headwater.metrics import Metric
from headwater.metrics.rows import Row
from headwater.train.loop import Standing
from headwater.train.parts import Prepared
from headwater.train.probing import evaluate
from headwater.train.task import Accumulator


def score(parts: Prepared, splits: Sequence[str]) -> dict[str, Accumulator]:
    """The probe of a run on those of the splits that hold utterances; every rank ends with all of them."""
    return {
        split: evaluate(parts.probe, parts.task, parts.feed, parts.items[split], split, parts.config, parts.world)
        for split in splits
        if parts.items.get(split)
    }


@dataclass
class Outcome(Standing):
    """One probe that was trained, or that had nothing to train. Other ways to a probe override what they do or say otherwise."""

    @classmethod
    def of(cls, standing: Standing) -> Outcome:
        """What plain training has come to."""
        return cls(**vars(standing))

    def score(self, parts: Prepared, splits: Sequence[str]) -> dict[str, Accumulator]:
        """Score what dev has chosen; afterwards `parts.probe` is the probe that the result is about."""
        return score(parts, splits)

    def files(self) -> Mapping[str, Sequence[Row]]:
        """Score rows of other probes than that, by their file below `scores/`."""
        return {}

    def said(self, metrics: dict[str, dict[str, Metric]]) -> dict[str, Any]:
        """The parts of the result that depend on how the probe came about: `probe`, and of a grid `arms` and `seeds`. metrics: by split, of `parts.probe`."""
        return {"probe": {"name": "head"}}

    def notes(self) -> list[str]:
        """What a reader must know."""
        return []
