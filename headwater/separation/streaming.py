"""Separation as the sound comes in: a causal Conv-TasNet, block by block, equal to what it gives for the whole."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from headwater.errors import UsageError
from headwater.separation.codec import DeepLayer
from headwater.separation.convtasnet import Block, ConvTasNet, add
from headwater.separation.cumulative import CumulativeNorm
from headwater.separation.depthwise import Depthwise


class StreamingConvTasNet:
    """One sound of any length: `push` its samples, `finish` it.

    Kept from block to block: the samples that the next frame shares with the last one, the frames that dilated convolutions reach back to, the sums of
    cumulative norms in float64, and the tail of the decoder. Answers lag L samples behind (less in a block that ends within a frame), and need as much memory
    for an hour as for a second.

    Raises:
        UsageError: the model is not causal, or something in it sees the future.
    """

    def __init__(self, model: ConvTasNet) -> None:
        config = model.config
        if not config.causal or config.sees_future or config.late_cut:
            why = f": {' and '.join(config.sees_future)}" if config.causal else ""
            raise UsageError(
                f"this Conv-TasNet cannot separate a stream, it is not causal{why}; use one with causal: true"
            )
        if config.padding != "cut":
            raise UsageError(f"a stream is framed by the padding cut, not {config.padding!r}; load the file with it")
        if model.masker.beside is not None:
            raise UsageError("this Conv-TasNet needs an upstream's frames beside its own, which a stream does not have")
        self.model = model.eval()
        self.framing = model.encoder.framing
        self._taken = self._shown = 0
        self._kept: dict[nn.Module, Tensor] = {}
        parameter = next(model.parameters())
        self._waiting = parameter.new_zeros(self.framing.before)  # the zeros before the first sample
        self._tail = parameter.new_zeros(config.speakers, self.framing.length - self.framing.hop)

    @property
    def latency(self) -> int:
        """Samples that must be in before the first one comes out."""
        return self.framing.length

    @torch.no_grad()
    def push(self, samples: Tensor) -> Tensor:
        """The next samples (n,) of the mixture, any number -> what is final now: (speakers, m), m >= 0."""
        self._taken += len(samples)
        return self._push(samples)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """What is left: (speakers, m). In all as many samples have come out as went in."""
        left = self._taken - max(0, self._shown - self.framing.before)
        if not self._taken:
            return self._tail[:, :0]
        through = self.framing.samples(self.framing.frames(self._taken)) - self.framing.before
        return self._push(self._tail.new_zeros(through - self._taken))[:, :left]

    def _push(self, samples: Tensor) -> Tensor:
        waiting = torch.cat([self._waiting, samples.to(self._waiting)])
        frames = max(0, (len(waiting) - self.framing.length) // self.framing.hop + 1)
        self._waiting = waiting[frames * self.framing.hop :].clone()
        if not frames:
            return self._tail[:, :0]
        y = self._overlap(self._separate(waiting[None, : self.framing.samples(frames)]))
        # The first answers lie in the zeros before the first sample.
        early = max(0, self.framing.before - self._shown)
        self._shown += y.shape[1]
        return y[:, early:]

    def _separate(self, samples: Tensor) -> Tensor:
        """(1, n) whole frames of samples -> (speakers, N, K), what the decoder's filters take."""
        model = self.model
        w = model.encoder.filter(samples)
        for layer in model.encoder.layers:
            assert isinstance(layer, DeepLayer)
            w = self._after(layer, w)
        x = model.masker.bottleneck(self._norm(model.masker.norm, w))
        total = None
        for block in model.masker.blocks:
            assert isinstance(block, Block)
            x, said = self._block(block, x)
            total = add(total, said)
        parts = (model.masker.masks(x if total is None else total) * w[:, None])[0]
        for layer in model.decoder.layers:
            assert isinstance(layer, DeepLayer)
            parts = self._after(layer, parts)
        return parts

    def _block(self, block: Block, x: Tensor) -> tuple[Tensor, Tensor | None]:
        h = self._after(block.depthwise, self._norm(block.norm1, block.activation1(block.expand(x))))
        if block.activation2 is not None and block.norm2 is not None:
            h = self._norm(block.norm2, block.activation2(h))
        return block.outputs(x, h)

    def _norm(self, norm: nn.Module, x: Tensor) -> Tensor:
        if not isinstance(norm, CumulativeNorm):
            y: Tensor = norm(x, None)
            return y
        y, self._kept[norm] = norm.stream(x, self._kept.get(norm))
        return y

    def _after(self, layer: Depthwise | DeepLayer, x: Tensor) -> Tensor:
        """A causal convolution of x, after what it saw before."""
        context = self._kept.get(layer, x.new_zeros(*x.shape[:2], layer.reach))
        y, kept = layer.stream(x, context)
        # A view would hold on to the whole block.
        self._kept[layer] = kept.clone()
        return y

    def _overlap(self, parts: Tensor) -> Tensor:
        """(speakers, N, K) after those before -> the K hop samples that no later frame has a part in."""
        decoder, final = self.model.decoder, parts.shape[2] * self.framing.hop
        y = decoder.overlap(decoder.pieces(parts))
        y[:, : self._tail.shape[1]] += self._tail
        self._tail = y[:, final:].clone()
        return decoder.biased(y[:, :final])
