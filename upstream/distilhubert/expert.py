"""DistilHuBERT as an upstream, and S3PRL's files of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from headwater.audio.frontends import Waveform
from headwater.errors import DataError
from headwater.fairseq import plain
from headwater.nn.convolution import frame_counts, timing
from headwater.nn.lengths import zero_beyond
from headwater.pretrained.layers import windows_of
from headwater.pretrained.names import ENCODER, Rules, renamed
from headwater.pretrained.s3prl import read_s3prl
from headwater.pretrained.upstream import Pretrained, group
from headwater.weights import is_whole

from .model import Distilled, Settings

NAMES: Rules = (
    *ENCODER,
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.(.+)", r"extractor.\1.conv.\2"),
    (r"feature_extractor\.conv_layers\.(\d+)\.2\.(?:1\.)?(.+)", r"extractor.\1.norm.\2"),
    (r"post_extract_proj\.(.+)", r"projection.\1"),
    (r"output_layer\.0\.(.+)", r"heads.hidden.\1"),
    (r"output_layer\.2\.(.+)", r"heads.\1"),
)
# What other settings would make another network.
ONLY = {"out_layer_type": "expand-last", "task_emb_type": "expand-last", "attention_type": "original"}


class DistilHubert(Pretrained):
    """The projection of the convolutions, the output of every layer, and what every head says of its layer of the teacher."""

    settings_type = Settings
    settings: Settings
    network: Distilled

    def __init__(self, settings: Settings, name: str = "distilhubert") -> None:
        layers, heads = settings.encoder_layers, settings.pred_layer_id
        names = ["projection", *(f"layer {n + 1}" for n in range(layers)), *(f"head of layer {n}" for n in heads)]
        dims = [settings.encoder_embed_dim] * (layers + 1) + [settings.final_dim] * len(heads)
        stride, offset = timing(windows_of(settings.extractor_conv_feature_layers))
        super().__init__(Waveform(), dims, names, stride=stride, offset=offset)
        self.settings, self.network = settings, self.network_of(settings)

    @classmethod
    def network_of(cls, settings: Settings) -> Distilled:
        return Distilled(settings)

    @classmethod
    def foreign(cls, path: str | Path, said: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        file = read_s3prl(path)
        weights = renamed(group(file, "Distiller", path), NAMES)
        config = group(plain(group(file, "Config", path), path), "distiller", path)
        for key, value in ONLY.items():
            if config.get(key, value) != value:
                raise DataError(f"{path}: {key} is {config[key]!r}; only {value!r} is known here")
        bias = weights.get("heads.bias")
        if is_whole(bias) and bias.dim() == 4:
            weights["heads.bias"] = bias.flatten(0, 2)
        return {key: config[key] for key in Settings.model_fields if key in config}, weights

    def out_lengths(self, lengths: Tensor) -> Tensor:
        return frame_counts(lengths, self.network.windows)

    def hidden_states(self, x: Tensor, lengths: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        projected, layers, frames = self.network(x, lengths)
        heads = self.network.predict(layers[-1]).unbind(1)
        return (zero_beyond(projected, frames), *layers, *(zero_beyond(head, frames) for head in heads)), frames
