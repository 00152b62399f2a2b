"""The pretraining contract: a module that makes a loss of waveforms, and says what it leaves behind as an upstream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from headwater.config import FeatureSet, Section


def _alone(value: Tensor) -> Tensor:
    return value


@dataclass(frozen=True)
class Share:
    """One rank's part of a batch, and what it must know of the whole to draw what one process would draw.

    lengths: (B,) int64 on the training device, frames of all utterances of the batch. rank, ranks: this rank holds the utterances `[rank::ranks]`.
    generator: on the training device, seeded by the run's seed and the place in training, the same on all ranks.
    groups: where utterances belong together (`Objective.together`), how many each group of the batch has, in their order: ranks then hold whole groups,
    `[rank::ranks]` of them.
    places: of each utterance that this rank holds, its id and its first sample (or frame of features) there.
    total: a tensor of this rank -> the sum over all ranks, with its gradient; all ranks must call it equally often.
    """

    lengths: Tensor
    rank: int
    ranks: int
    generator: torch.Generator
    groups: tuple[int, ...] = ()
    places: tuple[tuple[str, int], ...] = ()
    total: Callable[[Tensor], Tensor] = _alone

    @property
    def own_groups(self) -> tuple[int, ...]:
        """How many utterances each group that this rank holds has."""
        return self.groups[self.rank :: self.ranks]

    @property
    def rows(self) -> Tensor:
        """(B',) int64: which utterances of the batch this rank holds."""
        every = torch.arange(len(self.lengths), device=self.lengths.device)
        if not self.groups:
            return every[self.rank :: self.ranks]
        return torch.cat(every.split(self.groups)[self.rank :: self.ranks])


class Objective(nn.Module, ABC):
    """Base of all objectives. Its parameters are what is trained; `forward` is the loss.

    sample_rate: of the waveforms, in Hz. level: dB that whole utterances are brought to before they are cut (`headwater.audio.frontends.normalise_level`).
    crop: samples of the longest piece that is trained on, None for whole utterances, where the run does not say. upstream: name of the upstream that it trains.
    features: what it is trained on in the place of waveforms. together: so many utterances of one speaker make one item of a batch.
    """

    Config: ClassVar[type[Section]] = Section
    upstream: str
    sample_rate: int
    level: float | None = None
    crop: int | None = None
    together: int = 1

    def __init__(self, config: Any, features: FeatureSet | None = None) -> None:
        super().__init__()
        self.config, self.features = config, features

    @abstractmethod
    def frames(self, samples: int) -> int:
        """Frames of a waveform of so many samples."""

    @abstractmethod
    def too_short(self, frames: int) -> bool:
        """Whether there is nothing to learn from an utterance of so many frames."""

    @abstractmethod
    def forward(self, wavs: Sequence[Tensor], share: Share) -> tuple[Tensor, Tensor]:
        """Waveforms (samples,) or features (T, D) of a share -> sum and count of the loss for each, (B,) float32."""

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """As BERT has them: biases and the weights of norms are not decayed."""
        plain = [parameter for parameter in self.parameters() if parameter.dim() < 2]
        decayed = [parameter for parameter in self.parameters() if parameter.dim() >= 2]
        return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]

    @abstractmethod
    def export(self, path: Path, facts: dict[str, Any]) -> None:
        """Write what was trained as a weight file that loads as an upstream; `facts` go into its header."""

    def origins(self) -> dict[str, Any]:
        """What else than settings and speech decides what is learnt, such as the weights of a teacher: part of what makes a run this run."""
        return {}

    def check(self, sizes: Mapping[str, int]) -> None:
        """Told of all utterances before training begins: ids and how long each is, in samples, or in frames of features.

        `DataError` where it lacks what it must know of one, or knows it of other speech.
        """

    def picture(self, wav: Tensor) -> bytes | None:
        """What the model makes of one utterance, as PNG, for TensorBoard and the run folder; None where there is nothing to see."""
        return None
