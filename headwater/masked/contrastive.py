"""Contrastive learning against quantized frames (wav2vec 2.0, https://arxiv.org/abs/2006.11477)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from headwater.config import FeatureSet, Section
from headwater.config import Share as Part
from headwater.errors import UsageError
from headwater.masked.objective import MaskedSettings, MaskedSpans
from headwater.masked.spans import SpanSettings, compact
from headwater.train.objective import Share


class QuantizerSettings(Section):
    """Codebooks: an entry of each is drawn (Gumbel softmax), and they are joined."""

    groups: int = Field(2, ge=1, description="codebooks")
    entries: int = Field(320, ge=1, description="of each")
    dim: int = Field(256, ge=1, description="of the entries of all groups together")
    hottest: float = Field(2.0, gt=0, description="the temperature of the draw at first")
    coldest: float = Field(0.5, gt=0)
    cooling: float = Field(0.999995, gt=0, le=1, description="the factor of a batch")


class ContrastiveSettings(MaskedSettings):
    """Settings of wav2vec 2.0's objective."""

    mask: SpanSettings = Field(default_factory=lambda: SpanSettings(probability=0.65))
    quantizer: QuantizerSettings = Field(default_factory=lambda: QuantizerSettings())
    negatives: int = Field(100, ge=1, description="other masked frames of the utterance that each is compared with")
    diversity: float = Field(0.1, ge=0, description="weight of the share of entries that are not used")
    target_dropout: Part = Field(0.0, description="of the frames that enter the quantizer")


class Quantized(NamedTuple):
    """entries (B, M, dim) float32; codes (B, M, groups) int64; likely (B, M, groups, entries) float32, the probability of each."""

    entries: Tensor
    codes: Tensor
    likely: Tensor


class Quantizer(nn.Module):
    """Frames -> joined entries, and how likely each entry was. In training drawn with noise that is given, else the likeliest ones."""

    def __init__(self, in_dim: int, settings: QuantizerSettings) -> None:
        super().__init__()
        if settings.dim % settings.groups:
            raise UsageError(f"model.quantizer.dim {settings.dim} is not a multiple of groups {settings.groups}")
        self.settings = settings
        self.weight_proj = nn.Linear(in_dim, settings.groups * settings.entries)
        self.codevectors = nn.Parameter(
            torch.rand(1, settings.groups * settings.entries, settings.dim // settings.groups)
        )
        nn.init.normal_(self.weight_proj.weight)
        nn.init.zeros_(self.weight_proj.bias)

    def forward(self, x: Tensor, noise: Tensor | None, temperature: float) -> Quantized:
        """Frames (B, M, in_dim), Gumbel noise (B, M, groups, entries)."""
        scores = self.weight_proj(x).float().unflatten(-1, (self.settings.groups, self.settings.entries))
        likely = scores.softmax(-1)
        soft = likely if noise is None else ((scores + noise) / temperature).softmax(-1)
        codes = soft.argmax(-1)
        # The one drawn in value, the soft one in gradient.
        hot = functional.one_hot(codes, self.settings.entries).to(soft) + soft - soft.detach()
        entries = self.codevectors.float().view(self.settings.groups, self.settings.entries, -1)
        return Quantized(torch.einsum("bmgv,gvd->bmgd", hot, entries).flatten(2), codes, likely)


class Contrastive(MaskedSpans):
    """The answer on a masked frame has to be nearer (in cosine) to the quantized frame than to those of other masked frames of the utterance.

    Besides, all entries of the codebooks should be in use (their mean probabilities over a batch), and what convolutions give should be small.
    On held-out speech each utterance is a batch of its own, so that the loss does not depend on how they are put together.
    """

    Config = ContrastiveSettings
    config: ContrastiveSettings
    batches: Tensor

    def __init__(self, config: ContrastiveSettings, features: FeatureSet | None = None) -> None:
        super().__init__(config, features)
        self.quantizer = Quantizer(self.encoder.local_dim, config.quantizer)
        self.project_q = nn.Linear(config.quantizer.dim, config.final_dim)
        self.project_hid = nn.Linear(self.encoder.hidden, config.final_dim)
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))  # that were trained on

    def forward(self, wavs: Sequence[Tensor], share: Share) -> tuple[Tensor, Tensor]:
        local, lengths = self.encoder.local(wavs)
        every = self.covered(share)
        negatives, noise = self._drawn(every.sum(1), share)
        covered = self._own(every, share, local.shape[1])
        context = self.encoder.context(local, lengths, covered, self.kept(share))
        frames = functional.dropout(self.encoder.normed(local), self.config.target_dropout, self.training)
        masked, there = compact(frames, covered)
        answers, _ = compact(context, covered)
        most = there.shape[1]
        with torch.autocast(local.device.type, enabled=False):
            quantized = self.quantizer(masked.float(), None if noise is None else noise[:, :most], self.heat())
            logits = self.logits(answers, quantized, negatives[:, :most])
        wanted = torch.zeros(logits.shape[:2], dtype=torch.int64, device=logits.device)
        losses = functional.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")
        counts = there.sum(1).float()
        if self.training:
            self.batches += 1
        unused = self.unused(quantized.likely, there, share)
        sums = (losses * there).sum(1) + self.config.diversity * unused * counts
        return sums + self.penalty(local, lengths, counts), counts

    def heat(self) -> float:
        """The temperature of the draw, which cools with the batches seen."""
        chosen = self.config.quantizer
        return max(chosen.coldest, chosen.hottest * chosen.cooling ** int(self.batches))

    def logits(self, answers: Tensor, quantized: Quantized, negatives: Tensor) -> Tensor:
        """Answers (B, M, hidden), places among the M (B, M, N) -> (B, M, 1 + N) float32; the true one comes first, its doubles are ruled out."""
        found = functional.normalize(self.project_hid(answers.float()), dim=-1)
        targets = functional.normalize(self.project_q(quantized.entries), dim=-1)
        # Of each masked frame with every other: far fewer than there are negatives to copy.
        every = found @ targets.transpose(1, 2) / self.config.temperature
        codes = quantized.codes
        same = (codes[:, :, None] == codes[:, None]).all(-1)
        others = every.masked_fill(same, -torch.inf).gather(2, negatives)
        return torch.cat([every.diagonal(dim1=1, dim2=2)[:, :, None], others], -1)

    def unused(self, likely: Tensor, there: Tensor, share: Share) -> Tensor:
        """(B,): the share of entries not in use, by the perplexity of their mean probabilities: of the whole batch in training, else of each utterance."""
        summed = (likely * there[:, :, None, None]).sum(1)
        counts = there.sum(1)[:, None, None].float()
        if self.training:
            summed = share.total(summed.sum(0))[None]
            counts = share.total(counts.sum(0))[None]
        mean = summed / counts
        perplexity = (-(mean * (mean + 1e-7).log()).sum(-1)).exp().sum(-1)
        size = self.config.quantizer.groups * self.config.quantizer.entries
        return ((size - perplexity) / size).expand(len(there))

    def _drawn(self, counts: Tensor, share: Share) -> tuple[Tensor, Tensor | None]:
        """What this rank needs of what is drawn for all: places of negatives (B, M, N), and the noise of the draw, in training."""
        batch, most, device = len(counts), int(counts.max()), counts.device
        chance = torch.rand(batch, most, self.config.negatives, generator=share.generator, device=device)
        # Any but the frame itself.
        places = (chance * (counts - 1)[:, None, None]).long()
        places = places + (places >= torch.arange(most, device=device)[None, :, None])
        places = torch.minimum(places, (counts - 1)[:, None, None])
        if not self.training:
            return places[share.rows], None
        chosen = self.config.quantizer
        size = (batch, most, chosen.groups, chosen.entries)
        noise = torch.rand(size, generator=share.generator, device=device).clamp(min=1e-20)
        return places[share.rows], -(-noise.log()).clamp(min=1e-20).log()[share.rows]

    def heads(self) -> dict[str, Tensor]:
        parts = {"quantizer": self.quantizer, "project_q": self.project_q, "project_hid": self.project_hid}
        return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
