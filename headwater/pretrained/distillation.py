"""Distillation (https://arxiv.org/abs/2110.01900): a small model says, with a head for each, what layers of a frozen one say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from headwater.config import FeatureSet, Section
from headwater.download import is_address
from headwater.errors import UsageError
from headwater.loading import CKPT, load_upstream
from headwater.nn.lengths import frame_index, mask
from headwater.nn.upstream import NoFrontend, Upstream
from headwater.pretrained.names import Rules, renamed
from headwater.pretrained.objective import NetworkObjective, NetworkSettings
from headwater.train.objective import Share
from headwater.weights import state_sha256

# transformers' names -> the student's.
_LAYER = r"encoder\.layers\.(\d+)\."
NAMES: Rules = (
    (r"feature_extractor\.conv_layers\.(\d+)\.conv\.(.+)", r"extractor.\1.conv.\2"),
    (r"feature_extractor\.conv_layers\.(\d+)\.layer_norm\.(.+)", r"extractor.\1.norm.\2"),
    (r"feature_projection\.projection\.(.+)", r"projection.\1"),
    (r"encoder\.pos_conv_embed\.conv\.bias", "encoder.positions.bias"),
    (r"encoder\.pos_conv_embed\.conv\.(?:weight_g|parametrizations\.weight\.original0)", "encoder.positions.gain"),
    (r"encoder\.pos_conv_embed\.conv\.(?:weight_v|parametrizations\.weight\.original1)", "encoder.positions.direction"),
    (_LAYER + r"attention\.out_proj\.(.+)", r"encoder.layers.\1.attention.output.\2"),
    (_LAYER + r"attention\.([qkv])_proj\.(.+)", r"encoder.layers.\1.attention.\2.\3"),
    (_LAYER + r"layer_norm\.(.+)", r"encoder.layers.\1.attention_norm.\2"),
    (_LAYER + r"feed_forward\.intermediate_dense\.(.+)", r"encoder.layers.\1.up.\2"),
    (_LAYER + r"feed_forward\.output_dense\.(.+)", r"encoder.layers.\1.down.\2"),
    (_LAYER + r"final_layer_norm\.(.+)", r"encoder.layers.\1.output_norm.\2"),
)
# What the student takes over under each setting, by the beginnings of names.
STARTS = {
    "init_teacher_conv_layers": ("extractor.", "projection."),
    "init_teacher_encoder_layers": ("encoder.positions.", "encoder.layers."),
}
_FIRST = ("feature_extractor.conv_layers.0.conv.weight", "extractor.0.conv.weight")


class TeacherSettings(Section):
    """Any upstream: its name, a weight file of it where the name alone does not say one, and settings as `upstream.config` takes them."""

    name: str = "hubert"
    ckpt: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)


class Task(Section):
    """S3PRL's names; `network.pred_layer_id` says which layers of the teacher."""

    sequence_length: int = Field(250000, ge=0, description="samples of the longest crop; 0 for whole utterances")
    cosine_loss: float = Field(1.0, ge=0, description="weight of the angle beside the distance")
    feature_grad_mult: float = Field(0.1, gt=0, description="what the gradient of the convolutions is multiplied by")
    init_teacher_conv_layers: bool = Field(True, description="begin with the teacher's convolutions and projection")
    init_teacher_encoder_layers: bool = Field(True, description="begin with its positions and first layers")


class Settings(NetworkSettings):
    task: Task = Field(default_factory=lambda: Task())
    teacher: TeacherSettings = Field(default_factory=lambda: TeacherSettings())


class Distillation(NetworkObjective):
    """Over valid frames and layers of the teacher: mean distance, and -log sigmoid of the cosine between what a head says and what the layer says.

    A teacher of another frame rate is asked at the frame that lies nearest in time.
    """

    Config = Settings
    config: Settings

    def __init__(self, config: Settings, features: FeatureSet | None = None) -> None:
        super().__init__(config, features)
        task, network = config.task, self.model.network
        _locate(config.teacher)
        # In a tuple, it is no part of what is trained, saved and counted.
        self._teacher = (_teacher(config.teacher, config.network, self.model.sample_rate),)
        self._known = {"teacher": {"name": self.teacher.name, "sha256": state_sha256(self.teacher)}}
        for key, starts in STARTS.items():
            if getattr(task, key):
                take_over(network, self.teacher, starts, f"model.task.{key}")
        for parameter in network.extractor.parameters():  # type: ignore[union-attr]
            parameter.register_hook(lambda gradient: gradient * task.feature_grad_mult)
        self.crop = task.sequence_length or None

    @property
    def teacher(self) -> Upstream:
        return self._teacher[0]

    def origins(self) -> dict[str, Any]:
        return self._known

    def too_short(self, frames: int) -> bool:
        return frames < 2

    def forward(self, wavs: Sequence[Tensor], share: Share) -> tuple[Tensor, Tensor]:
        network: Any = self.model.network
        _, states, lengths = network(*self.inputs(wavs))
        found = network.predict(states[-1])
        wanted = self.targets(wavs, lengths, found.shape[2])
        valid = mask(lengths, found.shape[2])[:, None]
        distances, angles = differences(found, wanted)
        loss = (distances + self.config.task.cosine_loss * angles) * valid
        return loss.sum((1, 2)), lengths.float() * found.shape[1]

    @torch.no_grad()
    def targets(self, wavs: Sequence[Tensor], lengths: Tensor, size: int) -> Tensor:
        """What the teacher's layers say at the student's frames: (B, layers, size, D)."""
        features = self.teacher.to(wavs[0].device).extract(wavs)
        centres = torch.arange(size, device=lengths.device) * self.model.stride + int(self.model.offset)
        index = frame_index(centres.expand(len(wavs), -1), features.lengths, features.stride, features.offset)
        rows = torch.arange(len(wavs), device=lengths.device)[:, None]
        layers = self.config.network["pred_layer_id"]
        return torch.stack([features.hidden_states[layer][rows, index] for layer in layers], 1)


def differences(found: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Mean distance over dims and -log sigmoid of the cosine: (..., D) twice -> (...) twice, float32."""
    found, wanted = found.float(), wanted.float()
    cosine = functional.cosine_similarity(found, wanted, dim=-1)
    return (found - wanted).abs().mean(-1), -functional.logsigmoid(cosine)


def _locate(said: TeacherSettings) -> None:
    """Files by their whole paths, so that a run goes on from anywhere."""
    if said.ckpt is not None and not is_address(said.ckpt):
        said.ckpt = str(Path(said.ckpt).expanduser().absolute())
    if said.name.startswith(CKPT) and not is_address(place := said.name.removeprefix(CKPT)):
        said.name = f"{CKPT}{Path(place).expanduser().absolute()}"


def _teacher(said: TeacherSettings, network: Mapping[str, Any], sample_rate: int) -> Upstream:
    """The teacher, frozen. `UsageError` for one that cannot teach this student."""
    teacher = load_upstream(said.name, ckpt=said.ckpt, config=said.config)
    if isinstance(teacher.frontend, NoFrontend):
        raise teacher.frontend.refusal()
    if teacher.sample_rate != sample_rate:
        raise UsageError(f"model.teacher {said.name!r} hears {teacher.sample_rate} Hz, and the student {sample_rate}")
    wrong = [layer for layer in network["pred_layer_id"] if not 0 <= layer < teacher.num_layers]
    if wrong:
        raise UsageError(
            f"model.network.pred_layer_id names the layer {wrong[0]}; {said.name} has {teacher.num_layers}, from 0"
        )
    dims = {teacher.layer_dims[layer] for layer in network["pred_layer_id"]}
    if dims != {network["final_dim"]}:
        raise UsageError(
            f"model.network.final_dim is {network['final_dim']}, and those layers of {said.name} have {', '.join(map(str, sorted(dims)))} dims"
        )
    return teacher.requires_grad_(False).eval()


def take_over(student: torch.nn.Module, teacher: Upstream, starts: Sequence[str], key: str) -> None:
    """Copy weights whose names begin so from the teacher. `UsageError` (which names `key`) where it has no such ones."""
    held = teacher.state_dict()
    prefix = next((name.removesuffix(end) for name in held for end in _FIRST if name.endswith(end)), "")
    theirs = renamed({name.removeprefix(prefix): value for name, value in held.items()}, NAMES)
    own = {name: value for name, value in student.state_dict().items() if name.startswith(tuple(starts))}
    wrong = [name for name, value in own.items() if name not in theirs or theirs[name].shape != value.shape]
    if wrong:
        raise UsageError(
            f"{key}: the teacher {teacher.name!r} has nothing like the student's {wrong[0]} {tuple(own[wrong[0]].shape)}; set it to false"
        )
    student.load_state_dict({name: theirs[name] for name in own}, strict=False)
