"""What stands between the frames and the ending: networks that look at an utterance as an image of time and frequency.

A new trunk is a class like these and one line in `TRUNKS`. Each takes frames (B, T, D), zero beyond the lengths (B,), and gives (B, T', `out_dim`) with their
lengths; `steps` says T' of T frames. What lies beyond an utterance is zero wherever a convolution sees it, so it is the same alone and in a padded batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from headwater.errors import UsageError
from headwater.nn.convolution import Window, output_lengths, where_padded
from headwater.nn.maps import MapBatchNorm, as_map, max_feature_map, silence_maps

if TYPE_CHECKING:
    from .systems import SystemConfig


class Trunk(nn.Module, ABC):
    """The base of all."""

    out_dim: int

    @abstractmethod
    def steps(self, frames: int) -> int: ...

    @abstractmethod
    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]: ...


class NoTrunk(Trunk):
    """Frames as they are."""

    def __init__(self, in_dim: int, config: SystemConfig) -> None:
        super().__init__()
        self.out_dim = in_dim

    def steps(self, frames: int) -> int:
        return frames

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return frames, lengths


class Layer(NamedTuple):
    """A convolution of the LCNN; `channels` are halved by the max feature map. pool: of 2 x 2; norm: batch norm after that."""

    kernel: int
    channels: int
    pool: bool = False
    norm: bool = False


LCNN = (
    Layer(5, 64, pool=True),
    Layer(1, 64, norm=True),
    Layer(3, 96, pool=True, norm=True),
    Layer(1, 96, norm=True),
    Layer(3, 128, pool=True),
    Layer(1, 128, norm=True),
    Layer(3, 64, norm=True),
    Layer(1, 64, norm=True),
    Layer(3, 64, pool=True),
)
SHRINK = 2 ** sum(layer.pool for layer in LCNN)


class LcnnBlock(nn.Module):
    """Convolution, max feature map, [max pooling], [batch norm without scale and shift]: (B, C, T, F), lengths or None -> the same."""

    def __init__(self, in_channels: int, layer: Layer) -> None:
        super().__init__()
        self.layer = layer
        self.conv = nn.Conv2d(in_channels, layer.channels, layer.kernel, padding=layer.kernel // 2)
        self.norm = MapBatchNorm(layer.channels // 2, affine=False) if layer.norm else None

    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x = self.conv(silence_maps(x, lengths) if self.layer.kernel > 1 else x)
        if self.layer.pool:
            # Rounded down, so a step of valid length has seen valid steps alone. Before the other maximum, which has a quarter left to do.
            x, lengths = functional.max_pool2d(x, 2), None if lengths is None else lengths // 2
        x = max_feature_map(x)
        return (x if self.norm is None else self.norm(x, lengths)), lengths


class Lcnn(Trunk):
    """The light CNN of STC (https://arxiv.org/abs/1904.05576) as https://arxiv.org/abs/2103.11326 has it, and the dropout behind it.

    Time and frequency shrink by 16, rounded down. A shorter utterance is followed by zeros to 16 frames, as the padding of its batch was in the published code.
    """

    def __init__(self, in_dim: int, config: SystemConfig) -> None:
        super().__init__()
        if in_dim < SHRINK:
            raise UsageError(
                f"the LCNN halves frequency {SHRINK.bit_length() - 1} times and needs {SHRINK} dims at least; here are {in_dim} "
                "(a linear layer before it gives 128: input linear)"
            )
        channels = [1, *(layer.channels // 2 for layer in LCNN)]
        self.blocks = nn.ModuleList(LcnnBlock(given, layer) for given, layer in zip(channels, LCNN, strict=False))
        self.dropout = nn.Dropout(config.dropout)
        self.out_dim = channels[-1] * (in_dim // SHRINK)

    def steps(self, frames: int) -> int:
        return max(frames, SHRINK) // SHRINK

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        frames = functional.pad(frames, (0, 0, 0, max(0, SHRINK - frames.shape[1])))
        lengths = lengths.clamp(min=SHRINK)
        x = as_map(frames)
        valid = where_padded(x, lengths)
        for block in self.blocks:
            x, valid = block(x, valid)
        return self.dropout(x.transpose(1, 2).flatten(2)), lengths // SHRINK


class PreActivation(nn.Module):
    """Batch norm, ReLU, convolution, twice, around a shortcut (https://arxiv.org/abs/1603.05027)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.window = Window(3, stride, 1)
        self.bn1, self.bn2 = MapBatchNorm(in_channels), MapBatchNorm(channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        changed = stride != 1 or in_channels != channels
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False) if changed else None

    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        activated = functional.relu(silence_maps(self.bn1(x, lengths), lengths))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        y = self.conv1(activated)
        lengths = None if lengths is None else output_lengths(lengths, self.window)
        y = self.conv2(functional.relu(silence_maps(self.bn2(y, lengths), lengths)))
        return y + shortcut, lengths


class ResNet18(Trunk):
    """ResNet18 with pre-activation, as one-class softmax was proposed with (https://arxiv.org/abs/2010.13995). Time shrinks by 8, rounded up.

    Its last convolution spans what is left of frequency, which must be 3: it takes 55 to 78 dims.
    """

    CHANNELS, STRIDES = (64, 128, 256, 512), (1, 2, 2, 2)
    FIRST = Window(9, 3, 1)  # over frequency

    def __init__(self, in_dim: int, config: SystemConfig) -> None:
        super().__init__()
        height = (in_dim + 2 * self.FIRST.padding - self.FIRST.kernel) // self.FIRST.stride + 1
        for stride in self.STRIDES:
            height = -(-height // stride)
        if height != 3:
            raise UsageError(
                f"ResNet18 takes 55 to 78 dims, such as the 60 of nii_lfcc; here are {in_dim} (a linear layer before it: input linear, input_dim 60)"
            )
        # Maps are (time, frequency) here, as everywhere in this project; the published ones are the other way round.
        self.conv1 = nn.Conv2d(1, 16, (3, 9), (1, 3), (1, 1), bias=False)
        self.bn1 = MapBatchNorm(16)
        channels = [16, *self.CHANNELS]
        self.blocks = nn.ModuleList(
            PreActivation(given if first else made, made, stride if first else 1)
            for given, made, stride in zip(channels, self.CHANNELS, self.STRIDES, strict=False)
            for first in (True, False)
        )
        self.conv5 = nn.Conv2d(self.CHANNELS[-1], 256, 3, 1, (1, 0), bias=False)
        self.bn5 = MapBatchNorm(256)
        self.out_dim = 256

    def steps(self, frames: int) -> int:
        for stride in self.STRIDES:
            frames = -(-frames // stride)
        return frames

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = as_map(frames)
        valid = where_padded(x, lengths)
        x = functional.relu(self.bn1(self.conv1(x), valid))
        for block in self.blocks:
            x, valid = block(x, valid)
            lengths = output_lengths(lengths, block.window)  # type: ignore[arg-type]
        x = functional.relu(self.bn5(self.conv5(silence_maps(x, valid)), valid))
        return x[..., 0].transpose(1, 2), lengths


TRUNKS: dict[str, Callable[[int, SystemConfig], Trunk]] = {"none": NoTrunk, "lcnn": Lcnn, "resnet18": ResNet18}
