"""The probe: the same small Fourier-domain vocoder on every upstream, trained for the same number of steps on pieces of the same length."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor, nn

from headwater.nn.upstream import UpstreamSpec
from headwater.train.task import Batch
from headwater.train.windows import Windows
from headwater.vocoder.fourier import FourierSettings, FourierVocoder
from headwater.vocoder.objective import ProbeLoss

from .resynthesis import SOUND, Resynthesis, ResynthesisConfig, samples_between_frames
from .scoring import RATE

# Of long files that are resynthesised; the network sees far less than a second around each sample.
_WINDOW_SECONDS, _WINDOW_HOP_SECONDS = 30.0, 29.0


class ProbeConfig(ResynthesisConfig):
    """model: sizes of the vocoder. stft_weight, mel_weight: of the two parts of the loss."""

    crop_seconds: float | None = Field(1.0, gt=0)
    model: FourierSettings = Field(default_factory=FourierSettings)
    stft_weight: float = Field(1.0, ge=0)
    mel_weight: float = Field(1.0, ge=0)


class Head(nn.Module):
    """The vocoder as a head: as many samples as were heard."""

    def __init__(self, vocoder: FourierVocoder) -> None:
        super().__init__()
        self.vocoder = vocoder

    def forward(self, frames: Tensor, lengths: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B, T, D), (B,) -> (B, samples)."""
        wav: Tensor = self.vocoder(frames, lengths, inputs["samples"])
        return wav


class Vocoder(Resynthesis):
    """Frames of any upstream to the waveform."""

    Config = ProbeConfig
    config: ProbeConfig
    windows = Windows(_WINDOW_SECONDS, _WINDOW_HOP_SECONDS, RATE)

    def head(self, upstream: UpstreamSpec) -> nn.Module:
        # The loss has buffers and no parameters, so one serves all heads of a grid.
        self._loss = ProbeLoss(RATE, stft_weight=self.config.stft_weight, mel_weight=self.config.mel_weight)
        return Head(FourierVocoder(upstream.out_dim, *samples_between_frames(upstream), self.config.model))

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        total, count = self._loss.to(output.device)(output.float(), batch.labels[SOUND], batch.samples)
        return total, count
