"""Countermeasures as one family: what meets the frames (`INPUTS`), a trunk, an ending and a loss, chosen by name.

A new input is a class here and one line in `INPUTS`; trunks, endings and losses have such a table in the file of their name. The 36 systems of
https://arxiv.org/abs/2103.11326 and those on SSL front-ends of https://arxiv.org/abs/2111.07725 are recipes in config/downstream/asv_spoof.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor, nn

from headwater.audio.frontends.banks import linear_bank
from headwater.config import Section
from headwater.errors import nearest
from headwater.nn.lengths import zero_beyond
from headwater.nn.pooling import mean_pool

from .criteria import CRITERIA, Criterion
from .endings import ENDINGS, Ending
from .trunks import TRUNKS, Trunk


class FilterBank(nn.Module):
    """Power spectra (B, T, 257) -> (B, T, dim): log10((p W)^2 + eps), whose W (257, dim) starts as triangles of equal width and is trained."""

    EPS = torch.finfo(torch.float32).eps
    TOP = 8000.0  # Hz

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear_bank(dim, in_dim, self.TOP))

    def forward(self, frames: Tensor) -> Tensor:
        with torch.autocast(frames.device.type, enabled=False):
            return torch.log10((frames.float() @ self.weight).square() + self.EPS)


# What makes frames of `input_dim` of those the upstream gives.
INPUTS: dict[str, Callable[[int, int], nn.Module]] = {
    "none": lambda in_dim, dim: nn.Identity(),
    "bank": FilterBank,
    "linear": nn.Linear,
}


def _one_of(table: Mapping[str, Any]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in table:
            raise ValueError(f"it must be one of {', '.join(table)}.{nearest(name, list(table))}")
        return name

    return AfterValidator(check)


class SystemConfig(Section):
    """One countermeasure."""

    input: Annotated[str, _one_of(INPUTS)] = Field(
        "linear",
        description="none takes frames as they are; linear: a linear layer; bank: a trainable filter bank (on nii_power)",
    )
    input_dim: int = Field(128, ge=1, description="dims behind a linear layer or a filter bank (published: 128, 60)")
    window: int | None = Field(
        None,
        ge=2,
        description="frames that utterances are brought to: short ones are repeated, of long ones a piece is taken (published: 750)",
    )
    trunk: Annotated[str, _one_of(TRUNKS)] = "lcnn"
    dropout: float = Field(0.7, ge=0, lt=1, description="behind the LCNN")
    ending: Annotated[str, _one_of(ENDINGS)] = "lstm"
    hidden: int = Field(160, ge=2, multiple_of=2, description="units of ending fixed, halved by the max feature map")
    reduce: Literal["mean", "sum"] = Field("sum", description="over time, of ending lstm")
    embedding: int = Field(
        64,
        ge=2,
        description="dims of what the loss sees: one would leave the cosine no value but 1 and -1; sigmoid always has 1, ce and asoftmax have 2",
    )
    loss: Annotated[str, _one_of(CRITERIA)] = "p2sgrad"
    scale: float = Field(20.0, gt=0, description="of am and oc")
    margin: float = Field(0.9, ge=-1, le=1, description="of am, and of bona fide speech in oc")
    spoof_margin: float = Field(0.2, ge=-1, le=1, description="of spoofed speech in oc")
    weights: str | None = Field(None, description="start from this file: a state dict of the published code")

    @model_validator(mode="after")
    def _fixed_has_a_window(self) -> SystemConfig:
        if self.ending == "fixed" and self.window is None:
            raise ValueError(
                "ending fixed takes utterances of one length: give window, too (750 frames in the published systems)"
            )
        return self

    @property
    def pooling(self) -> Literal["mean"] | None:
        """ "mean" where all is affine before a mean over time, so that the mean of the frames is all the system needs."""
        affine = self.input in ("none", "linear") and self.trunk == "none"
        return "mean" if affine and self.ending == "mean" and self.window is None else None


class System(nn.Module):
    """(frames (B, T, D), lengths (B,), inputs) -> the embedding (B, E) that the loss sees, and its activation (`criteria`).

    inputs: "window" (B,) int64, any number for each utterance: in scoring it says which piece of a long one a `window` takes (the first where it is not given).
    The published code draws it. In training it is drawn from torch's default generator.
    """

    def __init__(self, config: SystemConfig, in_dim: int) -> None:
        super().__init__()
        self.config = config
        self.input = INPUTS[config.input](in_dim, config.input_dim)
        dim = in_dim if config.input == "none" else config.input_dim
        self.trunk: Trunk = TRUNKS[config.trunk](dim, config)
        steps = None if config.window is None else self.trunk.steps(config.window)
        self.ending: Ending = ENDINGS[config.ending](self.trunk.out_dim, steps, config)
        kind = CRITERIA[config.loss]
        size = config.embedding if kind.dims is None else kind.dims
        self.output = nn.Linear(self.ending.out_dim, size)
        self.criterion: Criterion = kind(size, config)

    def forward(
        self, frames: Tensor, lengths: Tensor, inputs: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        embedding = self.output(self.pool(frames, lengths, inputs))
        with torch.autocast(frames.device.type, enabled=False):
            embedding = embedding.float()
            return embedding, self.criterion(embedding)

    def pool(self, frames: Tensor, lengths: Tensor, inputs: Mapping[str, Tensor] | None = None) -> Tensor:
        """(B, T, D) -> (B, P): what the ending gives."""
        if self.config.pooling == "mean":
            # What is affine commutes with the mean: one row an utterance instead of one a frame.
            frames, lengths = mean_pool(frames, lengths)[:, None], torch.ones_like(lengths)
        if self.config.window is not None:
            frames, lengths = self._cut(frames, lengths, self.config.window, (inputs or {}).get("window"))
        x, lengths = self.trunk(zero_beyond(self.input(frames), lengths), lengths)
        pooled: Tensor = self.ending(x, lengths)
        return pooled

    def _cut(self, frames: Tensor, lengths: Tensor, window: int, numbers: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, T, D) -> (B, window, D). As published, an utterance's last frame, half of it beyond its end, has no part in it."""
        valid = (lengths - 1).clamp(min=1)
        starts = (valid - window + 1).clamp(min=1)
        if self.training:
            drawn = torch.rand(len(lengths), device=lengths.device, dtype=torch.float64)
            start = (drawn * starts).long()
        else:
            start = torch.zeros_like(starts) if numbers is None else numbers % starts
        place = start[:, None] + torch.arange(window, device=lengths.device) % valid[:, None]
        row = torch.arange(len(frames), device=frames.device)[:, None]
        return frames[row, place], torch.full_like(lengths, window)


def resolved(config: SystemConfig) -> SystemConfig:
    """The settings that `build` uses: those given, with what the file of `weights` says filled in."""
    if config.weights is None:
        return config
    from . import nii

    return nii.settled(config, nii.read(config.weights))


def build(config: SystemConfig, in_dim: int) -> System:
    """A system on frames of `in_dim`, with the weights of `config.weights` where it names a file.

    Raises:
        UsageError: dims that a part does not take; settings that contradict the file.
        DataError: the file is missing, broken or holds something else (`nii`).
    """
    if config.weights is None:
        return System(config, in_dim)
    from . import nii

    found = nii.read(config.weights)
    system = System(nii.settled(config, found), in_dim)
    nii.load(system, found)
    return system
