"""What can be set of separation: one task, several systems."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from headwater.config import Section
from headwater.data.dynamic import Levels
from headwater.separation.settings import ConvTasNetConfig
from headwater.separation.superb import SuperbConfig

Kind = Literal["superb", "convtasnet", "joint", "oracle", "one_and_rest"]
Loss = Literal["si_snr", "snr", "snr30", "sd_sdr", "sa_sdr", "mse"]

BLIND = ("si_snr",)  # losses that leave the level of an answer open
DAY = 86400.0  # seconds

# Which groups of settings a system reads.
READS: dict[str, tuple[str, ...]] = {
    "superb": ("superb",),
    "convtasnet": ("net", "loss", "weights", "weights_settings", "fine_tune"),
    "joint": ("net", "loss"),
    "oracle": ("oracle",),
    "one_and_rest": ("net", "take"),
}


class OracleConfig(Section):
    """Windows and hops of the masks; 32 and 8 ms are those of Conv-TasNet's paper."""

    mask: Literal["IBM", "IRM", "WFM", "IAM", "PSM", "NPSM", "TPSM"] = "PSM"
    window_ms: float = Field(32.0, gt=0, le=1000)
    hop_ms: float = Field(8.0, gt=0, le=1000)

    @model_validator(mode="after")
    def _overlaps(self) -> OracleConfig:
        if self.hop_ms >= self.window_ms:
            raise ValueError(f"hop_ms {self.hop_ms:g} is not shorter than window_ms {self.window_ms:g}")
        return self


class TakeConfig(Section):
    """When one-and-rest stops: nothing of the mixture is left but `quiet_db`, or `most` speakers are out."""

    most: int = Field(5, ge=1, le=100)
    quiet_db: float = Field(-15.0, le=0)


class SeparationConfig(Section):
    """superb: of the system of this name; net: of convtasnet, joint and one_and_rest; oracle, take: of oracle and one_and_rest.

    A group that the system does not read must be left out.
    """

    system: Kind = "superb"
    rate: int = Field(16000, ge=1000, le=192000, description="of the sound, in Hz")
    superb: SuperbConfig = Field(default_factory=SuperbConfig)
    net: ConvTasNetConfig = Field(default_factory=ConvTasNetConfig)
    oracle: OracleConfig = Field(default_factory=OracleConfig)
    take: TakeConfig = Field(default_factory=TakeConfig)
    loss: Loss = Field("si_snr", description="of convtasnet and joint; si_snr is blind to scale, which a stream needs")
    weights: str | None = Field(
        None, description="of convtasnet: a file of another project, scored as it stands; it says what `net` is"
    )
    weights_settings: dict[str, Any] = Field(
        default_factory=dict, description="what that file does not say, under the names of its project's code"
    )
    fine_tune: bool = Field(False, description="the weights of the file are trained further")

    length: Literal["min", "max"] = Field(
        "min", description="mixtures are cut to their shortest source, or padded to the longest"
    )
    noise: bool = Field(False, description="with the noise that the data names")
    dynamic: bool = Field(False, description="training mixtures are drawn anew each epoch, from the sources of train")
    levels: Levels = Field(default_factory=Levels, description="of mixtures that are drawn")
    speakers: list[Annotated[int, Field(ge=2, le=20)]] = Field(
        default_factory=list, description="in mixtures that are drawn, in turn; as many as the system gives when empty"
    )
    mixtures: int = Field(100, ge=1, description="of dev and of test that are made of a corpus of single speakers")

    segments: Literal["whole", "random", "consecutive"] = Field(
        "whole", description="what training sees: all of a mixture, a piece drawn anew each epoch, or all its pieces"
    )
    segment_seconds: float = Field(4.0, gt=0, le=DAY)
    shortest_seconds: float = Field(
        0.5, gt=0, le=DAY, description="of a consecutive piece; a shorter rest begins earlier instead"
    )

    rescale: Literal["least_squares", "peak", "sum", "unchanged"] = Field(
        "least_squares", description="the level of answers, which most losses leave open"
    )
    window_seconds: float = Field(
        20.0, gt=0, le=DAY, description="longer files are answered window by window, half a window apart"
    )
    quality: bool = Field(True, description="STOI and PESQ of tests, where their packages are installed")

    @property
    def sources(self) -> int | None:
        """How many speakers the system gives; None where it gives as many as there are."""
        fixed = {"superb": self.superb.speakers, "convtasnet": self.net.speakers, "joint": self.net.speakers}
        return fixed.get(self.system)

    @property
    def drawn(self) -> list[int]:
        """How many speakers mixtures have that are drawn, in turn."""
        return self.speakers or [self.sources or 2]

    @model_validator(mode="after")
    def _read(self) -> SeparationConfig:
        for group in sorted({name for names in READS.values() for name in names} - {*READS[self.system]}):
            if getattr(self, group) != _default(group):
                readers = " and ".join(kind for kind, names in READS.items() if group in names)
                raise ValueError(f"{group} is for the system {readers}, and this is {self.system}; leave it out")
        return self

    @model_validator(mode="after")
    def _fits(self) -> SeparationConfig:
        if self.system == "one_and_rest" and self.net.speakers != 2:
            raise ValueError("one_and_rest has two outputs, one speaker and the rest: leave net.speakers at 2")
        if self.system == "joint" and self.net.causal:
            raise ValueError("joint cannot be causal: the upstream's frames see what follows; use convtasnet")
        if self.weights is None and (self.weights_settings or self.fine_tune):
            raise ValueError("weights_settings and fine_tune are of a file of weights; name it with weights")
        for name in ("window_seconds", "segment_seconds"):
            if round(getattr(self, name) * self.rate) < 2:
                raise ValueError(f"{name} {getattr(self, name):g} is less than two samples")
        if self.sources == 1:
            raise ValueError("of one speaker nothing can be separated: speakers is 2 or more")
        if self.dynamic and self.segments == "consecutive":
            raise ValueError("consecutive pieces are those of fixed mixtures; with dynamic take random or whole ones")
        if self.sources is not None and {*self.drawn} != {self.sources}:
            raise ValueError(f"speakers {self.drawn} are asked for, and {self.system} separates {self.sources}")
        return self


def _default(group: str) -> Any:
    return SeparationConfig.model_fields[group].get_default(call_default_factory=True)
