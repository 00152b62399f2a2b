"""A task on signals, small enough for tests: it parts mixtures of two files by gains for every frame.

A list has the columns id, split, path1, path2, gain1, gain2, speaker1, speaker2.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from headwater.audio.write import Signal
from headwater.config import Section
from headwater.data.corpus import Corpus, Utterance
from headwater.data.mixtures import Mixture, Part
from headwater.metrics import Mean, Measure
from headwater.metrics.breakdown import Breakdown
from headwater.nn.upstream import UpstreamSpec
from headwater.train.clips import Clips
from headwater.train.corpora import measured
from headwater.train.task import Accumulator, Batch, Draw, Item, Sounds, Specification, Task
from headwater.train.windows import Windows


class _Config(Section):
    """Settings of the task."""

    rate: int = 16000
    crop: float | None = None
    dynamic: bool = False
    oracle: bool = False
    length: Literal["shortest", "longest"] = "shortest"
    window: float | None = None
    loud: float = 1.0


class _Gains(nn.Module):
    """Two gains for every frame, held for `stride` samples, times the mixture."""

    def __init__(self, in_dim: int, stride: int, loud: float) -> None:
        super().__init__()
        self.linear, self.stride, self.loud = nn.Linear(in_dim, 2), stride, loud

    def forward(self, frames: Tensor, lengths: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        mixture = inputs["mixture"]
        frame = torch.arange(mixture.shape[1], device=mixture.device) // self.stride
        held = torch.minimum(frame[None], lengths[:, None] - 1)
        gains = torch.sigmoid(self.linear(frames)).transpose(1, 2)
        return self.loud * gains.gather(2, held[:, None].expand(-1, 2, -1)) * mixture[:, None]


class _Oracle(nn.Module):
    """The sources themselves."""

    def forward(self, frames: Tensor, lengths: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return inputs["sources"]


class _Errors(Accumulator):
    """The error of the sources of each mixture, in dB below the mixture's own."""

    def __init__(self, measures: Sequence[Measure], rate: int) -> None:
        super().__init__(measures)
        self.found: dict[str, dict[str, Any]] = {}
        self.clips, self.rate = Clips(2), rate

    def add(self, output: Tensor, batch: Batch) -> None:
        for item, given, sources, size in zip(
            batch.items, output, batch.labels["sources"], batch.samples.tolist(), strict=True
        ):
            given, sources = given[:, :size], sources[:, :size]
            error = (given - sources).square().sum().clamp(min=1e-6)
            before = (sources.sum(0) - sources).square().sum().clamp(min=1e-6)
            labels = item.utterance.labels
            self.found[item.id] = {
                "id": item.id,
                **{key: labels[key] for key in ("speaker1", "speaker2")},
                "pair": "same" if labels["speaker1"] == labels["speaker2"] else "other",
                "gain": float(10 * torch.log10(before / error)),
            }
            named = {"mixture": sources.sum(0), "estimate": given[0], "reference": sources[0]}
            self.clips.add(item.id, {name: Signal(wav, self.rate) for name, wav in named.items()})

    def state(self) -> Any:
        return self.found, self.clips.state()

    def merge(self, state: Any) -> None:
        self.found.update(state[0])
        self.clips.merge(state[1])

    def rows(self) -> list[dict[str, Any]]:
        return [self.found[name] for name in sorted(self.found)]

    def audio(self) -> Mapping[str, Mapping[str, Signal]]:
        return self.clips.held


class TonesTask(Task):
    """Parts mixtures by gains."""

    Config = _Config

    @property
    def crop_seconds(self) -> float | None:  # type: ignore[override]
        return self.config.crop

    @property
    def draws(self) -> bool:  # type: ignore[override]
        return self.config.dynamic

    @property
    def windows(self) -> Windows | None:  # type: ignore[override]
        seconds = self.config.window
        return None if seconds is None else Windows(seconds, seconds / 2, self.config.rate)

    @property
    def unpredictable(self) -> str | None:  # type: ignore[override]
        return "an oracle knows the sources, so it cannot answer for other files" if self.config.oracle else None

    def corpora(self) -> dict[str, list[Item]]:
        path = Path(self.data.path or "")
        with path.open(encoding="utf-8") as file:
            utterances = [self._utterance(path.parent, row) for row in csv.DictReader(file)]
        corpus = Corpus(path.stem, "csv", path.parent, tuple(utterances))
        trained = hasattr(self, "spec")
        needed = ("test",) if trained or self.config.oracle else ("train", "dev", "test")
        data = measured(corpus, self.data, seed=self.seed, rate=self.config.rate, needed=needed)
        self.description = data.describe(self.data.path, self.config.rate)
        self.restore({})
        splits = {split: [Item(one, size) for one, size in part] for split, part in data.splits.items()}
        self._train = splits.get("train", [])
        return {split: part for split, part in splits.items() if split != "train" or not self.config.oracle}

    def _utterance(self, root: Path, row: Mapping[str, str]) -> Utterance:
        parts = tuple(
            Part(root / row[f"path{n}"], gain=float(row[f"gain{n}"]), speaker=row[f"speaker{n}"]) for n in (1, 2)
        )
        labels = {key: row[key] for key in ("speaker1", "speaker2")}
        mixture = Mixture(parts, self.config.length)
        return Utterance(row["id"], parts[0].path, split=row["split"], labels=labels, mixture=mixture)

    def restore(self, state: Mapping[str, Any]) -> None:
        gain = Mean("gain", "gain", "dB", higher_is_better=True)
        self.spec = Specification(
            "signal", "sources", (gain,), sample_rate=self.config.rate, breakdowns=(Breakdown("pair"),)
        )

    def draw(self, item: Item, draw: Draw) -> Item:
        generator = draw.generator("mix")
        other = self._train[int(generator.integers(len(self._train)))]
        pair = (item.utterance.mixture, other.utterance.mixture)
        parts = tuple(Part(one.parts[0].path, level=float(generator.uniform(-30, -20))) for one in pair if one)
        utterance = Utterance(f"{item.id}+{other.id}", parts[0].path, mixture=Mixture(parts))
        return Item(utterance, item.num_samples)

    def sounds(self, item: Item, wav: Tensor, parts: Tensor | None) -> Sounds:
        known = {} if parts is None else {"sources": parts}
        return Sounds({"mixture": wav, **(known if self.config.oracle else {})}, known)

    def head(self, upstream: UpstreamSpec) -> nn.Module:
        stride = upstream.stride * self.config.rate // upstream.sample_rate
        return _Oracle() if self.config.oracle else _Gains(upstream.out_dim, stride, self.config.loud)

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        # What lies beyond an utterance is zero in both.
        return 1e4 * (output - batch.labels["sources"]).square().sum(), batch.samples.sum()

    def score(self, split: str) -> Accumulator:
        return _Errors(self.spec.measures_of(split), self.config.rate)

    def predict(self, output: Tensor, batch: Batch) -> list[dict[str, Any]]:
        return [
            {"id": item.id, "source": [Signal(wav[:size], self.config.rate) for wav in given]}
            for item, given, size in zip(batch.items, output, batch.samples.tolist(), strict=True)
        ]
