"""Contrastive prediction (https://arxiv.org/abs/2002.02848): what the convolutions will say next is told from among what they say elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from headwater.config import FeatureSet, Section
from headwater.errors import UsageError
from headwater.nn.lengths import mask, zero_beyond
from headwater.pretrained.objective import NetworkObjective, NetworkSettings
from headwater.train.objective import Share


class Task(Section):
    """CPC_audio's names."""

    sizeWindow: int = Field(20480, ge=0, description="samples of a crop; 0 for whole utterances")
    nPredicts: int = Field(12, ge=1, le=1000, description="how many of the next frames are told")
    negativeSamplingExt: int = Field(128, ge=1, le=10**5, description="frames that the right one is told from")
    samplingType: Literal["samespeaker", "samesequence"] = Field("samespeaker", description="where those come from")
    batchSizeGPU: int = Field(
        8, ge=1, le=1000, description="utterances of one speaker that give each other negatives: one item of a batch"
    )
    rnnMode: Literal["transformer", "linear"] = Field("transformer", description="what tells each step")


class Settings(NetworkSettings):
    task: Task = Field(default_factory=lambda: Task())


class Predictors(nn.Module):
    """c (B, T, in_dim) -> what each of the next `steps` frames will be, (B, T, steps, out_dim): a map for each step, or a layer of a Transformer before it."""

    def __init__(self, in_dim: int, out_dim: int, steps: int, *, attentive: bool) -> None:
        super().__init__()
        self.steps = steps
        self.layers = nn.ModuleList(_causal_layer(in_dim) for _ in range(steps * attentive))
        # Attention keeps the width, so that a map is needed only between different ones.
        self.maps = None if attentive and in_dim == out_dim else nn.Parameter(_uniform(steps, out_dim, in_dim))

    def forward(self, c: Tensor) -> Tensor:
        before = torch.ones(c.shape[1], c.shape[1], dtype=torch.bool, device=c.device).triu(1)
        answers = [layer(c, src_mask=before, is_causal=True) for layer in self.layers]
        hidden = torch.stack(answers, 2) if answers else c[:, :, None].expand(-1, -1, self.steps, -1)
        return hidden if self.maps is None else torch.einsum("btkc,kzc->btkz", hidden, self.maps)


def _causal_layer(dim: int) -> nn.Module:
    return nn.TransformerEncoderLayer(dim, _HEADS, 2048, dropout=0.1, batch_first=True)


_HEADS = 8


def _uniform(steps: int, out_dim: int, in_dim: int) -> Tensor:
    return torch.empty(steps, out_dim, in_dim).uniform_(-(in_dim**-0.5), in_dim**-0.5)


class Contrast(NetworkObjective):
    """Cross entropy of the right frame among negatives, summed over the steps ahead, over all places that have as many frames behind them.

    The score of a frame is the mean over channels of its product with what was told. Negatives are frames of the group (utterances of one speaker) at other
    times, the same ones for all steps.
    """

    Config = Settings
    config: Settings
    model: Any

    def __init__(self, config: Settings, features: FeatureSet | None = None) -> None:
        super().__init__(config, features)
        task, network = config.task, config.network
        if network["cpc_mode"] is not None:
            raise UsageError(
                "model.network.cpc_mode: a recurrent net that goes from the end has seen what it should tell"
            )
        if task.rnnMode == "transformer" and network["hiddenGar"] % _HEADS:
            raise UsageError(
                f"model.network.hiddenGar is {network['hiddenGar']}; with model.task.rnnMode=transformer it is a multiple of {_HEADS}"
            )
        self.crop = task.sizeWindow or None
        self.together = task.batchSizeGPU if task.samplingType == "samespeaker" else 1
        # Torch draws biases as large as quiet speech is: the first norm would see little else, and nothing is learnt for thousands of steps.
        for layer in self.model.network.encoder:
            nn.init.zeros_(layer.conv.bias)
        self.predictors = Predictors(
            network["hiddenGar"], network["hiddenEncoder"], task.nPredicts, attentive=task.rnnMode == "transformer"
        )

    def too_short(self, frames: int) -> bool:
        return frames <= self.config.task.nPredicts

    def forward(self, wavs: Sequence[Tensor], share: Share) -> tuple[Tensor, Tensor]:
        network: Any = self.model.network
        z, lengths = network.encode(*self.inputs(wavs))
        z = zero_beyond(z, lengths)
        c, _ = network.contextual(z, lengths)
        steps = self.config.task.nPredicts
        told = self.predictors(c[:, : z.shape[1] - steps])
        members, moves = self._draws(share, told.shape[1])
        sums, start = [], 0
        for size in share.own_groups or [1] * len(z):
            rows = slice(start, start + size)
            others = elsewhere(lengths[rows], members[rows], moves[rows], z.shape[1])
            sums.append(contrast(told[rows], z[rows], others))
            start += size
        places = lengths - steps
        valid = mask(places, told.shape[1])
        return (torch.cat(sums).sum(2) * valid).sum(1), places.float()

    def _draws(self, share: Share, places: int) -> tuple[Tensor, Tensor]:
        """Two draws in [0, 1) for each negative of a share (B', places, negatives), of those for the whole batch: any number of processes has the same."""
        task = self.config.task
        shape = (len(share.lengths), int(share.lengths.max()) - task.nPredicts, task.negativeSamplingExt)
        first, second = (
            torch.rand(shape, generator=share.generator, device=share.lengths.device)[share.rows, :places]
            for _ in range(2)
        )
        return first, second


def elsewhere(lengths: Tensor, members: Tensor, moves: Tensor, size: int) -> Tensor:
    """Where the negatives of each place of a group lie among its (B * size) frames: any utterance of it, but never at the same time.

    lengths: (B,). members, moves: (B, places, negatives) in [0, 1): which utterance, and how many frames further on, around its end.
    """
    chosen = (members * len(lengths)).long().clamp(max=len(lengths) - 1)
    frames = lengths[chosen]
    move = 1 + torch.minimum((moves * (frames - 1)).long(), frames - 2)
    time = torch.arange(members.shape[1], device=lengths.device)[:, None]
    return chosen * size + (time + move) % frames


def contrast(told: Tensor, z: Tensor, others: Tensor) -> Tensor:
    """Cross entropies (B, places, steps), float32.

    told: (B, places, steps, D), of the frames 1 to `steps` behind each place. z: (B, T, D) with T = places + steps. others: (B, places, negatives) int64,
    negatives among the (B * T) frames.
    """
    steps, dim = told.shape[2:]
    # (B, places, steps, D): the frames that come.
    right = z[:, 1:].unfold(1, steps, 1).transpose(2, 3)
    positive = (told * right).sum(3, keepdim=True)
    # An embedding's gradient is summed quickly.
    negative = told @ functional.embedding(others, z.reshape(-1, dim)).transpose(2, 3)
    scores = torch.cat([positive, negative.to(positive)], 3).float() / dim
    return scores.logsumexp(3) - scores[..., 0]
