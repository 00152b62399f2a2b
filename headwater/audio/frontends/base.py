"""What every front-end promises, and the framing that most of them share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from headwater.audio.frontends.dynamics import Dynamics
from headwater.errors import DataError, UsageError


def normalise_level(wav: Tensor, target_level: float) -> Tensor:
    """`wav` (any 1-D float tensor) with an RMS of `target_level` dB, where a constant of 1 has 0 dB. Zeros stay.

    S3PRL's rule for models with online features: wav * 10^(target_level / 20) / (rms + 1e-10), over the utterance.
    """
    rms = torch.linalg.vector_norm(wav) / math.sqrt(len(wav))
    return wav * (10.0 ** (target_level / 20.0) / (rms + 1e-10))


# Samples of frames worked on at a time: what fits in the caches of a processor, what fills a GPU.
_BLOCK = {"cpu": 2**18, "cuda": 2**25}


class Frontend(nn.Module, ABC):
    """Waveforms in, frames out: the same for an utterance alone and among others. Gradient flows to the waveforms.

    Attributes:
        sample_rate: samples a second that it expects.
        stride: samples from one frame to the next.
        offset: centre of frame 0, in samples.
        out_dim: size of a frame.
    """

    def __init__(
        self,
        *,
        sample_rate: int,
        stride: int,
        offset: float,
        dim: int,
        dynamics: Dynamics,
        target_level: float | None = None,
    ) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        self.stride = stride
        self.offset = offset
        self.out_dim = dim * (dynamics.order + 1)
        self.dynamics = dynamics
        self.target_level = target_level

    @abstractmethod
    def frames(self, samples: int) -> int:
        """How many frames a waveform of `samples` samples gives; at least 1 for at least 1 sample."""

    @abstractmethod
    def static(self, wavs: list[Tensor]) -> Sequence[Tensor]:
        """Features of each waveform, (T_i, D), before deltas and normalisation."""

    def forward(self, wavs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Features of a batch.

        Args:
            wavs: 1-D floating tensors in [-1, 1], of any lengths, on the device of this module.

        Returns:
            x (B, T, out_dim) float32, zero beyond each length; lengths (B,) int64 on the same device.

        Raises:
            DataError: a waveform has no samples.
            UsageError: there is no waveform, or one is not a 1-D floating tensor.
        """
        # Half precision would drown quiet bands in rounding before the logarithm.
        with torch.autocast(_device(wavs).type, enabled=False):
            ready = [self._ready(wav, i) for i, wav in enumerate(wavs)]
            features = [self.dynamics(x) for x in self.static(ready)]
        lengths = torch.tensor([len(x) for x in features], device=features[0].device)
        if len(features) == 1:
            return features[0][None], lengths
        return nn.utils.rnn.pad_sequence(features, batch_first=True), lengths

    def _ready(self, wav: Tensor, index: int) -> Tensor:
        if not (isinstance(wav, Tensor) and wav.dim() == 1 and wav.is_floating_point()):
            shape = f"{wav.dtype} of shape {tuple(wav.shape)}" if isinstance(wav, Tensor) else type(wav).__name__
            raise UsageError(
                f"Waveform {index} of the batch is {shape}; "
                "a front-end takes a list of 1-D floating tensors in [-1, 1]."
            )
        if not len(wav):
            raise DataError(f"Waveform {index} of the batch has no samples.")
        wav = wav.float()
        return wav if self.target_level is None else normalise_level(wav, self.target_level)


class Framed(Frontend):
    """A front-end on overlapping frames of `window` samples.

    Each waveform is zero-padded to `minimum` samples, then gets `margin` samples on both sides: its own reflection if
    `reflect`, else zeros. Frames are worked on in blocks small enough to stay in cache, so that a long file needs
    little more than its waveform and its features.
    """

    def __init__(
        self,
        *,
        sample_rate: int,
        window: int,
        stride: int,
        dim: int,
        dynamics: Dynamics,
        minimum: int = 1,
        margin: int = 0,
        reflect: bool = False,
        target_level: float | None = None,
    ) -> None:
        super().__init__(
            sample_rate=sample_rate,
            stride=stride,
            offset=window / 2 - margin,
            dim=dim,
            dynamics=dynamics,
            target_level=target_level,
        )
        self.window = window
        self.minimum = minimum
        self.margin = margin
        self.reflect = reflect

    @abstractmethod
    def spectrum(self, samples: Tensor) -> Tensor:
        """Features (T, D) of the T frames that lie in `samples` ((T - 1) * stride + window,)."""

    def condition(self, wav: Tensor) -> Tensor:
        """A filter over the whole waveform, before it is padded."""
        return wav

    def frames(self, samples: int) -> int:
        return 1 + (max(samples, self.minimum) + 2 * self.margin - self.window) // self.stride

    def static(self, wavs: list[Tensor]) -> Sequence[Tensor]:
        # Matrix products round differently with the number of rows. On the CPU the bits of an utterance are its own,
        # whatever its company; a GPU would idle on single utterances.
        groups = [[wav] for wav in wavs] if wavs[0].device.type == "cpu" else [wavs]
        return [features for group in groups for features in self._together(group)]

    def _together(self, wavs: list[Tensor]) -> list[Tensor]:
        # Every waveform starts at a whole number of strides, so that the frames of all of them lie on one grid.
        pieces: list[Tensor] = []
        rows: list[slice] = []
        begin = 0
        for wav in wavs:
            padded = self._padded(wav)
            size = sum(len(piece) for piece in padded)
            slots = -(-size // self.stride)
            pieces += [*padded, wav.new_zeros(slots * self.stride - size)]
            rows.append(slice(begin, begin + self.frames(len(wav))))
            begin += slots
        features = self._in_blocks(torch.cat(pieces))
        return [features[row] for row in rows]

    def _padded(self, wav: Tensor) -> list[Tensor]:
        wav = self.condition(wav)
        if len(wav) < self.minimum:
            wav = nn.functional.pad(wav, (0, self.minimum - len(wav)))
        if not self.margin:
            return [wav]
        if not self.reflect:
            return [wav.new_zeros(self.margin), wav, wav.new_zeros(self.margin)]
        return [wav[1 : self.margin + 1].flip(0), wav, wav[-self.margin - 1 : -1].flip(0)]

    def _in_blocks(self, samples: Tensor) -> Tensor:
        total = 1 + (len(samples) - self.window) // self.stride
        size = max(1, _BLOCK.get(samples.device.type, _BLOCK["cuda"]) // self.window)
        blocks = []
        for first in range(0, total, size):
            last = min(first + size, total) - 1
            blocks.append(self.spectrum(samples[first * self.stride : last * self.stride + self.window]))
        return torch.cat(blocks)


def power(spectrum: Tensor) -> Tensor:
    """|X|^2 of a complex tensor; several times faster than abs().square(), which takes a root in between."""
    return spectrum.real.square() + spectrum.imag.square()


def samples_in(milliseconds: float, sample_rate: int) -> int:
    """Whole samples in that time, rounded down as in Kaldi and S3PRL, but not for a rounding error of the product."""
    return math.floor(sample_rate * milliseconds / 1000 + 1e-6)


def _device(wavs: Sequence[Tensor]) -> torch.device:
    if not len(wavs):
        raise UsageError("A front-end was given an empty list of waveforms.")
    return wavs[0].device if isinstance(wavs[0], Tensor) else torch.device("cpu")
