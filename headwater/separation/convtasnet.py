"""Conv-TasNet (https://arxiv.org/abs/1809.07454): an encoder of learned filters, a network that makes masks, a decoder.

The masks come of one module, `masker(frames, lengths, beside) -> (B, speakers, N, K)`; another network for them takes its place in `MaskingNet`.
Waveforms are (B, T), frames (B, channels, K). A padded batch gives each waveform what it gets alone, and zeros beyond.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from headwater.nn.convolution import silence_beyond, where_padded
from headwater.nn.lengths import mask
from headwater.separation.codec import Decoder, Encoder
from headwater.separation.depthwise import Depthwise
from headwater.separation.norms import build_norm
from headwater.separation.settings import Architecture, Mask


class Block(nn.Module):
    """1x1 to H channels, depthwise, 1x1 back: one step on the residual path, and what it says on the skip path.

    Without a skip path all blocks are residual. With one, nothing reads the residual path after the last block: `last` leaves it out.
    """

    def __init__(self, config: Architecture, dilation: int, *, last: bool) -> None:
        super().__init__()
        bias = config.bias
        self.expand = nn.Conv1d(config.B, config.H, 1, bias=bias)
        self.activation1 = nn.PReLU()
        self.norm1 = build_norm(config.norm, config.H, affine=config.affine, eps=config.eps)
        self.depthwise = Depthwise(config.H, config.P, dilation, causal=config.causal, bias=bias)
        self.activation2 = nn.PReLU() if config.second_norm else None
        self.norm2 = (
            build_norm(config.norm, config.H, affine=config.affine, eps=config.eps) if config.second_norm else None
        )
        self.residual = None if last and config.Sc else nn.Conv1d(config.H, config.B, 1, bias=bias)
        self.skip = nn.Conv1d(config.H, config.Sc, 1, bias=bias) if config.Sc else None
        self.late = self.depthwise.reach if config.causal and config.late_cut else 0

    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(B, B', K) -> what is added to it, and (B, Sc, K) or None."""
        h = self.norm1(self.activation1(self.expand(x)), lengths)
        h = self.depthwise(silence_beyond(h, lengths), after=self.late or None)
        if self.activation2 is not None and self.norm2 is not None:
            h = self.norm2(self.activation2(h), None if lengths is None else lengths + self.late)
        return self.outputs(x, h[:, :, : x.shape[2]])

    def outputs(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor | None]:
        """The two paths after this block, from the residual path before it and its hidden frames."""
        return x if self.residual is None else x + self.residual(h), None if self.skip is None else self.skip(h)


class Masker(nn.Module):
    """(B, N, K) -> masks (B, speakers, N, K).

    `beside_dim` is the size of other frames at the same times (those of an upstream), which get a norm and a 1x1 convolution of their own.
    """

    def __init__(self, config: Architecture, beside_dim: int = 0) -> None:
        super().__init__()
        self.speakers, self.activation = config.speakers, config.mask
        self.norm = build_norm(config.first_norm, config.N, affine=config.affine, eps=config.eps)
        self.bottleneck = nn.Conv1d(config.N, config.B, 1, bias=config.bias)
        self.beside_norm = (
            build_norm(config.first_norm, beside_dim, affine=config.affine, eps=config.eps) if beside_dim else None
        )
        self.beside = nn.Conv1d(beside_dim, config.B, 1, bias=False) if beside_dim else None
        dilations = config.dilations
        self.blocks = nn.ModuleList(
            Block(config, dilation, last=index == len(dilations) - 1) for index, dilation in enumerate(dilations)
        )
        self.output_activation = nn.PReLU() if config.mask_prelu else nn.Identity()
        self.output = nn.Conv1d(config.Sc or config.B, config.speakers * config.N, 1, bias=config.bias)

    def forward(self, w: Tensor, lengths: Tensor | None, beside: Tensor | None = None) -> Tensor:
        x = self.bottleneck(self.norm(w, lengths))
        if beside is not None and self.beside is not None and self.beside_norm is not None:
            x = x + self.beside(self.beside_norm(beside, lengths))
        total = None
        for block in self.blocks:
            x, said = block(x, lengths)
            total = add(total, said)
        return self.masks(x if total is None else total)

    def masks(self, x: Tensor) -> Tensor:
        """(B, Sc or B', K) -> (B, speakers, N, K)."""
        return masks(self.output(self.output_activation(x)).unflatten(1, (self.speakers, -1)), self.activation)


def add(total: Tensor | None, said: Tensor | None) -> Tensor | None:
    """A sum of what there is."""
    return said if total is None else total if said is None else total + said


def masks(scores: Tensor, activation: Mask) -> Tensor:
    """(B, speakers, N, K) -> masks of the same shape; only those of softmax sum to one."""
    if activation == "softmax":
        return scores.softmax(1)
    return scores.relu() if activation == "relu" else scores.sigmoid()


class MaskingNet(nn.Module):
    """Encoder, masks on its frames, decoder."""

    def __init__(self, config: Architecture, masker: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.masker = masker
        self.decoder = Decoder(config)

    def forward(self, mixture: Tensor, lengths: Tensor | None = None, beside: Tensor | None = None) -> Tensor:
        """Mixtures (B, T) and their samples (B,), none being all T -> (B, speakers, T), zero beyond; shorter only where the padding of a foreign file says so.

        `beside` (B, D, K): other frames, one for each of the encoder's (`frame_centres`).

        Raises:
            DataError: a waveform is shorter than a frame, and the padding of a foreign file takes none.
        """
        framing = self.encoder.framing
        valid = None if lengths is None else where_padded(mixture[:, None], lengths)
        counts = None if valid is None else framing.frames(valid)
        w = self.encoder(silence_beyond(mixture[:, None], valid)[:, 0], counts)
        parts = (self.masker(w, counts, beside) * w[:, None]).flatten(0, 1)
        several = None if counts is None else counts.repeat_interleave(self.config.speakers)
        y = self.decoder(parts, several, mixture.shape[1]).unflatten(0, (len(mixture), -1))
        if valid is None or counts is None:
            return y
        ends = torch.minimum(valid, framing.samples(counts) - framing.before)
        return y.masked_fill(~mask(ends, y.shape[2])[:, None], 0.0)

    def frame_counts(self, samples: Tensor) -> Tensor:
        """(B,) samples -> (B,) frames of the encoder."""
        return self.encoder.framing.frames(samples)

    def frame_centres(self, samples: int) -> Tensor:
        """Of the frames of a waveform, in samples from its start: (K,) int64, rounded down; the first lie before it, the last beyond."""
        framing = self.encoder.framing
        return torch.arange(framing.frames(samples)) * framing.hop + int(framing.centre() // 1)


class ConvTasNet(MaskingNet):
    """`beside_dim` makes room for an upstream's frames beside the encoder's."""

    masker: Masker

    def __init__(self, config: Architecture, beside_dim: int = 0) -> None:
        super().__init__(config, Masker(config, beside_dim))
