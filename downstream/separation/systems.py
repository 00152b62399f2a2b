"""The systems: what meets an upstream's frames and a mixture, what it is trained by, and what it says the sources are.

A further one is a subclass of `System`, a group of settings, and a line in `SYSTEMS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from headwater.errors import UsageError
from headwater.nn.lengths import frame_index
from headwater.nn.upstream import UpstreamSpec
from headwater.separation.convtasnet import ConvTasNet
from headwater.separation.losses import pit
from headwater.separation.onerest import one_and_rest_loss, take_all
from headwater.separation.oracle import oracle
from headwater.separation.spectrum import Stft
from headwater.separation.streaming import StreamingConvTasNet
from headwater.separation.superb import SuperbHead, apply_masks, mask_loss, match_frames, quiet_end
from headwater.train.task import Batch

from .settings import SeparationConfig

Inputs = Mapping[str, Tensor]  # mixture (B, T), samples (B,), and sources (B, C, T) of oracles
FEWEST = 16  # samples between frames of a spectrum that has anything to mask


class System(nn.Module, ABC):
    """frames (B, T', D), lengths (B,) and inputs -> whatever `losses` and `estimates` read. Both are functions of that and of settings alone."""

    @abstractmethod
    def losses(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B,) of each mixture, and which of them count (B,)."""

    @abstractmethod
    def estimates(self, output: Any, batch: Batch) -> list[Tensor]:
        """(C, samples) of each mixture, at its own length."""

    def stream(self) -> StreamingConvTasNet:
        """What separates a sound as it comes in. Raises UsageError where the system needs all of it."""
        raise UsageError(
            "this system needs a sound as a whole; a stream is separated by separation_convtasnet with task.net.causal=true"
        )


class SuperbSystem(System):
    """Masks on the spectrum of the mixture, whose frames are those of the upstream."""

    def __init__(self, config: SeparationConfig, upstream: UpstreamSpec) -> None:
        super().__init__()
        hop = Fraction(upstream.stride * config.rate, upstream.sample_rate)
        self.config = config.superb
        if hop.denominator != 1 or not FEWEST <= hop < self.config.win_length:
            raise UsageError(
                f"upstream {upstream.name!r} has a frame every {float(hop):g} samples at {config.rate} Hz, where masks lie on windows of "
                f"{self.config.win_length}: a whole number from {FEWEST} to {self.config.win_length - 1} is needed. Choose another upstream, task.rate or "
                "task.superb.win_length; for the waveform there is separation_convtasnet"
            )
        self.stft = self.config.stft(int(hop))
        self.net = SuperbHead(upstream.out_dim, self.config)

    def forward(self, frames: Tensor, lengths: Tensor, inputs: Inputs) -> Tensor:
        wanted = self.stft.frames(inputs["samples"])
        masks: Tensor = self.net(match_frames(frames, lengths, wanted), wanted)
        return masks

    def losses(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        mixture, sources = self.stft.analyse(batch.inputs["mixture"]), self.stft.analyse(batch.labels["sources"])
        fit = mask_loss(self.config, output.float(), mixture, sources, self.stft.frames(batch.samples))
        return fit.loss, torch.ones_like(fit.loss, dtype=torch.bool)

    def estimates(self, output: Tensor, batch: Batch) -> list[Tensor]:
        made = []
        # One by one: where a sound ends, the frames of a longer neighbour would have a part in it.
        for masks, wav in zip(output.float(), alone(batch.inputs["mixture"], batch), strict=True):
            spectrum = self.stft.analyse(wav)
            wavs = self.stft.synthesise(
                apply_masks(self.config, masks[None, :, : len(spectrum)], spectrum[None])[0], len(wav)
            )
            made.append(wavs if self.config.log1p else quiet_end(wavs))
        return made


class FilterSystem(System):
    """Conv-TasNet on the waveform; with `beside`, an upstream's frames lie beside those of its own encoder."""

    beside = False

    def __init__(self, config: SeparationConfig, upstream: UpstreamSpec) -> None:
        super().__init__()
        waveform = (upstream.stride, upstream.out_dim, upstream.sample_rate) == (1, 1, config.rate)
        if waveform == self.beside:
            raise UsageError(
                "joint needs an upstream whose frames say something besides the waveform, which Conv-TasNet hears in any case: choose another -u"
                if waveform
                else f"Conv-TasNet hears the waveform at {config.rate} Hz, and upstream {upstream.name!r} is something else: choose -u waveform"
                f"{f' -o upstream.config.sample_rate={config.rate}' * (config.rate != 16000)}, or -d separation_joint for both"
            )
        self.kind = config.loss
        self.stride = Fraction(upstream.stride * config.rate, upstream.sample_rate)
        self.offset = upstream.offset * config.rate / upstream.sample_rate
        self.net = ConvTasNet(config.net, upstream.out_dim if self.beside else 0)

    def forward(self, frames: Tensor, lengths: Tensor, inputs: Inputs) -> Any:
        mixture = inputs["mixture"]
        return self.net(mixture, inputs["samples"], self._beside(frames, lengths, mixture) if self.beside else None)

    def _beside(self, frames: Tensor, lengths: Tensor, mixture: Tensor) -> Tensor:
        """(B, D, K): for each frame of the encoder the upstream's that lies nearest in time."""
        centres = self.net.frame_centres(mixture.shape[1]).to(frames.device)
        index = frame_index(centres.expand(len(frames), -1), lengths, int(self.stride), round(2 * self.offset) / 2)
        return frames.gather(1, index[:, :, None].expand(-1, -1, frames.shape[2])).transpose(1, 2)

    def losses(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        sources = batch.labels["sources"]
        fit = pit(output, sources, batch.samples, kind=self.kind)
        # What is measured in dB against a source that is silent in this piece says nothing, and its gradient is wild.
        heard = sources.any(2).all(1) | (self.kind in ("sa_sdr", "mse"))
        return fit.loss, heard

    def estimates(self, output: Any, batch: Batch) -> list[Tensor]:
        return alone(output.float(), batch)

    def stream(self) -> StreamingConvTasNet:
        return StreamingConvTasNet(self.net)


class JointSystem(FilterSystem):
    beside = True


class OneAndRestSystem(FilterSystem):
    """Takes out one speaker after the other: in training two outputs (B, 2, T), in evaluation (C, samples) of each mixture."""

    def __init__(self, config: SeparationConfig, upstream: UpstreamSpec) -> None:
        super().__init__(config, upstream)
        self.take = config.take

    def forward(self, frames: Tensor, lengths: Tensor, inputs: Inputs) -> Tensor | list[Tensor]:
        if self.training:
            outputs: Tensor = super().forward(frames, lengths, inputs)
            return outputs
        return [
            take_all(wav[:size], self.net, most=self.take.most, quiet_db=self.take.quiet_db).sources
            for wav, size in zip(inputs["mixture"], inputs["samples"].tolist(), strict=True)
        ]

    def losses(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        sources, counts = batch.labels["sources"], batch.labels["count"]
        heard = sources.any(2).sum(1) == counts
        return one_and_rest_loss(output, sources, batch.samples, counts).loss, heard

    def estimates(self, output: Any, batch: Batch) -> list[Tensor]:
        return [sources.float() for sources in output]

    def stream(self) -> StreamingConvTasNet:
        return System.stream(self)


class OracleSystem(System):
    """Masks of those who know the sources. It has nothing to train."""

    def __init__(self, config: SeparationConfig, upstream: UpstreamSpec) -> None:
        super().__init__()
        size, hop = (max(2, round(ms * config.rate / 1000)) for ms in (config.oracle.window_ms, config.oracle.hop_ms))
        self.kind, self.stft = config.oracle.mask, Stft(size + size % 2, hop, size)

    def forward(self, frames: Tensor, lengths: Tensor, inputs: Inputs) -> Tensor:
        return inputs["sources"]

    def losses(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        raise AssertionError("an oracle is not trained")

    def estimates(self, output: Tensor, batch: Batch) -> list[Tensor]:
        counts = batch.labels["count"].tolist()
        return [
            oracle(self.kind, sources[:count], wav, self.stft)
            for sources, wav, count in zip(
                alone(output, batch), alone(batch.inputs["mixture"], batch), counts, strict=True
            )
        ]


def alone(signals: Tensor, batch: Batch) -> list[Tensor]:
    """(B, ..., T) -> (..., samples) of each utterance."""
    return [signal[..., :size] for signal, size in zip(signals, batch.samples.tolist(), strict=True)]


SYSTEMS: dict[str, Callable[[SeparationConfig, UpstreamSpec], System]] = {
    "superb": SuperbSystem,
    "convtasnet": FilterSystem,
    "joint": JointSystem,
    "oracle": OracleSystem,
    "one_and_rest": OneAndRestSystem,
}
