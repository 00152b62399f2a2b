"""The probe vocoder: ConvNeXt blocks over frames and an inverse-STFT head (Siuzdak, Vocos, ICLR 2024), small enough to be trained on two cores.

There is no upsampling network: frames are repeated up to the head's hop, by exact indices in time, and the inverse Fourier transform makes the samples. So the
work is done at the rate of frames, and any number of samples can be asked for. The default has some 2.2 million parameters for an upstream of 80 values, and a
second of sound takes it a few hundredths of a second on one core (`bench/vocoder.py`, beside a generator of transposed convolutions).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from headwater.config import Section
from headwater.errors import UsageError
from headwater.nn.convolution import silence_beyond, where_padded
from headwater.nn.lengths import mask, zero_beyond
from headwater.vocoder.timing import Plan, plan

_OVERLAP = 4  # hops a window
_LOUDEST = 100.0  # of a bin; without a limit, one wrong exponent would drown everything else


class FourierSettings(Section):
    """Sizes of the probe vocoder."""

    dim: int = Field(256, ge=8)
    blocks: int = Field(5, ge=1)
    expansion: int = Field(3, ge=1, description="width of a block's middle, in `dim`")
    kernel: int = Field(7, ge=1, description="frames a block sees")
    hop: int | None = Field(
        None, ge=2, description="samples a frame of the head; from the upstream's stride when not given"
    )


class ConvNextBlock(nn.Module):
    """A depthwise convolution over time, then each frame alone, widened and narrowed; added to the input at a learned scale (Liu et al., CVPR 2022)."""

    def __init__(self, dim: int, hidden: int, kernel: int, scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.widen = nn.Linear(dim, hidden)
        self.narrow = nn.Linear(hidden, dim)
        self.gamma = nn.Parameter(torch.full((dim,), scale))

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, T, D), (B,) or None where nothing is padded -> (B, T, D)."""
        around = self.depthwise(silence_beyond(x.transpose(1, 2), lengths)).transpose(1, 2)
        return x + self.gamma * self.narrow(functional.gelu(self.widen(self.norm(around))))


class FourierHead(nn.Module):
    """Magnitude and phase of each frame, and the signal whose windowed frames fit them best: exactly `hop` samples a frame.

    Frame j is centred on the middle of its own samples (Vocos' padding "same").
    """

    window: Tensor

    def __init__(self, dim: int, hop: int) -> None:
        super().__init__()
        self.hop, self.n_fft = hop, _OVERLAP * hop
        self.spectrum = nn.Linear(dim, self.n_fft + 2)
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, dim), (B,) frames -> (B, T * hop), zero beyond each utterance."""
        log_magnitude, phase = self.spectrum(x).chunk(2, 2)
        magnitude = log_magnitude.exp().clamp(max=_LOUDEST)
        pieces = torch.fft.irfft(torch.polar(magnitude, phase), self.n_fft) * self.window
        valid = mask(lengths, x.shape[1])[:, :, None]
        total = overlap_add(pieces * valid, self.hop)
        weight = overlap_add(self.window.square() * valid, self.hop)
        edge = (self.n_fft - self.hop) // 2
        inside = slice(edge, edge + x.shape[1] * self.hop)
        # Within an utterance some window is always well above zero; what lies beyond it has none.
        return total[:, inside] / weight[:, inside].clamp(min=1e-3) * valid.repeat_interleave(self.hop, 1)[:, :, 0]


class FourierVocoder(nn.Module):
    """Frames of any upstream -> waveforms with the number of samples that is asked for.

    Args:
        in_dim: of the frames.
        stride, offset: their time, in samples of the waveform that is made: from frame to frame, and the centre of frame 0.
    """

    def __init__(self, in_dim: int, stride: int, offset: float, settings: FourierSettings | None = None) -> None:
        super().__init__()
        settings = settings or FourierSettings()
        if settings.kernel % 2 == 0:
            raise UsageError(
                f"the vocoder's kernel is {settings.kernel}; it must be odd, so that frames keep their time"
            )
        self.plan: Plan = plan(stride, offset, hop=settings.hop)
        self.embed = nn.Linear(in_dim * self.plan.fold + self.plan.repeated, settings.dim)
        self.norm = nn.LayerNorm(settings.dim, eps=1e-6)
        self.blocks = nn.ModuleList(
            ConvNextBlock(settings.dim, settings.expansion * settings.dim, settings.kernel, 1 / settings.blocks)
            for _ in range(settings.blocks)
        )
        self.last_norm = nn.LayerNorm(settings.dim, eps=1e-6)
        self.head = FourierHead(settings.dim, self.plan.hop)
        self.apply(_initialise)

    def forward(self, frames: Tensor, lengths: Tensor, samples: Tensor) -> Tensor:
        """Waveforms of a batch.

        Args:
            frames: (B, T, in_dim) float32. lengths: (B,) valid frames, at least 1.
            samples: (B,) how many to make of each, at least 1.

        Returns (B, max of `samples`), zero beyond each. An utterance's are the same alone and in any batch.
        """
        size = int(samples.max())
        head_lengths = self.plan.frames(samples)
        index = self.plan.index(-(-size // self.plan.hop), lengths)
        x = frames.gather(1, index.flatten(1)[:, :, None].expand(-1, -1, frames.shape[2]))
        x = x.unflatten(1, index.shape[1:]).flatten(2)
        if self.plan.repeated:
            x = torch.cat([x, self.plan.position(index)], 2)
        valid = where_padded(x.transpose(1, 2), head_lengths)
        x = self.norm(self.embed(x))
        for block in self.blocks:
            x = block(x, valid)
        wav = self.head(self.last_norm(x), head_lengths)[:, :size]
        return zero_beyond(wav[:, :, None], samples)[:, :, 0]


def overlap_add(pieces: Tensor, hop: int) -> Tensor:
    """(B, T, n * hop) pieces that begin every `hop` samples -> (B, (T + n - 1) * hop)."""
    batch, size, length = pieces.shape
    parts = pieces.unflatten(2, (length // hop, hop))
    total = pieces.new_zeros(batch, size + length // hop - 1, hop)
    for place in range(length // hop):
        total[:, place : place + size] += parts[:, :, place]
    return total.flatten(1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Conv1d)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
