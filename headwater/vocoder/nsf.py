"""The neural source-filter vocoders of NII as one model with three members: hn-nsf, hn-sinc-nsf-9, cyc-noise-nsf-4.

Wang, Takaki & Yamagishi, IEEE/ACM TASLP 2020 (hn-nsf); Wang & Yamagishi, SSW 2019 (sinc) and Interspeech 2020 (cyclic noise). A source signal made of F0 is
filtered by networks that mel frames and F0 condition; what comes out is whole frames of samples. Numbers are those of project-NN-Pytorch-scripts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from pydantic import Field
from torch import Tensor, nn

from headwater.config import Section
from headwater.errors import UsageError
from headwater.nn.lengths import mask
from headwater.vocoder.condition import Condition, ConditionModule, Padding
from headwater.vocoder.draws import Draws
from headwater.vocoder.filters import FilterBlock, FixedMix, SincMix
from headwater.vocoder.source import CyclicNoiseSource, HarmonicSource, Sources

Member = Literal["hn-nsf", "hn-sinc-nsf-9", "cyc-noise-nsf-4"]


@dataclass(frozen=True)
class Traits:
    """In what the members differ.

    Attributes:
        sinc: filters with a predicted cut-off, not fixed ones.
        cyclic: cyclic noise for a source, biases in the filter blocks, a noise branch without skip; and losses on each harmonic block.
        padding: of the moving averages after upsampling.
        f0_in_context: whether smoothed F0 is part of what conditions the filters.
    """

    sinc: bool
    cyclic: bool
    padding: Padding
    f0_in_context: bool


TRAITS: dict[Member, Traits] = {
    "hn-nsf": Traits(sinc=False, cyclic=False, padding="zeros", f0_in_context=False),
    "hn-sinc-nsf-9": Traits(sinc=True, cyclic=False, padding="replicate", f0_in_context=True),
    "cyc-noise-nsf-4": Traits(sinc=True, cyclic=True, padding="replicate", f0_in_context=False),
}
MEMBERS: tuple[Member, ...] = get_args(Member)


class NsfSettings(Section):
    """Sizes of a model; the defaults are those of the published weights, which no other sizes can read."""

    member: Member = "hn-sinc-nsf-9"
    num_mels: int = Field(80, ge=1)
    sample_rate: int = Field(16000, ge=1, description="in Hz")
    hop: int = Field(80, ge=2, description="samples a frame")
    harmonics: int = Field(8, ge=1, description="sines of the source, F0 among them")
    channels: int = Field(64, ge=4, multiple_of=4)
    blocks: int = Field(5, ge=1, description="filter blocks of the harmonic branch")
    layers: int = Field(
        10, ge=1, description="dilated convolutions in each of them; the noise branch has one block of half as many"
    )


class Rendering(NamedTuple):
    """What a model makes of a batch.

    Attributes:
        wav: (B, frames * hop), in [-1, 1] for a trained model; zero beyond each utterance.
        blocks: outputs of the harmonic blocks, like `wav`, for the masked loss.
        condition: what the filters got.
    """

    wav: Tensor
    blocks: tuple[Tensor, ...]
    condition: Condition


class SourceFilter(nn.Module):
    """One member of the family. Random numbers come from the `draws` it is given, in the order that its source states.

    F0 is taken as it is, in Hz with 0 where unvoiced. Unvoiced utterances are rendered from noise alone.
    """

    input_mean: Tensor
    input_std: Tensor
    output_mean: Tensor
    output_std: Tensor

    def __init__(self, settings: NsfSettings) -> None:
        super().__init__()
        self.settings, self.traits = settings, TRAITS[settings.member]
        in_dim = settings.num_mels + 1
        for name, value in {
            "input_mean": torch.zeros(in_dim),
            "input_std": torch.ones(in_dim),
            "output_mean": torch.zeros(1),
            "output_std": torch.ones(1),
        }.items():
            self.register_buffer(name, value)
        self.conditioner = ConditionModule(
            in_dim,
            settings.channels,
            settings.hop,
            padding=self.traits.padding,
            cut_off=self.traits.sinc,
            f0_in_context=self.traits.f0_in_context,
        )
        self.source: HarmonicSource | CyclicNoiseSource = (
            CyclicNoiseSource(settings.hop, settings.sample_rate)
            if self.traits.cyclic
            else HarmonicSource(settings.harmonics, settings.hop, settings.sample_rate)
        )
        self.harmonic_blocks = nn.ModuleList(
            FilterBlock(settings.layers, settings.channels, bias=self.traits.cyclic) for _ in range(settings.blocks)
        )
        self.noise_block = FilterBlock(
            max(1, settings.layers // 2), settings.channels, bias=self.traits.cyclic, residual=not self.traits.cyclic
        )
        self.mix: FixedMix | SincMix = SincMix() if self.traits.sinc else FixedMix()

    def forward(self, mel: Tensor, f0: Tensor, lengths: Tensor, draws: Draws) -> Rendering:
        """Waveforms of a batch.

        Args:
            mel: (B, T, num_mels), not normalised (`headwater.audio.frontends.melspec.NiiMel`).
            f0: (B, T) in Hz, 0 where unvoiced and beyond each length.
            lengths: (B,) frames.

        Raises:
            UsageError: shapes that do not go together; `headwater.vocoder.pairing.paired` makes them of files, or says why it cannot.
        """
        self._check(mel, f0, lengths)
        sources = self.source(f0, lengths.tolist(), draws)
        condition = self.condition(mel, f0, lengths)
        wav, outputs = self.filtered(sources, condition)
        beyond = ~mask(lengths * self.settings.hop, wav.shape[1])
        wav, *blocks = (signal.masked_fill(beyond, 0.0) for signal in (wav, *outputs))
        return Rendering(wav, tuple(blocks), condition)

    def condition(self, mel: Tensor, f0: Tensor, lengths: Tensor) -> Condition:
        """What conditions the filters, from features that are not normalised."""
        return self.conditioner(self.normalised(mel, f0), f0, lengths)

    def normalised(self, mel: Tensor, f0: Tensor) -> Tensor:
        """(B, T, num_mels + 1) by the training set's mean and deviation; those of F0 are of its voiced frames."""
        return (torch.cat([mel, f0[:, :, None]], 2) - self.input_mean) / self.input_std

    def filtered(self, sources: Sources, condition: Condition) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, samples), and what each harmonic block gave."""
        outputs, signal = [], sources.harmonic
        for block in self.harmonic_blocks:
            signal = block(signal, condition.context)
            outputs.append(signal)
        noise = self.noise_block(sources.noise, condition.context)
        mixed = self.mix(signal, noise, condition)
        return mixed * self.output_std + self.output_mean, tuple(outputs)

    def _check(self, mel: Tensor, f0: Tensor, lengths: Tensor) -> None:
        if mel.dim() != 3 or mel.shape[2] != self.settings.num_mels:
            raise UsageError(
                f"{self.settings.member} takes mel frames (B, T, {self.settings.num_mels}), not {tuple(mel.shape)}"
            )
        if f0.shape != mel.shape[:2] or lengths.shape != mel.shape[:1]:
            raise UsageError(
                f"mel frames {tuple(mel.shape)}, F0 {tuple(f0.shape)} and lengths {tuple(lengths.shape)} do not go together"
            )
