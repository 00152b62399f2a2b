"""A few utterances of a split to listen to, the same ones however many processes score it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from headwater.audio.write import Signal


class Clips:
    """Keeps `count` utterances by a hash of their ids: an accumulator adds every one, and what `audio()` gives is in here."""

    def __init__(self, count: int = 4) -> None:
        self.count = count
        self.held: dict[str, Mapping[str, Signal]] = {}

    def wants(self, name: str) -> bool:
        """Whether the utterance of this id would be kept, as far as known: then its signals are worth making."""
        return len(self.held) < self.count or _rank(name) < max(map(_rank, self.held))

    def add(self, name: str, signals: Mapping[str, Signal]) -> None:
        """Offer the signals of an utterance, by what they are."""
        if self.wants(name):
            self.held[name] = {
                what: Signal(torch.from_numpy(one.samples().copy()), one.sample_rate) for what, one in signals.items()
            }
            if len(self.held) > self.count:
                del self.held[max(self.held, key=_rank)]

    def state(self) -> dict[str, Any]:
        """For `merge` on another rank."""
        return dict(self.held)

    def merge(self, state: Mapping[str, Mapping[str, Signal]]) -> None:
        for name, signals in state.items():
            self.add(name, signals)


def _rank(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
