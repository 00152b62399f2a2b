"""What a resynthesis is worth: measures, and the accumulator that asks for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from headwater.audio.write import Signal
from headwater.metrics import Mean, Measure
from headwater.results.plots import tracks_plot
from headwater.train.accumulators import SoundAccumulator, not_finite
from headwater.train.task import Batch, Item
from headwater.vocoder.distances import TRACKING
from headwater.vocoder.f0 import extract_f0, track
from headwater.vocoder.mel import LogMel
from headwater.vocoder.objective import mel_distances, stft_distances
from headwater.vocoder.tracks import kept_track
from headwater.vocoder.world import FRAME_PERIOD_MS

from .distances import EXTRAS, RATE, THROUGH_WORLD, Crew

__all__ = ["EXTRAS", "MEASURES", "RATE", "Resyntheses"]

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


class Resyntheses(SoundAccumulator):
    """Distances of each utterance from its original. What chooses on dev is all that dev is asked for."""

    def __init__(
        self,
        measures: Sequence[Measure],
        waveform: Callable[[Any], Tensor],
        label: str,
        judges: Sequence[JudgedColumns] = (),
    ) -> None:
        super().__init__(measures, _CLIPS)
        self.waveform, self.label, self.judges = waveform, label, judges
        self.mel = LogMel(RATE)
        self.crew = Crew() if len(self.measures) > 1 else None

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
                raise not_finite("the resynthesis", item.utterance)
            self.scored[item.id] = {"id": item.id, "speaker": item.utterance.speaker, "mel_l1": mel[number]}
            if self.crew is not None:
                # Convergence is relative to the original, and silence has nothing to be relative to.
                self.scored[item.id]["stft_distance"] = stft[number] if bool(original.any()) else None
                self.crew.add(item.id, original.numpy(), copy.numpy())
                self.clips.add(item.id, {_ORIGINAL: Signal(original, RATE), _COPY: Signal(copy, RATE)})

        for judge in self.judges:
            for item, columns in zip(batch.items, judge(batch.items, originals, copies), strict=True):
                self.scored[item.id].update(columns)

    def settle(self) -> None:
        for name, found in self.crew.take().items() if self.crew is not None else ():
            self.scored[name].update(found)

    def pictures(self) -> dict[str, bytes]:
        """F0 of what there is to listen to, of the original and of its resynthesis."""
        if THROUGH_WORLD.lack(RATE) is not None or not self.clips.held:
            return {}
        tracks = {
            name: {
                what: extract_f0(one.wav, one.sample_rate, TRACKING, find=kept_track if what == _ORIGINAL else track)
                for what, one in signals.items()
            }
            for name, signals in sorted(self.clips.held.items())
        }
        return {"f0": tracks_plot(tracks, period=FRAME_PERIOD_MS / 1000)}
