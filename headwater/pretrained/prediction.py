"""Predictive coding: an acoustic frame is told from those before it (APC, VQ-APC) or from those around it (NPC)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from headwater.config import FeatureSet, Section
from headwater.nn.convolution import FrameBatchNorm
from headwater.nn.lengths import mask
from headwater.nn.quantizers import gumbel
from headwater.pretrained.objective import NetworkObjective, NetworkSettings
from headwater.train.objective import Share


class Task(Section):
    """Of both."""

    sequence_length: int = Field(1500, ge=0, description="frames of the longest crop; 0 for whole utterances")


class ForetellingTask(Task):
    """S3PRL's name."""

    n_future: int = Field(5, ge=1, description="so many frames ahead lies the one to be told")


class Settings(NetworkSettings):
    """NPC's."""

    task: Task = Field(default_factory=lambda: Task())


class ForetellingSettings(NetworkSettings):
    """APC's."""

    task: ForetellingTask = Field(default_factory=lambda: ForetellingTask())


class FramePrediction(NetworkObjective):
    """L1 between frames and what the network tells of them from those around, over all valid elements.

    The network's last state is what `predict` makes frames of. Source: https://arxiv.org/abs/2011.00406.
    """

    Config: ClassVar[type[NetworkSettings]] = Settings
    ahead: int = 0

    def __init__(self, config: Any, features: FeatureSet | None = None) -> None:
        super().__init__(config, features)
        self.crop = config.task.sequence_length * self.stride or None
        # The modules that make statistics of a whole batch.
        self.norms = [module for module in self.model.modules() if isinstance(module, FrameBatchNorm)]

    def too_short(self, frames: int) -> bool:
        return frames <= max(1, self.ahead)

    def forward(self, wavs: Sequence[Tensor], share: Share) -> tuple[Tensor, Tensor]:
        x, lengths = self.inputs(wavs)
        lengths = lengths - self.ahead
        size = x.shape[1] - self.ahead
        for norm in self.norms:
            norm.total = share.total
        found = self._told(x[:, :size], lengths, self._noise(share, size))
        valid = mask(lengths, size)[:, :, None]
        distance = (found - x[:, self.ahead :]).abs() * valid
        return distance.sum((1, 2)), lengths.float() * x.shape[2]

    def _told(self, x: Tensor, lengths: Tensor, noise: Sequence[Tensor] | None = None) -> Tensor:
        network: Any = self.model.network
        return network.predict(network(x, lengths)[-1], noise)[0].float()

    def _noise(self, share: Share, size: int) -> list[Tensor] | None:
        """What draws the codes of a share: drawn for the whole batch, so that any number of processes has the same."""
        quantizer: Any = self.model.network.quantizer
        if quantizer is None or not self.training:
            return None
        frames = int(share.lengths.max()) - self.ahead
        shapes = [(len(share.lengths), frames, entries) for entries in quantizer.entries]
        return [gumbel(shape, share.generator)[share.rows, :size] for shape in shapes]

    @torch.no_grad()
    def picture(self, wav: Tensor) -> bytes:
        from headwater.results.plots import spectrogram_plot

        x, lengths = self.inputs([wav])
        found = self._told(x[:, : x.shape[1] - self.ahead], lengths - self.ahead)
        rows = {"frames": x[:, self.ahead :], "told": found}
        return spectrogram_plot({name: row[0].cpu().numpy() for name, row in rows.items()})


class FrameForetelling(FramePrediction):
    """The same of frames some way ahead, from those before. Sources: https://arxiv.org/abs/1904.03240, https://arxiv.org/abs/2005.08392 (with codes)."""

    Config = ForetellingSettings

    def __init__(self, config: ForetellingSettings, features: FeatureSet | None = None) -> None:
        super().__init__(config, features)
        self.ahead = config.task.n_future
