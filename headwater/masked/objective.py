"""What both objectives on masked spans share: an encoder, spans, and how they end as a weight file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from headwater.config import FeatureSet
from headwater.masked.encoders import EncoderOptions, FrameEncoder, build_encoder
from headwater.masked.spans import SpanSettings, draw
from headwater.train.objective import Objective, Share


class MaskedSettings(EncoderOptions):
    """What an objective on masked spans can be told."""

    mask: SpanSettings = Field(default_factory=lambda: SpanSettings())
    final_dim: int = Field(256, ge=1, description="dims in which answers and targets are compared")
    temperature: float = Field(0.1, gt=0, description="by which their cosines are divided")


class MaskedSpans(Objective):
    """Frames are hidden in spans; `forward` of a subclass compares what the encoder makes of them with a target."""

    Config = MaskedSettings
    config: Any

    def __init__(self, config: Any, features: FeatureSet | None = None) -> None:
        """`UsageError` for settings that describe no model, or none for this data."""
        super().__init__(config, features)
        self.encoder = build_encoder(config, features)
        self.sample_rate, self.level, self.crop = self.encoder.sample_rate, self.encoder.level, self.encoder.crop
        if isinstance(self.encoder, FrameEncoder):
            self.upstream = f"{self.upstream}_frames"

    def frames(self, samples: int) -> int:
        return self.encoder.frames(samples)

    def too_short(self, frames: int) -> bool:
        return bool(self.config.mask.too_short(frames))

    def covered(self, share: Share) -> Tensor:
        """(B, T) bool: the masked frames of all utterances of the batch."""
        return draw(self.config.mask, share.lengths, share.generator)

    def kept(self, share: Share) -> list[bool] | None:
        """The layers that have a part in this step, the same on all ranks."""
        chance = torch.rand(self.encoder.depth, generator=share.generator, device=share.generator.device)
        if not self.training or self.config.layerdrop == 0:
            return None
        return [bool(kept) for kept in (chance >= self.config.layerdrop).tolist()]

    def penalty(self, local: Tensor, lengths: Tensor, counts: Tensor) -> Tensor:
        """(B,): the mean square of an utterance's local frames, times its number of masked frames and the weight."""
        if self.config.feature_penalty == 0:
            return counts * 0.0
        valid = torch.arange(local.shape[1], device=local.device) < lengths[:, None]
        squares = local.float().square().mean(-1).masked_fill(~valid, 0.0).sum(1) / lengths
        return self.config.feature_penalty * squares * counts

    def heads(self) -> dict[str, Tensor]:
        """What a weight file on waveforms keeps besides the encoder."""
        return {}

    def export(self, path: Path, facts: dict[str, Any]) -> None:
        self.encoder.write(path, self.upstream, self.heads(), facts)

    def _own(self, every: Tensor, share: Share, size: int) -> Tensor:
        """This rank's rows of what was drawn for all, of utterances of at most `size` frames."""
        return every[share.rows][:, :size]
