"""What a resynthesis is worth: measures, and the accumulator that asks for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from headwater.audio.write import Signal
from headwater.errors import DataError, HeadwaterError
from headwater.metrics import Mean, Measure, Metric, evaluate
from headwater.metrics.rows import Table
from headwater.results.plots import tracks_plot
from headwater.train.clips import Clips
from headwater.train.task import Accumulator, Batch, Item
from headwater.vocoder.distances import CEILING_HZ, FLOOR_HZ, TRACKER
from headwater.vocoder.f0 import extract_f0, track
from headwater.vocoder.mel import LogMel
from headwater.vocoder.objective import mel_distances, stft_distances
from headwater.vocoder.tracks import kept_track
from headwater.vocoder.world import FRAME_PERIOD_MS

from .distances import PACKAGES, RATE, Crew, there

__all__ = ["RATE", "Resyntheses", "available"]

CHOOSING = Mean("mel_l1", "mel_l1", "", higher_is_better=False)
MEASURES: tuple[Mean, ...] = (
    CHOOSING,
    Mean("stft_distance", "stft_distance", "", higher_is_better=False, optional=True),
    Mean("mcd", "mcd", "dB", higher_is_better=False, optional=True),
    Mean("f0_rmse", "f0_rmse", "cents", higher_is_better=False, optional=True),
    Mean("f0_correlation", "f0_correlation", "", higher_is_better=True, optional=True),
    Mean("vuv_error", "vuv_error", "%", higher_is_better=False, optional=True),
    Mean("pesq_wb", "pesq_wb", "", higher_is_better=True, optional=True),
    Mean("stoi", "stoi", "", higher_is_better=True, optional=True),
    Mean("estoi", "estoi", "", higher_is_better=True, optional=True),
)
# Items, originals and copies, (samples,) each -> what is said of each pair, by column.
JudgedColumns = Callable[[Sequence[Item], Sequence[Tensor], Sequence[Tensor]], Sequence[Mapping[str, Any]]]
_CLIPS = 3
_ORIGINAL, _COPY = "original", "resynthesis"


def available() -> tuple[tuple[Mean, ...], list[str]]:
    """The measures whose packages are installed, and notes on those that are not. The first one chooses on dev."""
    missing = {package: about for package, about in PACKAGES.items() if not there(package)}
    without = {column for columns, _ in missing.values() for column in columns}
    notes = [
        f"no {', '.join(columns)}: the package {package} is not installed ({install})"
        for package, (columns, install) in missing.items()
    ]
    return tuple(measure for measure in MEASURES if measure.column not in without), notes


class Resyntheses(Accumulator):
    """Distances of each utterance from its original. What chooses on dev is all that dev is asked for."""

    def __init__(
        self,
        measures: Sequence[Measure],
        waveform: Callable[[Any], Tensor],
        label: str,
        judges: Sequence[JudgedColumns] = (),
    ) -> None:
        super().__init__(measures)
        self.waveform, self.label, self.judges = waveform, label, judges
        self.mel = LogMel(RATE)
        self.crew = Crew() if len(self.measures) > 1 else None
        self.clips = Clips(_CLIPS)
        self._rows: dict[str, dict[str, Any]] = {}

    def add(self, output: Any, batch: Batch) -> None:
        wav, target = self.waveform(output).detach().float(), batch.labels[self.label].float()
        mel = mel_distances(wav, target, batch.samples, self.mel.to(wav.device)).tolist()
        stft = stft_distances(wav, target, batch.samples).tolist() if self.crew is not None else []
        wav, target = wav.cpu(), target.cpu()
        sizes = batch.samples.tolist()
        originals, copies = (
            [row[:size].clone() for row, size in zip(rows, sizes, strict=True)] for rows in (target, wav)
        )
        for number, (item, original, copy) in enumerate(zip(batch.items, originals, copies, strict=True)):
            if not bool(torch.isfinite(copy).all()):
                raise HeadwaterError(
                    f"the resynthesis of {item.id!r} is NaN or infinite: training diverged (lower optimizer.lr), or the upstream gives such values "
                    "(`headwater check upstream NAME` tells)"
                )
            self._rows[item.id] = {"id": item.id, "speaker": item.utterance.speaker, "mel_l1": mel[number]}
            if self.crew is not None:
                # Convergence is relative to the original, and silence has nothing to be relative to.
                self._rows[item.id]["stft_distance"] = stft[number] if bool(original.any()) else None
                self.crew.add(item.id, original.numpy(), copy.numpy())
                self.clips.add(item.id, {_ORIGINAL: Signal(original, RATE), _COPY: Signal(copy, RATE)})

        for judge in self.judges:
            for item, columns in zip(batch.items, judge(batch.items, originals, copies), strict=True):
                self._rows[item.id].update(columns)

    def _settle(self) -> dict[str, dict[str, Any]]:
        for name, found in self.crew.take().items() if self.crew is not None else ():
            self._rows[name].update(found)
        return self._rows

    def state(self) -> Any:
        return self._settle(), self.clips.state()

    def merge(self, state: Any) -> None:
        self._settle().update(state[0])
        self.clips.merge(state[1])

    def rows(self) -> list[dict[str, Any]]:
        found = self._settle()
        return [found[name] for name in sorted(found)]

    def result(self, seed: int = 0) -> dict[str, Metric]:
        """A measure that is defined for no utterance (the F0 error of whispers) is left out, and the first one's note says so."""
        table = Table(self.rows())
        kept, left = [], []
        for measure in self.measures:
            try:
                measure.value(table)
            except DataError:
                if measure is self.measures[0]:
                    raise
                left.append(measure.name)
            else:
                kept.append(measure)
        found = evaluate(kept, table, seed)
        if left:
            first = self.measures[0].name
            note = f"no {', '.join(left)}: defined for none of {len(table)} utterances"
            found[first] = replace(found[first], note="; ".join(filter(None, (note, found[first].note))))
        return found

    def audio(self) -> Mapping[str, Mapping[str, Signal]]:
        return self.clips.held

    def pictures(self) -> dict[str, bytes]:
        """F0 of what there is to listen to, of the original and of its resynthesis."""
        if not there("pyworld") or not self.clips.held:
            return {}
        tracks = {
            name: {
                what: extract_f0(
                    one.wav,
                    one.sample_rate,
                    tracker=TRACKER,
                    floor_hz=FLOOR_HZ,
                    ceiling_hz=CEILING_HZ,
                    find=kept_track if what == _ORIGINAL else track,
                )
                for what, one in signals.items()
            }
            for name, signals in sorted(self.clips.held.items())
        }
        return {"f0": tracks_plot(tracks, period=FRAME_PERIOD_MS / 1000)}
