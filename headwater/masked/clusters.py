"""Masked prediction of cluster numbers (HuBERT, https://arxiv.org/abs/2106.07447)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from headwater.config import FeatureSet, Place
from headwater.errors import DataError, UsageError
from headwater.masked.objective import MaskedSettings, MaskedSpans
from headwater.masked.spans import SpanSettings, compact
from headwater.nn.lengths import frame_index
from headwater.train.objective import Share
from headwater.units.folder import read_units

# Frames that one front-end has more or fewer of than another of the same hop.
AT_THE_ENDS = 3


class ClusterSettings(MaskedSettings):
    """Settings of masked prediction. The units are made by `headwater units`."""

    units: Place = Field(None, description="a folder of `headwater units`: what each frame's cluster is")
    mask: SpanSettings = Field(default_factory=lambda: SpanSettings(probability=0.8))


class MaskedPrediction(MaskedSpans):
    """Cross entropy, on masked frames, between the cluster of a frame and the cosines of the answer with a vector for each cluster, over a temperature."""

    Config = ClusterSettings
    config: ClusterSettings

    def __init__(self, config: ClusterSettings, features: FeatureSet | None = None) -> None:
        super().__init__(config, features)
        if config.units is None:
            raise UsageError(
                "model.units is missing: the folder with the units of this speech; `headwater units -u mfcc --data ... -p FOLDER` makes one"
            )
        self.units = read_units(config.units)
        if self.units.sample_rate != self.sample_rate:
            raise UsageError(
                f"{config.units}: its units are of speech at {self.units.sample_rate} Hz, and the model takes {self.sample_rate} Hz"
            )
        self.final = nn.Linear(self.encoder.hidden, config.final_dim)
        self.clusters = nn.Parameter(torch.rand(self.units.clusters, config.final_dim))

    def origins(self) -> dict[str, Any]:
        return {"units": {"sha256": self.units.sha256, "clusters": self.units.clusters, "of": self.units.source}}

    def check(self, sizes: Mapping[str, int]) -> None:
        missing = [name for name in sizes if name not in self.units.of]
        again = "make them of the same data: `headwater units --data ...`"
        if missing:
            raise DataError(
                f"{self.config.units}: no units for {len(missing)} of {len(sizes)} utterances, the first is {missing[0]!r}; {again}"
            )
        step = 1 if self.features is None else self.encoder.stride
        for name, size in sizes.items():
            found, expected = len(self.units.of[name]), size * step / self.units.stride
            if abs(found - expected) > AT_THE_ENDS:
                raise DataError(
                    f"{self.config.units}: {found} units of the utterance {name!r}, which has about {expected:.0f} frames; they are of other audio. {again}"
                )

    def forward(self, wavs: Sequence[Tensor], share: Share) -> tuple[Tensor, Tensor]:
        local, lengths = self.encoder.local(wavs)
        covered = self._own(self.covered(share), share, local.shape[1])
        context = self.encoder.context(local, lengths, covered, self.kept(share))
        answers, there = compact(context, covered)
        wanted, _ = compact(self.targets(share, lengths, local.shape[1]), covered)
        losses = functional.cross_entropy(self.logits(answers).transpose(1, 2), wanted, reduction="none")
        counts = there.sum(1).float()
        return (losses * there).sum(1) + self.penalty(local, lengths, counts), counts

    def logits(self, context: Tensor) -> Tensor:
        """(..., hidden) -> (..., clusters) float32."""
        with torch.autocast(context.device.type, enabled=False):
            answer = functional.normalize(self.final(context.float()), dim=-1)
            return answer @ functional.normalize(self.clusters.float(), dim=-1).T / self.config.temperature

    def targets(self, share: Share, lengths: Tensor, size: int) -> Tensor:
        """(B, T) int64: of each frame the unit nearest in time."""
        stride, offset = self.encoder.stride, self.encoder.offset
        # The first sample of a crop; features count frames.
        step = 1 if self.features is None else stride
        rows = [self.units.of[name] for name, _ in share.places]
        starts = torch.tensor([[step * start] for _, start in share.places])
        # Doubled, as the centre of a frame may lie between two samples.
        centres = 2 * (starts + stride * torch.arange(size)) + round(2 * offset)
        counts = torch.tensor([len(row) for row in rows])
        index = frame_index(centres, counts, 2 * self.units.stride, 2 * self.units.offset)
        found = [torch.from_numpy(row)[place] for row, place in zip(rows, index, strict=True)]
        return torch.stack(found).long().to(lengths.device)

    def heads(self) -> dict[str, Tensor]:
        return {
            "final_proj.weight": self.final.weight,
            "final_proj.bias": self.final.bias,
            "label_embs_concat": self.clusters,
        }
