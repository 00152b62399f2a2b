"""Copy-synthesis: analysis and synthesis with nothing learned in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from headwater.nn.lengths import pad
from headwater.nn.upstream import UpstreamSpec
from headwater.train.task import Batch, Item, Sounds
from headwater.vocoder.copy_synthesis import griffin_lim, mel_bound, world
from headwater.vocoder.mel import LogMel
from headwater.vocoder.objective import mel_distances
from headwater.vocoder.tracks import kept_track

from .resynthesis import SOUND, Resynthesis, ResynthesisConfig
from .scoring import RATE

System = Literal["world", "griffin_lim", "mel"]


class CopyConfig(ResynthesisConfig):
    """system: world (F0, envelope, aperiodicity), griffin_lim (magnitudes without phases) or mel (80 log mel magnitudes alone)."""

    system: System = "world"


class CopyHead(nn.Module):
    """The sound by way of its own analysis. It has no parameters, and does not look at the frames."""

    def __init__(self, system: System, seed: int) -> None:
        super().__init__()
        self.seed = seed
        mel = LogMel(RATE)
        systems: dict[System, Callable[[Tensor], Tensor]] = {
            "world": lambda wav: world(wav, RATE, find=kept_track),
            "griffin_lim": lambda wav: griffin_lim(wav, RATE, generator=self._generator()),
            "mel": lambda wav: mel_bound(wav, mel, generator=self._generator()),
        }
        self.copy = systems[system]

    def forward(self, frames: Tensor, lengths: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B, samples), each utterance by itself."""
        sound, samples = inputs[SOUND], inputs["samples"].tolist()
        copies = [self.copy(wav[:size].cpu())[:, None] for wav, size in zip(sound, samples, strict=True)]
        return pad(copies)[0][:, :, 0].to(sound.device)

    def _generator(self) -> torch.Generator:
        # The same for every utterance: its copy depends on nothing but its sound.
        return torch.Generator().manual_seed(self.seed)


class CopySynthesis(Resynthesis):
    """A system without training."""

    Config = CopyConfig
    config: CopyConfig

    @property
    def trains(self) -> bool:
        return False

    def sounds(self, item: Item, wav: Tensor, parts: Tensor | None) -> Sounds:
        return Sounds({SOUND: wav}, {SOUND: wav})

    def head(self, upstream: UpstreamSpec) -> nn.Module:
        return CopyHead(self.config.system, self.seed)

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        # There is nothing that it could teach; it is the distance that other systems are chosen by.
        distances = mel_distances(output, batch.labels[SOUND], batch.samples, LogMel(RATE))
        return distances.sum(), distances.new_tensor(len(distances))
