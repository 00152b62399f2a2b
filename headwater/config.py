"""The sections of settings, typed, with their defaults. A task's card, a YAML file and `-o key=value` lie over these, in this order.

The keys keep S3PRL's words where it has one (`runner.total_steps`, `optimizer.lr`, ...).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from headwater.settings import merge

Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Neutral:
    """Marks a setting of any section that changes no numbers, and so does not identify a run: how often something is printed, how memory is spent.

    place: it says where something lies, which is identified by its content; `headwater.identity` keeps it in full.
    """

    place: bool = False


NEUTRAL, PLACE = Neutral(), Neutral(place=True)
Place = Annotated[str | None, PLACE]


class Section(BaseModel):
    """A group of settings; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)


class FeatureSet(Section):
    """What precomputed features are, and their time: the centre of frame k is sample `offset + k * stride`."""

    kind: str = Field(description="what they are called, such as fbank80 or fmllr")
    dim: int = Field(ge=1)
    sample_rate: int = Field(ge=1, description="of the sound they were made of, in Hz")
    stride: int = Field(ge=1, description="samples between frames")
    offset: float = Field(ge=0, multiple_of=0.5, description="centre of frame 0 in samples")


class UpstreamConfig(Section):
    """Which representation is asked, and which of its layers."""

    name: str
    ckpt: Place = None
    config: dict[str, Any] = Field(default_factory=dict, description="settings of the model or its front-end (-g FILE)")
    selection: Literal["hidden_states", "last_hidden_state"] = Field(
        "hidden_states", description="learned weighted sum of all layers, or the last layer"
    )
    layer: int | None = Field(None, description="one layer only, counted from 0; negative from the end")
    normalize: bool = Field(False, description="layer norm of every hidden state before the sum")
    trainable: bool = Field(False, description="fine-tune the upstream")
    lr: float | None = Field(
        None, gt=0, description="learning rate of the fine-tuned upstream; the head's when not given"
    )
    freeze: list[str] = Field(
        default_factory=list, description="prefixes of upstream parameter names that stay frozen while fine-tuning"
    )
    features: FeatureSet | None = Field(
        None, description="the precomputed features it was given; the data says it (features.json)"
    )


class DataConfig(Section):
    """Where the data lies and how audio is read."""

    path: Place = Field(None, description="CSV file, corpus folder or trial list; the demo corpus when not given")
    root: Place = Field(None, description="folder that relative paths start from")
    reader: str = "auto"
    labels: Place = Field(None, description="frame labels: a CPC file, or .lab / TextGrid files")
    label_column: str | None = Field(None, description="the CSV column to classify")
    trials: Place = Field(None, description="verification trials: LABEL PATH PATH")
    asv_scores: Place = Field(None, description="scores of the ASV system behind a countermeasure, for the t-DCF")
    train_list: Place = None
    dev_list: Place = None
    test_list: Place = None
    split_file: Place = Field(None, description="VoxCeleb's iden_split.txt, where it is not beside the corpus")
    splits: Literal["auto", "make", "whole"] = Field(
        "auto",
        description="auto keeps the corpus' own splits, or makes some; make replaces them; whole takes a corpus without any as test",
    )
    min_utterances: int = Field(1, ge=1, description="speakers with fewer utterances are left out")
    channel: Literal["single", "mean"] | int = Field(
        "single", description="single (more channels are an error), mean, or a channel number"
    )
    resample: bool = Field(False, description="resample audio of another rate instead of refusing it")
    skip_bad_audio: bool = False
    limit: int | None = Field(None, ge=1, description="at most so many utterances of each split: for trying things out")
    where: dict[str, str] = Field(
        default_factory=dict, description="only rows of a list that say this: {subset: train-clean-100}"
    )

    @field_validator("channel", mode="before")
    @classmethod
    def _channel(cls, value: Any) -> Any:
        if value in ("single", "mean") or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
            return value
        raise ValueError("it must be single, mean or the number of a channel, from 0")


class OptimizerConfig(Section):
    name: Literal["AdamW", "Adam", "SGD"] = "AdamW"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    momentum: float = Field(0.0, ge=0)


class SchedulerConfig(Section):
    """A schedule of `transformers.get_scheduler`, or `step`: times `factor` after every few epochs."""

    name: Literal["constant", "constant_with_warmup", "linear", "cosine", "polynomial", "inverse_sqrt", "step"] = (
        "constant"
    )
    warmup_steps: int = Field(0, ge=0)
    warmup_ratio: float = Field(0.0, ge=0, lt=1, description="warm-up as a share of total_steps")
    every_epochs: int | None = Field(None, ge=1, description="of step; needs runner.epochs")
    factor: float | None = Field(None, gt=0, le=1, description="of step")

    @model_validator(mode="after")
    def _whole_step(self) -> SchedulerConfig:
        given = [name for name in ("every_epochs", "factor") if getattr(self, name) is not None]
        if self.name == "step" and (len(given) < 2 or self.warmup_steps or self.warmup_ratio):
            raise ValueError("the schedule step needs every_epochs and factor, and has no warm-up")
        if self.name != "step" and given:
            raise ValueError(f"{' and '.join(given)} belong to the schedule step, not to {self.name}")
        return self

    @model_validator(mode="after")
    def _one_warmup(self) -> SchedulerConfig:
        if self.warmup_steps and self.warmup_ratio:
            raise ValueError("give warmup_steps or warmup_ratio, not both")
        if self.name == "constant" and (self.warmup_steps or self.warmup_ratio):
            raise ValueError("the constant schedule has no warm-up; use constant_with_warmup")
        return self


class RunnerConfig(Section):
    total_steps: int = Field(2000, ge=1)
    epochs: int | None = Field(None, ge=1, description="passes over the training data; replaces total_steps")
    gradient_clipping: float = Field(1.0, gt=0)
    gradient_accumulate_steps: int = Field(1, ge=1)
    log_step: Annotated[int, NEUTRAL] = Field(50, ge=1)
    eval_step: int = Field(200, ge=1)
    eval_epochs: int | None = Field(
        None, ge=1, description="dev is scored after every so many epochs; replaces eval_step"
    )
    save_step: Annotated[int, NEUTRAL] = Field(200, ge=1)
    patience: int | None = Field(None, ge=1, description="stop after so many evaluations on dev without a better one")
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"


class BatchConfig(Section):
    """A batch holds at most `size` utterances and at most `seconds` of audio, padding included."""

    size: int = Field(32, ge=1)
    seconds: float = Field(400.0, gt=0)


class SpecAugConfig(Section):
    """SpecAugment (https://arxiv.org/abs/1904.08779) on what the head sees, in training only."""

    time_masks: int = Field(2, ge=0)
    time_width: int = Field(70, ge=0, description="frames, at most")
    frequency_masks: int = Field(2, ge=0)
    frequency_width: int = Field(9, ge=0, description="feature dimensions, at most")


class StoreConfig(Section):
    """Frozen features are computed once and kept: on disk for other runs, too, and in memory where the disk does not take them."""

    cache: Annotated[bool, NEUTRAL] = Field(True, description="keep them on disk (HEADWATER_STORE); --no-cache")
    budget_gib: Annotated[float | None, NEUTRAL] = Field(
        None, ge=0, description="what the disk may be used for in all; half of what is free there when not given"
    )
    memory_gib: Annotated[float, NEUTRAL] = Field(
        4.0, ge=0, description="what main memory may hold of what is not on disk"
    )
    dtype: Literal["float32", "float16"] = Field("float32", description="what is kept")
    extract_dtype: Literal["float32", "bfloat16"] = Field("float32", description="what the encoder computes in")


class WaveformStore(Section):
    """Waveforms are read once and kept in memory where they fit."""

    memory_gib: Annotated[float, NEUTRAL] = Field(4.0, ge=0)


class GridConfig(Section):
    """What is trained side by side, from one pass over the features: every layer, several seeds, several learning rates, and all combinations of them."""

    layers: Literal["all"] | None = Field(None, description="all: a probe on every layer beside the weighted sum")
    seeds: int = Field(1, ge=1, le=100, description="so many, from `seed` on: of initialisation and dropout")
    lrs: list[Annotated[float, Field(gt=0)]] = Field(
        default_factory=list, max_length=32, description="learning rates, in the place of optimizer.lr; dev chooses"
    )

    @field_validator("lrs")
    @classmethod
    def _ascending(cls, values: list[float]) -> list[float]:
        return sorted(set(values))

    @property
    def many(self) -> bool:
        return self.layers is not None or self.seeds > 1 or len(self.lrs) > 1


POLYNOMIAL_END = 1e-7  # of transformers.get_scheduler


class TrainingConfig(Section):
    """What the training loop reads, whatever it trains."""

    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = Field(default_factory=SchedulerConfig)
    runner: RunnerConfig = Field(default_factory=RunnerConfig)
    batch: BatchConfig = Field(default_factory=BatchConfig)
    seed: int = Field(1337, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _falls(self) -> TrainingConfig:
        if self.scheduler.name == "polynomial" and self.optimizer.lr <= POLYNOMIAL_END:
            raise ValueError(f"the polynomial schedule ends at {POLYNOMIAL_END:g}: optimizer.lr must be larger")
        return self

    @model_validator(mode="after")
    def _counts_epochs(self) -> TrainingConfig:
        if self.scheduler.name == "step" and self.runner.epochs is None:
            raise ValueError("the schedule step counts epochs: give runner.epochs, too")
        return self


class RunConfig(TrainingConfig):
    """Everything that decides an evaluation."""

    upstream: UpstreamConfig
    downstream: str
    task: dict[str, Any] = Field(default_factory=dict, description="the task's own settings (`headwater show TASK`)")
    probe: Literal["head", "ridge", "logistic", "knn"] = Field(
        "head", description="the task's head, trained; or a probe that needs no tuning in its place"
    )
    grid: GridConfig = Field(default_factory=GridConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    specaug: SpecAugConfig | None = None
    store: StoreConfig = Field(default_factory=StoreConfig)

    @model_validator(mode="before")
    @classmethod
    def _one_rate(cls, settings: Any) -> Any:
        """A grid of one learning rate is the plain run at this rate."""
        grid = settings.get("grid") if isinstance(settings, dict) else None
        rates = grid.get("lrs") if isinstance(grid, dict) else None
        if not isinstance(rates, list) or len({str(rate) for rate in rates}) != 1:
            return settings
        return merge(settings, {"grid": {"lrs": []}, "optimizer": {"lr": rates[0]}})

    @model_validator(mode="after")
    def _grid_fits(self) -> RunConfig:
        if self.grid.many:
            asked = "--layers all, --seeds and --lr-grid"
            if self.upstream.trainable:
                raise ValueError(
                    f"{asked} train many probes on features computed once; with -f (--fine_tune) there are none: run them one by one"
                )
            if self.probe != "head":
                raise ValueError(f"{asked} train the task's head; --probe {self.probe} is computed, and has no grid")
            if self.runner.precision == "fp16":
                raise ValueError(
                    f"{asked} need runner.precision fp32 or bf16: fp16 scales the loss of all arms by one factor, and one that diverges would change it"
                )
            if self.scheduler.name == "polynomial" and self.grid.lrs and self.grid.lrs[0] <= POLYNOMIAL_END:
                raise ValueError(
                    f"the polynomial schedule ends at {POLYNOMIAL_END:g}: every rate of --lr-grid must be larger"
                )
        return self


class ShardConfig(Section):
    """How an extraction is cut: a shard holds about so much, whichever is less."""

    seconds: float = Field(600.0, gt=0, description="of audio")
    mib: float = Field(64.0, gt=0, description="of features")


class ExtractConfig(Section):
    """Everything that decides an extraction."""

    upstream: UpstreamConfig
    data: DataConfig = Field(default_factory=DataConfig)
    splits: list[str] = Field(default_factory=list, description="of the corpus; all of it when empty")
    sample_rate: int = Field(
        16000, ge=1, description="that audio is read at, in Hz, as tasks do; resampled from there for other upstreams"
    )
    pooled: bool = Field(False, description="the mean over each utterance in the place of its frames")
    store: StoreConfig = Field(default_factory=StoreConfig)
    batch: BatchConfig = Field(default_factory=BatchConfig)
    shard: ShardConfig = Field(default_factory=ShardConfig)


class PretrainConfig(TrainingConfig):
    """Everything that decides a pretraining."""

    objective: str
    model: dict[str, Any] = Field(default_factory=dict, description="the objective's own settings (-g FILE)")
    data: DataConfig = Field(default_factory=DataConfig)
    crop_seconds: float | None = Field(
        None, gt=0, description="longest piece of an utterance that is trained on, drawn anew each epoch"
    )
    min_seconds: float = Field(0.0, ge=0, description="shorter utterances are left out")
    dev_share: float = Field(
        0.03, gt=0, lt=0.5, description="of the audio, held out by speaker where the data has no dev split"
    )
    store: WaveformStore = Field(default_factory=WaveformStore, description="waveforms are kept where they fit")
