"""What is trained: an encoder on waveforms, of transformers' modules; or a Transformer on the frames of a front-end. Both see masked frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from headwater.config import FeatureSet, Section, Share
from headwater.errors import UsageError
from headwater.hf.architectures import build, config_of
from headwater.hf.settings import EncoderSettings
from headwater.hf.waveform import WaveformEncoder
from headwater.mam.settings import Settings as FrameSettings
from headwater.mam.settings import TransformerSettings, build_transformer, frontend_of
from headwater.mam.weights import write_model
from headwater.nn.lengths import pad
from headwater.results.files import write_bytes
from headwater.weights import to_bytes

# Of these transformers' layers can be left out one by one.
ON_WAVEFORMS = ("wav2vec2", "hubert")


class EncoderOptions(Section):
    """What is trained. With `audio` a Transformer on the frames of this front-end; with `architecture` (and `audio: {}`) one on waveforms."""

    audio: dict[str, Any] = Field(default_factory=dict, description="the front-end, as tera has it")
    transformer: TransformerSettings = Field(default_factory=lambda: TransformerSettings())
    sequence_length: int = Field(
        400,
        ge=0,
        description="frames of the longest piece, in training and in use; 0 never cuts. Not of waveforms: crop_seconds",
    )
    architecture: dict[str, Any] = Field(
        default_factory=dict, description="of an encoder on waveforms: transformers' config.json"
    )
    normalize: float | None = Field(None, gt=0, description="waveforms to mean 0 and variance 1, with this epsilon")
    layerdrop: Share = Field(0.0, description="layers that are left out of a step (waveforms only)")
    feature_grad: float = Field(
        1.0, ge=0, le=1, description="by which the gradient into the convolutions is multiplied (waveforms only)"
    )
    feature_penalty: float = Field(
        0.0, ge=0, description="of the mean square of what convolutions give (waveforms only)"
    )


class Encoder(nn.Module, ABC):
    """Frames, masked or not, and what is made of them.

    sample_rate, stride, offset: time of its frames. level, crop: see `Objective`. local_dim, hidden: dims of a frame before and after.
    """

    sample_rate: int
    stride: int
    offset: float
    level: float | None = None
    crop: int | None = None
    local_dim: int
    hidden: int
    depth: int

    @abstractmethod
    def frames(self, samples: int) -> int:
        """Frames of a waveform of so many samples."""

    @abstractmethod
    def local(self, wavs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Waveforms (samples,) or features (T, D) -> local frames (B, T, local_dim), lengths (B,)."""

    @abstractmethod
    def normed(self, local: Tensor) -> Tensor:
        """Local frames as they enter the rest: what a target is made of."""

    @abstractmethod
    def context(self, local: Tensor, lengths: Tensor, covered: Tensor, kept: Sequence[bool] | None) -> Tensor:
        """(B, T, hidden) from local frames of which those `covered` (B, T) are hidden. kept: the layers that have a part; None for all."""

    @abstractmethod
    def write(self, path: Path, upstream: str, heads: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """A weight file of the upstream; `heads` are what only pretraining needs, and are kept where its files have room for them."""


class FrameEncoder(Encoder):
    """A Transformer on the frames of a front-end, or on precomputed features. Masked frames are replaced by one that is learnt."""

    def __init__(self, options: EncoderOptions, features: FeatureSet | None) -> None:
        super().__init__()
        for name, value, nothing in (
            ("layerdrop", options.layerdrop, 0.0),
            ("feature_grad", options.feature_grad, 1.0),
            ("feature_penalty", options.feature_penalty, 0.0),
        ):
            if value != nothing:
                raise UsageError(
                    f"model.{name} {value:g} is for convolutions on waveforms, and these are frames: leave it out"
                )
        if options.transformer.downsample_rate != 1 or options.transformer.prune_headids:
            raise UsageError(
                "model.transformer: downsample_rate and prune_headids belong to models that are read; leave them out"
            )
        self.frontend: Any = None
        if features is not None:
            options.audio = {}  # the data is what the front-end would have made
            self.sample_rate, self.stride, self.offset = features.sample_rate, features.stride, features.offset
            dim = features.dim
        else:
            self.level = frontend_of(options.audio).target_level
            # The whole utterance has its level before it is cut.
            self.frontend = frontend_of({key: value for key, value in options.audio.items() if key != "target_level"})
            self.sample_rate, self.stride = self.frontend.sample_rate, self.frontend.stride
            self.offset, dim = self.frontend.offset, self.frontend.out_dim
        if options.transformer.input_dim not in (-1, dim):
            raise UsageError(
                f"model.transformer.input_dim is {options.transformer.input_dim}, and the frames have {dim} dims"
            )
        options.transformer.input_dim = dim
        self.settings = FrameSettings.model_validate(
            {
                "transformer": options.transformer.model_dump(),
                "task": {"sequence_length": options.sequence_length},
                "audio": options.audio,
            }
        )
        self.crop = options.sequence_length * self.stride or None
        self.local_dim, self.hidden = dim, options.transformer.hidden_size
        self.depth = options.transformer.num_hidden_layers
        self.transformer = build_transformer(self.settings, dim)
        # A crop of `sequence_length` hops may have a frame more; the weights' user cuts, training never does.
        self.transformer.chunk = 0
        self.masked = nn.Parameter(torch.zeros(dim))

    def frames(self, samples: int) -> int:
        if self.frontend is None:
            raise UsageError("precomputed features have no samples")
        return int(self.frontend.frames(samples))

    def local(self, wavs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        x, lengths = pad(list(wavs)) if self.frontend is None else self.frontend(wavs)
        return x, lengths

    def normed(self, local: Tensor) -> Tensor:
        return local

    def context(self, local: Tensor, lengths: Tensor, covered: Tensor, kept: Sequence[bool] | None) -> Tensor:
        return self.transformer.last(torch.where(covered[:, :, None], self.masked.to(local.dtype), local), lengths)

    def write(self, path: Path, upstream: str, heads: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        write_model(path, upstream, self.settings, self.transformer.state_dict(), facts=facts)


class SampleEncoder(Encoder):
    """Convolutions on waveforms and a transformer, on the modules that `headwater.hf` reads weights into."""

    def __init__(self, options: EncoderOptions) -> None:
        super().__init__()
        kind = options.architecture.get("model_type")
        if kind not in ON_WAVEFORMS:
            raise UsageError(f"model.architecture.model_type is {kind!r}; pretrained are {' and '.join(ON_WAVEFORMS)}")
        self.settings = EncoderSettings(architecture=options.architecture, normalize=options.normalize)
        self.upstream = WaveformEncoder(self.settings, build(config_of(options.architecture)))
        config = self.upstream.model.config
        if not hasattr(self.upstream.model, "masked_spec_embed"):
            raise UsageError(
                "model.architecture.mask_time_prob is 0, so there is no vector for masked frames: leave it out"
            )
        self.sample_rate, self.stride, self.offset = (
            self.upstream.sample_rate,
            self.upstream.stride,
            self.upstream.offset,
        )
        self.local_dim, self.hidden = config.conv_dim[-1], config.hidden_size
        self.depth, self.share = config.num_hidden_layers, options.feature_grad

    def frames(self, samples: int) -> int:
        return self.upstream.frames(samples)

    def local(self, wavs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        x, lengths = self.upstream.frontend(wavs)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.share > 0):
            local, frames, _ = self.upstream.convolve(x, lengths)
        return local * self.share + local.detach() * (1 - self.share) if 0 < self.share < 1 else local, frames

    def normed(self, local: Tensor) -> Tensor:
        found: Tensor = self.upstream.model.feature_projection.layer_norm(local)
        return found

    def context(self, local: Tensor, lengths: Tensor, covered: Tensor, kept: Sequence[bool] | None) -> Tensor:
        h = self.upstream.project(local)
        h = torch.where(covered[:, :, None], self.upstream.model.masked_spec_embed.to(h.dtype), h)
        padded = int(lengths.min()) < local.shape[1]
        return self.upstream.encode_frames(h, lengths if padded else None, kept)[-1]

    def write(self, path: Path, upstream: str, heads: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        state = {name: value.float() for name, value in self.upstream.model.state_dict().items()}
        header = {**facts, "upstream": upstream, "config": self.settings.model_dump(mode="json")}
        write_bytes(path, to_bytes({**state, **heads}, header))


def build_encoder(options: EncoderOptions, features: FeatureSet | None) -> Encoder:
    """`UsageError` for settings that describe no encoder, or two."""
    if options.architecture and (options.audio or features is not None):
        wrong = "precomputed features as data" if features is not None else "model.audio"
        raise UsageError(
            f"model.architecture is an encoder on waveforms, and {wrong} asks for one on frames: give one of them"
        )
    if options.architecture:
        return SampleEncoder(options)
    if not options.audio and features is None:
        raise UsageError(
            "there is nothing to learn from: give model.audio (a front-end) or model.architecture (an encoder on waveforms)"
        )
    return FrameEncoder(options, features)
