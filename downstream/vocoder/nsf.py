"""The neural source-filter family: F0 and mel frames every 5 ms to the waveform; trained, or with NII's weights as they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from headwater.config import Place
from headwater.errors import DataError, UsageError
from headwater.nn.lengths import mask, zero_beyond
from headwater.nn.upstream import UpstreamSpec
from headwater.train.corpora import Measured
from headwater.train.task import Batch, Item, Sounds
from headwater.train.weight_file import WeightFile
from headwater.vocoder.draws import Seeded
from headwater.vocoder.f0 import LEAST_HZ, Tracker, Tracking, extract_f0
from headwater.vocoder.nsf import NsfSettings, Rendering, SourceFilter
from headwater.vocoder.nsf_loss import nsf_loss
from headwater.vocoder.nsf_weights import read_nsf
from headwater.vocoder.pairing import paired
from headwater.vocoder.raw import F0, MEL, read_f0, read_mel
from headwater.vocoder.tracks import kept_track
from headwater.vocoder.world import CEILING_HZ, FLOOR_HZ

from .given import digest_of, f0_files, read_fitted
from .resynthesis import SOUND, Resynthesis, ResynthesisConfig, samples_between_frames
from .scoring import RATE

FRONTEND = "nii_mel"  # the upstream whose frames raw files hold
_LEAST_STD = 1e-8  # below it a value counts as constant, as in the published code


class NsfConfig(ResynthesisConfig):
    """model: which member of the family, and its sizes. weights: a file of NII's instead of training. f0_folder, f0_column: F0 that is given;
    else it is found by tracker, floor_hz, ceiling_hz."""

    crop_seconds: float | None = Field(0.5, gt=0)
    model: NsfSettings = Field(default_factory=NsfSettings)
    weights: str | None = Field(None, description="NII weights (safetensors or .pt), scored as they stand")
    f0_folder: Place = Field(None, description="F0 that is given: .f0 files, called as the audio files")
    f0_column: str | None = Field(None, description="F0 that is given: the column of the table that names .f0 files")
    tracker: Tracker = "dio+stonemask"
    floor_hz: float = Field(FLOOR_HZ, ge=LEAST_HZ)
    ceiling_hz: float = Field(CEILING_HZ, gt=0)


@dataclass(frozen=True)
class Rendered:
    """The head's output, with what the loss goes on from. wav: (B, samples), zero beyond each utterance."""

    wav: Tensor
    rendering: Rendering
    f0: Tensor
    lengths: Tensor
    draws: Seeded


class Statistics(nn.Module):
    """Mean and deviation of mel and of voiced F0 over all that training has heard so far."""

    count: Tensor
    total: Tensor
    squares: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        for name in ("count", "total", "squares"):
            self.register_buffer(name, torch.zeros(dim, dtype=torch.float64))

    @torch.no_grad()
    def take(self, mel: Tensor, f0: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Take in a batch (B, T, D), (B, T), (B,). Returns mean and deviation (D + 1,) float32; 0 and 1 of what was not heard yet."""
        x = torch.cat([mel, f0[:, :, None]], 2).double()
        valid = mask(lengths, x.shape[1])[:, :, None].expand_as(x).clone()
        valid[:, :, -1] &= f0 > 0
        x = x * valid
        self.count += valid.sum((0, 1))
        self.total += x.sum((0, 1))
        self.squares += x.square().sum((0, 1))
        heard = self.count.clamp(min=1)
        mean = self.total / heard
        std = (self.squares / heard - mean.square()).clamp(min=0).sqrt()
        return mean.float(), torch.where(std < _LEAST_STD, 1.0, std).float()


class Head(nn.Module):
    """A source-filter model as a head. Its noise is drawn anew in each step of training, and the same for every utterance afterwards."""

    def __init__(self, model: SourceFilter, seed: int, learns: bool) -> None:
        super().__init__()
        self.model, self.seed = model.requires_grad_(learns), seed
        self.statistics = Statistics(len(model.input_mean)) if learns else None

    def forward(self, frames: Tensor, lengths: Tensor, inputs: Mapping[str, Tensor]) -> Rendered:
        """Frames (B, T, D) every `hop` samples; inputs `samples` (B,) and `f0` (B, T)."""
        samples, f0, hop = inputs["samples"], inputs["f0"], self.model.settings.hop
        counts = torch.div(samples + hop - 1, hop, rounding_mode="floor")
        size = int(counts.max())
        if min(frames.shape[1], f0.shape[1]) < size:
            raise DataError(
                f"{int(samples.max())} samples need {size} frames of {hop}; the upstream gives {frames.shape[1]}, and F0 has {f0.shape[1]}"
            )
        mel, f0 = zero_beyond(frames[:, :size], counts), zero_beyond(f0[:, :size, None], counts)[:, :, 0]
        if self.training and self.statistics is not None:
            mean, std = self.statistics.take(mel, f0, counts)
            self.model.input_mean.copy_(mean)
            self.model.input_std.copy_(std)
        seeds = torch.randint(2**62, (len(f0),)).tolist() if self.training else [self.seed] * len(f0)
        draws = Seeded.of(seeds)
        rendering: Rendering = self.model(mel, f0, counts, draws)
        heard = int(samples.max())
        wav = zero_beyond(rendering.wav[:, :heard, None], samples)[:, :, 0]
        return Rendered(wav, rendering, f0, counts, draws)


class NsfVocoder(Resynthesis):
    """One member of the family on frames every 5 ms, with F0 that is given or WORLD's."""

    Config = NsfConfig
    config: NsfConfig
    frame_suffixes = (MEL,)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        if self.config.floor_hz >= self.config.ceiling_hz:
            raise UsageError(
                f"task.floor_hz ({self.config.floor_hz:g}) must lie below task.ceiling_hz ({self.config.ceiling_hz:g})"
            )
        if self.config.f0_folder is not None and self.config.f0_column is not None:
            raise UsageError("task.f0_folder and task.f0_column both say where F0 is: give one of them")
        if self.config.model.sample_rate != RATE:
            raise UsageError(f"task.model.sample_rate is {self.config.model.sample_rate}; this task is at {RATE} Hz")
        self.settings = self.config.model
        self.published: SourceFilter | None = None
        self._f0_files: dict[str, Path] = {}

    @property
    def trains(self) -> bool:
        return self.config.weights is None

    @property
    def hops(self) -> Mapping[str, int]:  # type: ignore[override]
        return {"f0": self.settings.hop}

    def corpora(self) -> dict[str, list[Item]]:
        if self.config.weights is not None and not hasattr(self, "spec"):
            self.weights = WeightFile.of(self.config.weights)
            self.published = read_nsf(self.config.weights)
            self.settings = self.published.settings
            self.notes.append(f"{self.settings.member} with {self.weights}")
        return super().corpora()

    def state(self) -> dict[str, Any]:
        return {"model": self.settings.model_dump()}

    def restore(self, state: Mapping[str, Any]) -> None:
        # What published weights are of is in the file, which a finished run does without.
        self.settings = NsfSettings.model_validate(state["model"])
        super().restore(state)

    def content(self, data: Measured, items: Mapping[str, Sequence[Item]]) -> dict[str, Any]:
        folder, column = self.config.f0_folder, self.config.f0_column
        if folder is None and column is None:
            return super().content(data, items)
        needed = [item for part in items.values() for item in part]
        self._f0_files = f0_files(folder, column, data.corpus, needed)
        return {**super().content(data, items), "f0": digest_of(self._f0_files, needed, self.settings.hop)}

    def sounds(self, item: Item, wav: Tensor, parts: Tensor | None) -> Sounds:
        given = self._f0_files.get(item.id)
        f0 = self._track(wav) if given is None else read_fitted(given, len(wav), self.settings.hop)
        return Sounds({"f0": f0}, {SOUND: wav})

    def _track(self, wav: Tensor) -> Tensor:
        asked = self.config
        tracking = Tracking(asked.tracker, asked.floor_hz, asked.ceiling_hz, 1000 * self.settings.hop / RATE)
        return extract_f0(wav, RATE, tracking, find=kept_track)

    def frames(self, path: Path) -> tuple[Tensor, int, Mapping[str, Tensor]]:
        """NII's raw files: a `.mfbsp`, with the `.f0` of the same stem beside it."""
        if self._upstream != FRONTEND:
            raise UsageError(
                f"{path} holds the frames of {FRONTEND}, and this run is on {self._upstream}: give it the audio"
            )
        beside = path.with_suffix(F0)
        if not beside.is_file():
            raise DataError(f"{path}: there is no {beside.name} beside it, and F0 cannot be had from mel frames")
        hop = self.settings.hop
        mel, f0, _ = paired(
            read_mel(path, self.settings.num_mels), read_f0(beside), str(path), hop=hop, sample_rate=RATE
        )
        return mel, len(mel) * hop, {"f0": f0}

    def head(self, upstream: UpstreamSpec) -> nn.Module:
        stride, offset = samples_between_frames(upstream)
        self._upstream = upstream.name
        hop, mels = self.settings.hop, self.settings.num_mels
        if (stride, upstream.out_dim) != (hop, mels) or abs(offset) > hop / 2:
            raise UsageError(
                f"{self.settings.member} takes {mels} values every {hop} samples ({1000 * hop / RATE:g} ms), the first around sample 0; this upstream gives "
                f"{upstream.out_dim} every {stride}, the first around sample {offset:g}. Take -u {FRONTEND}"
                + ("" if not self.trains else ", or set task.model.num_mels and task.model.hop")
            )
        self._model = self.published if self.published is not None else SourceFilter(self.settings)
        return Head(self._model, self.seed, learns=self.trains)

    def loss(self, output: Rendered, batch: Batch) -> tuple[Tensor, Tensor]:
        target, size = batch.labels[SOUND], output.rendering.wav.shape[1]
        target = nn.functional.pad(target, (0, size - target.shape[1]))
        heard = mask(batch.samples, size)
        rendering = output.rendering._replace(
            wav=output.rendering.wav * heard, blocks=tuple(block * heard for block in output.rendering.blocks)
        )
        # Of the model, the loss asks for settings alone, which are those of all heads of a grid.
        return nsf_loss(self._model, rendering, target, output.f0, output.lengths, output.draws)

    def waveform(self, output: Rendered) -> Tensor:
        return output.wav
