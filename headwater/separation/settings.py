"""The settings of Conv-TasNet, under the letters of its paper (https://arxiv.org/abs/1809.07454)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from headwater.config import Section

Norm = Literal["gLN", "channelwise", "cumulative", "fgLN", "BN"]
Activation = Literal["linear", "relu"]
Mask = Literal["sigmoid", "relu", "softmax"]
Padding = Literal["cut", "odd", "naplab", "zeros", "short"]
Width = Annotated[int, Field(ge=1, le=10**5)]

CAUSAL_NORMS = ("channelwise", "cumulative", "BN")


class Architecture(Section):
    """Every Conv-TasNet there is, those of foreign files included."""

    speakers: int = Field(2, ge=1, le=100)
    N: Width = Field(512, description="filters of the encoder")
    L: int = Field(16, ge=2, le=10**5, description="samples of a filter")
    stride: int | None = Field(None, ge=1, description="samples between frames; half of L when not given")
    B: Width = Field(128, description="channels of the bottleneck and the residual path")
    H: Width = Field(512, description="channels of the depthwise convolutions")
    Sc: int = Field(128, ge=0, le=10**5, description="channels of the skip path; 0 for none")
    P: int = Field(3, ge=1, le=1000, description="frames of a depthwise kernel")
    X: int = Field(8, ge=1, le=20, description="blocks of a repeat, with dilations 1, 2, 4, ...")
    R: int = Field(3, ge=1, le=1000, description="repeats")
    norm: Norm = Field("gLN", description="of the blocks")
    input_norm: Norm | None = Field(None, description="of what the encoder gives; as in the blocks when not given")
    affine: bool = Field(True, description="norms scale and shift channels")
    eps: float = Field(1e-8, gt=0, description="of the norms; BN has torch's")
    causal: bool = False
    encoder_activation: Activation = "linear"
    mask: Mask = Field("sigmoid", description="activation of the masks; softmax runs over the speakers")
    bias: bool = Field(True, description="of the 1x1 and depthwise convolutions")
    codec_bias: bool = Field(False, description="of the encoder and the decoder")
    second_norm: bool = Field(True, description="activation and norm after the depthwise convolution, too")
    mask_prelu: bool = Field(True, description="an activation before the masks' convolution")
    deep: list[Annotated[int, Field(ge=1, le=1000)]] = Field(
        default_factory=list,
        description="dilations of further convolutions in the encoder, mirrored in the decoder (arXiv 2002.08688); none when empty",
    )
    padding: Padding = Field(
        "cut", description="cut: as long as the input, all of it separated; the others are those of foreign files"
    )
    codec_lookahead: bool = Field(
        False, description="the further convolutions see the future in a causal model, as foreign ones do"
    )
    late_cut: bool = Field(
        False, description="the second norm of a causal block sees the padding, too, as in foreign files"
    )

    @field_validator("norm", "input_norm", mode="before")
    @classmethod
    def _one_meaning(cls, value: Any) -> Any:
        if isinstance(value, str) and value.lower() == "cln":
            raise ValueError(
                "cLN is said of two norms: write cumulative (the paper's) or channelwise (each frame alone, as in most code)"
            )
        return value

    @model_validator(mode="after")
    def _fits(self) -> Architecture:
        if self.stride is not None and self.stride > self.L:
            raise ValueError(f"stride {self.stride} is longer than a filter (L {self.L}): samples would be lost")
        return self

    @property
    def hop(self) -> int:
        """Samples between frames."""
        return self.L // 2 if self.stride is None else self.stride

    @property
    def first_norm(self) -> Norm:
        return self.norm if self.input_norm is None else self.input_norm

    @property
    def dilations(self) -> list[int]:
        """Of all blocks."""
        return [2**block for _ in range(self.R) for block in range(self.X)]

    @property
    def sees_future(self) -> list[str]:
        """What keeps a model that is said to be causal from being it."""
        found = [
            f"{key} {norm}, whose statistics run over the whole utterance"
            for key, norm in {"norm": self.norm, "input_norm": self.first_norm}.items()
            if norm not in CAUSAL_NORMS
        ]
        return found + ["the look-ahead of its deep encoder"] * bool(self.deep and self.codec_lookahead)

    @property
    def receptive_field(self) -> int:
        """Samples that one frame of masks depends on, through convolutions (norms over time see more)."""
        frames = 1 + self.R * (self.P - 1) * (2**self.X - 1) + 2 * sum(self.deep)
        return (frames - 1) * self.hop + self.L


class ConvTasNetConfig(Architecture):
    """What can be asked for: causal means causal, and outputs are as long as inputs."""

    @model_validator(mode="after")
    def _sound(self) -> ConvTasNetConfig:
        if self.padding != "cut" or self.late_cut or self.codec_lookahead:
            raise ValueError("padding, late_cut and codec_lookahead describe foreign files; leave them out")
        if self.causal and self.sees_future:
            raise ValueError(
                f"causal: true contradicts {' and '.join(self.sees_future)}; use cumulative, channelwise or BN"
            )
        return self
