"""wav2vec 2.0 and its family: strided convolutions on the waveform, and a transformer or conformer on their frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from headwater.hf.parts import attend_to, conv_lengths, extractor, gated_attention, positions, relative_bias
from headwater.hf.settings import EncoderSettings
from headwater.nn.lengths import pad, zero_beyond
from headwater.nn.upstream import Upstream


class Samples(nn.Module):
    """Waveforms as frames of one number, normalised over the utterance where the model wants it."""

    def __init__(self, sample_rate: int, normalize: float | None = None) -> None:
        super().__init__()
        self.sample_rate, self.normalize = sample_rate, normalize
        self.stride, self.offset, self.out_dim = 1, 0.0, 1

    def frames(self, samples: int) -> int:
        return samples

    def forward(self, wavs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(samples,) each, any lengths -> (B, samples, 1) float32, and lengths (B,)."""
        x, lengths = pad([self._ready(wav.float()) for wav in wavs])
        return x[..., None], lengths

    def _ready(self, wav: Tensor) -> Tensor:
        if self.normalize is None:
            return wav
        with torch.autocast(wav.device.type, enabled=False):
            return functional.layer_norm(wav, wav.shape, eps=self.normalize)


class TransformersUpstream(Upstream):
    """An encoder of transformers; `model` is its module, and `settings` rebuild it."""

    def __init__(
        self, settings: EncoderSettings, model: Any, frontend: Any, *, dim: int, layers: int, stride: int, offset: float
    ) -> None:
        names = ["input", *(f"layer {number + 1}" for number in range(layers))]
        super().__init__(frontend, [dim] * (layers + 1), names, stride=stride, offset=offset)
        self.settings, self.model = settings, model
        self.unused: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        return {"config": self.settings.model_dump(mode="json")}

    def train(self, mode: bool = True) -> TransformersUpstream:
        """Batch norms keep their statistics while the rest is fine-tuned."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


class WaveformEncoder(TransformersUpstream):
    """Hidden states as S3PRL has them: the input of every layer, then the encoder's output, after its final norm where there is one."""

    def __init__(self, settings: EncoderSettings, model: Any) -> None:
        config = model.config
        self.convolutions = list(zip(config.conv_kernel, config.conv_stride, strict=True))
        self.receptive = 1  # samples that one frame sees
        for kernel, stride in reversed(self.convolutions):
            self.receptive = (self.receptive - 1) * stride + kernel
        super().__init__(
            settings,
            model,
            Samples(settings.sample_rate, settings.normalize),
            dim=config.hidden_size,
            layers=config.num_hidden_layers,
            stride=math.prod(config.conv_stride),
            offset=self.receptive / 2,
        )
        self.conformer = config.model_type == "wav2vec2-conformer"
        self.pre_norm = bool(getattr(config, "do_stable_layer_norm", False))

    def out_lengths(self, lengths: Tensor) -> Tensor:
        lengths = lengths.clamp(min=self.receptive)
        for kernel, stride in self.convolutions:
            lengths = conv_lengths(lengths, kernel, stride)
        return lengths

    def hidden_states(self, x: Tensor, lengths: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        local, frames, padded = self.convolve(x, lengths)
        valid = frames if padded else None
        states = self.encode_frames(self.project(local), valid)
        return tuple(states if valid is None else [zero_beyond(state, valid) for state in states]), frames

    def convolve(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, bool]:
        """(B, samples, 1), (B,) -> what the convolutions give, (B, T, C), its lengths (B,), and whether any frame is padding."""
        wave, counts = x[..., 0], lengths.tolist()
        longest = max(counts)
        if min(counts) < wave.shape[1]:
            wave = zero_beyond(wave[:, :longest, None], lengths)[..., 0]
        if longest < self.receptive:
            wave = functional.pad(wave, (0, self.receptive - longest))
        samples, frames = lengths.clamp(min=self.receptive), self.out_lengths(lengths)
        # Alone, or among equals: no mask anywhere.
        padded = len({max(count, self.receptive) for count in counts}) > 1
        local = extractor(self.model.feature_extractor.conv_layers, wave, samples if padded else None)
        return local, frames, padded

    def project(self, local: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, D): the norm and the linear layer between the convolutions and the rest."""
        return tensor_of(self.model.feature_projection(local))

    def encode_frames(self, h: Tensor, valid: Tensor | None, kept: Sequence[bool] | None = None) -> list[Tensor]:
        """The hidden states from projected frames (B, T, D) on. valid: their lengths, None where none is padding.

        kept: which layers have a part, for training with layers left out (not of conformers and WavLM); None for all.
        """
        h = h if valid is None else zero_beyond(h, valid)
        encoder, keys = self.model.encoder, attend_to(valid, h.shape[1])
        if self.conformer:
            states = self._conform(encoder.dropout(h), keys, valid)
        else:
            h = h + positions(encoder.pos_conv_embed, h, valid)
            h = encoder.dropout(h if self.pre_norm else encoder.layer_norm(h))
            states = self._gated(h, keys) if self.model.config.model_type == "wavlm" else self._plain(h, keys, kept)
        if self.pre_norm or self.conformer:
            states[-1] = encoder.layer_norm(states[-1])
        return states

    def _plain(self, h: Tensor, keys: Tensor | None, kept: Sequence[bool] | None) -> list[Tensor]:
        states = [h]
        for number, layer in enumerate(self.model.encoder.layers):
            through = kept is None or kept[number]
            states.append(tensor_of(layer(states[-1], attention_mask=keys)) if through else states[-1])
        return states

    def _gated(self, h: Tensor, keys: Tensor | None) -> list[Tensor]:
        layers, states = self.model.encoder.layers, [h]
        bias = relative_bias(layers[0].attention, h.shape[1])
        for layer in layers:
            h = states[-1]
            attended = gated_attention(layer.attention, layer.layer_norm(h) if self.pre_norm else h, bias, keys)
            h = h + layer.dropout(attended)
            if self.pre_norm:
                h = h + layer.feed_forward(layer.final_layer_norm(h))
            else:
                h = layer.layer_norm(h)
                h = layer.final_layer_norm(h + layer.feed_forward(h))
            states.append(h)
        return states

    def _conform(self, h: Tensor, keys: Tensor | None, valid: Tensor | None) -> list[Tensor]:
        encoder, states = self.model.encoder, [h]
        places = None if encoder.embed_positions is None else encoder.embed_positions(h)
        for layer in encoder.layers:
            states.append(conformer_layer(layer, states[-1], keys, places, valid))
        return states


def conformer_layer(layer: Any, h: Tensor, keys: Tensor | None, places: Tensor | None, valid: Tensor | None) -> Tensor:
    """A layer of a conformer, whose convolution over time is given zeros beyond the lengths."""
    h = h + 0.5 * layer.ffn1(layer.ffn1_layer_norm(h))
    attended = tensor_of(
        layer.self_attn(layer.self_attn_layer_norm(h), attention_mask=keys, relative_position_embeddings=places)
    )
    h = h + layer.self_attn_dropout(attended)
    h = h + _convolved(layer.conv_module, h, valid)
    return layer.final_layer_norm(h + 0.5 * layer.ffn2(layer.ffn2_layer_norm(h)))


def _convolved(module: Any, h: Tensor, valid: Tensor | None) -> Tensor:
    if valid is None:
        return module(h)
    y = module.glu(module.pointwise_conv1(module.layer_norm(h).transpose(1, 2)))
    y = module.depthwise_conv(zero_beyond(y.transpose(1, 2), valid).transpose(1, 2))
    return module.dropout(module.pointwise_conv2(module.activation(module.batch_norm(y)))).transpose(1, 2)


def tensor_of(answer: Any) -> Tensor:
    """Attention answers with its weights behind; so do layers in some versions of transformers."""
    return answer[0] if isinstance(answer, tuple) else answer
