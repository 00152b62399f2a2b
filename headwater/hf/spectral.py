"""Encoders on mel spectra: Whisper's, and w2v-BERT 2.0."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from headwater.audio.frontends import build_frontend
from headwater.hf.parts import attend_to
from headwater.hf.settings import EncoderSettings
from headwater.hf.waveform import Samples, TransformersUpstream, tensor_of
from headwater.nn.lengths import mask, pad, zero_beyond

WINDOW, HOP = 400, 160  # samples of Whisper's Fourier transform


class WhisperUpstream(TransformersUpstream):
    """The encoder of Whisper (https://arxiv.org/abs/2212.04356), which always sees pieces of 30 s: shorter ones filled with silence, longer ones cut.

    Hidden states: the input of every layer, and the last layer's output after the final norm.
    """

    def __init__(self, settings: EncoderSettings, model: Any) -> None:
        config = model.config
        self.piece = 2 * HOP * config.max_source_positions  # samples
        super().__init__(
            settings,
            model,
            Samples(settings.sample_rate),
            dim=config.d_model,
            layers=config.encoder_layers,
            stride=2 * HOP,
            offset=0.0,
        )

    def out_lengths(self, lengths: Tensor) -> Tensor:
        return torch.div(lengths + self.stride - 1, self.stride, rounding_mode="floor")

    def hidden_states(self, x: Tensor, lengths: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        counts, frames = lengths.tolist(), self.out_lengths(lengths)
        pieces = [
            functional.pad(piece, (0, self.piece - len(piece)))
            for row, count in zip(x[..., 0], counts)
            for piece in row[:count].split(self.piece)
        ]
        encoder = self.model
        h = functional.gelu(encoder.conv1(log_mel(torch.stack(pieces), encoder.config.num_mel_bins)))
        h = functional.gelu(encoder.conv2(h)).transpose(1, 2) + encoder.embed_positions.weight
        states = [functional.dropout(h, encoder.dropout, encoder.training)]
        for layer in encoder.layers:
            states.append(tensor_of(layer(states[-1], None)))
        states[-1] = encoder.layer_norm(states[-1])
        shares = [-(-count // self.piece) for count in counts]
        return tuple(self._joined(state, shares, frames) for state in states), frames

    @staticmethod
    def _joined(state: Tensor, shares: list[int], frames: Tensor) -> Tensor:
        """(pieces, T, D) -> (B, longest, D)."""
        rows = [part.flatten(0, 1)[:count] for part, count in zip(state.split(shares), frames.tolist())]
        return pad(rows)[0]


def log_mel(pieces: Tensor, bins: int) -> Tensor:
    """(B, samples) -> (B, bins, samples / 160) float32: log10 mel power, at most 8 below its maximum in each piece, (x + 4) / 4."""
    with torch.autocast(pieces.device.type, enabled=False):
        window = torch.hann_window(WINDOW, device=pieces.device)
        spectrum = torch.stft(pieces.float(), WINDOW, HOP, window=window, return_complex=True)[..., :-1]
        mel = _mel_bank(bins, pieces.device).T @ spectrum.abs().square()
        log = mel.clamp(min=1e-10).log10()
        return (log.maximum(log.amax((1, 2), keepdim=True) - 8.0) + 4.0) / 4.0


@lru_cache(maxsize=4)
def _mel_bank(bins: int, device: torch.device) -> Tensor:
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(1 + WINDOW // 2, bins, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(bank).float().to(device)


class MelPairs(nn.Module):
    """80 Kaldi log mel bins of 16-bit values, normalised over the utterance, two frames in one (w2v-BERT 2.0's and SeamlessM4T's input)."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.fbank = build_frontend(
            {"kaldi": {"feat_type": "fbank", "fbank": {"num_mel_bins": 80, "window_type": "povey"}}}
        )
        self.sample_rate, self.stride, self.offset, self.out_dim = sample_rate, 320, 280.0, 160
        self.shortest = WINDOW + HOP  # samples of two windows

    def frames(self, samples: int) -> int:
        return int(self.fbank.frames(max(samples, self.shortest))) // 2

    def forward(self, wavs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(samples,) each -> (B, T, 160) float32, lengths (B,)."""
        wavs = [functional.pad(wav.float(), (0, max(0, self.shortest - len(wav)))) * 2**15 for wav in wavs]
        x, lengths = self.fbank(wavs)
        return pad([self._pairs(row[:count]) for row, count in zip(x, lengths.tolist())])

    @staticmethod
    def _pairs(x: Tensor) -> Tensor:
        normed = (x - x.mean(0)) * torch.rsqrt(x.var(0) + 1e-7)
        return normed[: len(x) // 2 * 2].reshape(-1, 2 * x.shape[1])


class W2vBertUpstream(TransformersUpstream):
    """w2v-BERT 2.0 (https://arxiv.org/abs/2312.05187), a conformer. Hidden states: the input of every layer, and the last layer's output."""

    def __init__(self, settings: EncoderSettings, model: Any) -> None:
        config, frontend = model.config, MelPairs(settings.sample_rate)
        super().__init__(
            settings,
            model,
            frontend,
            dim=config.hidden_size,
            layers=config.num_hidden_layers,
            stride=frontend.stride,
            offset=frontend.offset,
        )

    def hidden_states(self, x: Tensor, lengths: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        counts = lengths.tolist()
        x = x[:, : max(counts)]
        padded = min(counts) < x.shape[1]
        h = self.model.feature_projection(x)[0]
        encoder = self.model.encoder
        states = [encoder.dropout(zero_beyond(h, lengths) if padded else h)]
        places = None if encoder.embed_positions is None else encoder.embed_positions(states[0])
        keys = attend_to(lengths if padded else None, x.shape[1])
        inside = mask(lengths, x.shape[1]) if padded else None
        for layer in encoder.layers:
            h = layer(states[-1], attention_mask=keys, relative_position_embeddings=places, conv_attention_mask=inside)
            states.append(tensor_of(h))
        return tuple(zero_beyond(state, lengths) if padded else state for state in states), lengths
