"""The settings of a masked acoustic model, under S3PRL's names, and the parts that they describe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from headwater.audio.frontends import Frontend, build_frontend
from headwater.config import Section, Share
from headwater.errors import UsageError
from headwater.nn.transformer import ReconstructionHead, Transformer


class TransformerSettings(Section):
    """The architecture."""

    input_dim: int = Field(-1, ge=-1, le=10**6, description="dims of an input frame; -1 takes them from the front-end")
    hidden_size: int = Field(768, ge=1, le=10**6)
    num_hidden_layers: int = Field(3, ge=1, le=1000)
    num_attention_heads: int = Field(12, ge=1)
    intermediate_size: int = Field(3072, ge=1, le=10**6)
    hidden_act: Literal["gelu", "relu", "swish"] = "gelu"
    hidden_dropout_prob: Share = 0.1
    attention_probs_dropout_prob: Share = 0.1
    initializer_range: float = Field(0.02, ge=0)
    layer_norm_eps: float = Field(1e-12, gt=0)
    share_layer: bool = Field(False, description="one layer, used num_hidden_layers times (Audio ALBERT)")
    pre_layer_norm: bool = False
    first_norm: bool = Field(
        True, description="with pre_layer_norm: the first hidden state is normalised too (not in S3PRL's v0.1)"
    )
    num_conv_pos_embeddings: int = Field(
        0,
        ge=0,
        le=1000,
        description="frames that a convolution before the first layer sees at once, odd (wav2vec 2.0 on frames); 0 has none",
    )
    downsample_rate: int = Field(
        1, ge=1, le=1000, description="so many input frames are stacked into one (S3PRL's v0.1)"
    )
    prune_headids: list[int] | None = Field(
        None, description="heads that answer zero, layer * num_attention_heads + head: 0,1,2,12-15 (15 not among them)"
    )

    @field_validator("prune_headids", mode="before")
    @classmethod
    def _spans(cls, value: Any) -> Any:
        return _numbers(value) if isinstance(value, (str, int)) else value

    @model_validator(mode="after")
    def _fits(self) -> TransformerSettings:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        heads = self.num_hidden_layers * self.num_attention_heads
        wrong = [head for head in self.prune_headids or [] if not 0 <= head < heads]
        if wrong:
            raise ValueError(f"prune_headids names the head {wrong[0]}; there are {heads}, from 0")
        if self.input_dim == 0:
            raise ValueError("input_dim is 0: give the dims of an input frame, or -1 to take them from the front-end")
        if self.num_conv_pos_embeddings and self.num_conv_pos_embeddings % 2 == 0:
            raise ValueError(
                f"num_conv_pos_embeddings {self.num_conv_pos_embeddings} has no frame in its middle: give an odd number"
            )
        if not self.first_norm and not self.pre_layer_norm:
            raise ValueError("first_norm: false says something about pre_layer_norm: true only")
        return self


def _numbers(spans: str | int) -> list[int]:
    """S3PRL's form of a list: 0,1,2,12-15 stands for 0, 1, 2, 12, 13, 14."""
    numbers: list[int] = []
    for span in str(spans).split(","):
        ends = re.fullmatch(r"\s*(\d{1,6})(?:\s*-\s*(\d{1,6}))?\s*", span)
        heads = range(int(ends[1]), int(ends[2] or int(ends[1]) + 1)) if ends else range(0)
        if not heads:
            raise ValueError("write heads as 0,1,2,12-15 (numbers, and spans without their upper end), or as a list")
        numbers += heads
    return numbers


class TaskSettings(Section):
    """What pretraining asks of the model; `sequence_length` holds for its use as well."""

    loss: Literal["L1", "MSE"] = "L1"
    sequence_length: int = Field(
        1500, ge=0, description="frames; longer input is cut into equal chunks (crops in pretraining), 0 never"
    )
    position_encoding_size: int | None = Field(None, description="S3PRL's name for hidden_size again")
    mask_proportion: float = Field(0.15, ge=0, le=1)
    mask_consecutive_min: int = Field(7, ge=1)
    mask_consecutive_max: int = Field(7, ge=1)
    mask_allow_overlap: bool = True
    mask_bucket_ratio: float = Field(1.5, ge=1)
    mask_frequency: float = Field(0.2, ge=0, le=1, description="widest masked band, as a share of the input dims")
    noise_proportion: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _rises(self) -> TaskSettings:
        if self.mask_consecutive_min > self.mask_consecutive_max:
            raise ValueError(
                f"mask_consecutive_min {self.mask_consecutive_min} is above mask_consecutive_max {self.mask_consecutive_max}"
            )
        return self


class Settings(Section):
    """Everything that a weight file says of its model: S3PRL's three groups.

    audio: S3PRL's mapping for the front-end, `target_level`, `win_ms`, `hop_ms`, `n_freq`, `n_mels`, `n_mfcc`, `input` and (for pretraining) `target`; or its
    Kaldi form `kaldi`, `delta`, `cmvn`; or nothing for a model on precomputed features of `transformer.input_dim` dims.
    """

    transformer: TransformerSettings = Field(default_factory=lambda: TransformerSettings())
    task: TaskSettings = Field(default_factory=lambda: TaskSettings())
    audio: dict[str, Any] = Field(default_factory=dict)

    @field_validator("audio", mode="before")
    @classmethod
    def _said(cls, value: Any) -> Any:
        """Without what is said to be nothing, which S3PRL's files write as None: text, to YAML."""
        if isinstance(value, Mapping):
            return {key: inner for key, inner in value.items() if inner not in (None, "None")}
        return {} if value is None else value

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        hidden = self.transformer.hidden_size
        if self.task.position_encoding_size not in (None, hidden):
            raise ValueError(
                f"task.position_encoding_size is {self.task.position_encoding_size}, transformer.hidden_size {hidden}; they must be equal"
            )
        if not self.audio and self.transformer.input_dim < 1:
            raise ValueError(
                "there is no front-end (audio is empty): transformer.input_dim must be the dims of the features"
            )
        self.task = self.task.model_copy(update={"position_encoding_size": hidden})
        return self


def frontend_of(audio: Mapping[str, Any]) -> Frontend:
    """The front-end of what enters the model.

    Raises:
        UsageError: as `build_frontend`.
    """
    return build_frontend({key: value for key, value in audio.items() if key != "target"})


def target_of(audio: Mapping[str, Any]) -> Frontend:
    """The front-end of what the model has to reconstruct: `target` in the place of `input`, or the input itself where there is no `target`.

    Raises:
        UsageError: as `build_frontend`.
    """
    return frontend_of({**audio, "input": audio["target"]} if "target" in audio else audio)


def input_dim_of(settings: Settings) -> int:
    """Dims of an input frame, before stacking.

    Raises:
        UsageError: settings of the front-end are wrong, or `transformer.input_dim` is not what it gives.
    """
    said = settings.transformer.input_dim
    if not settings.audio:
        return said
    given = frontend_of(settings.audio).out_dim
    if said not in (-1, given):
        raise UsageError(
            f"transformer.input_dim is {said}, yet the front-end that `audio` describes gives {given} dims"
        )
    return given


def build_transformer(settings: Settings, input_dim: int) -> Transformer:
    """The encoder on input frames of `input_dim` dims (before stacking), with fresh weights."""
    chosen = settings.transformer
    return Transformer(
        input_dim * chosen.downsample_rate,
        chosen.hidden_size,
        chosen.num_hidden_layers,
        chosen.num_attention_heads,
        chosen.intermediate_size,
        activation=chosen.hidden_act,
        dropout=chosen.hidden_dropout_prob,
        attention_dropout=chosen.attention_probs_dropout_prob,
        eps=chosen.layer_norm_eps,
        shared=chosen.share_layer,
        pre_norm=chosen.pre_layer_norm,
        first_norm=chosen.first_norm,
        chunk=settings.task.sequence_length,
        std=chosen.initializer_range,
        near=chosen.num_conv_pos_embeddings,
    )


def build_head(settings: Settings, out_dim: int) -> ReconstructionHead:
    """The pretraining head to target frames of `out_dim` dims (before stacking), with fresh weights."""
    chosen = settings.transformer
    return ReconstructionHead(
        chosen.hidden_size,
        out_dim * chosen.downsample_rate,
        activation=chosen.hidden_act,
        eps=chosen.layer_norm_eps,
        std=chosen.initializer_range,
    )
