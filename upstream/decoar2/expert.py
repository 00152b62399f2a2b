"""DeCoAR 2.0 as an upstream, and its published file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from headwater.errors import DataError
from headwater.pretrained.features import frontend_of
from headwater.pretrained.names import ENCODER, Rules, renamed
from headwater.pretrained.s3prl import read_s3prl
from headwater.pretrained.upstream import Pretrained, group

from .model import DecoarNet, Settings

NAMES: Rules = (*ENCODER, (r"post_extract_proj\.(.+)", r"projection.\1"))
EVERY = 2  # frames of the front-end


class Decoar2(Pretrained):
    """The first layer's input and every layer's output."""

    settings_type = Settings
    own = ("projection.", "encoder.")
    settings: Settings
    network: DecoarNet

    def __init__(self, settings: Settings, name: str = "decoar2") -> None:
        frontend, layers = frontend_of(settings, name), settings.encoder_layers
        super().__init__(
            frontend,
            [settings.encoder_embed_dim] * (layers + 1),
            ["input", *(f"layer {number + 1}" for number in range(layers))],
            stride=EVERY * frontend.stride,
        )
        self.settings, self.network = settings, self.network_of(settings)

    @classmethod
    def network_of(cls, settings: Settings) -> DecoarNet:
        return DecoarNet(settings, frontend_of(settings).out_dim)

    @classmethod
    def foreign(cls, path: str | Path, said: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The file holds weights alone: sizes are theirs, the number of heads is the published one, or the user's (`encoder_attention_heads`)."""
        weights = renamed(group(read_s3prl(path), "model", path), NAMES)
        up, kernel = weights.get("encoder.layers.0.up.weight"), weights.get("encoder.positions.direction")
        if not isinstance(up, Tensor) or up.dim() != 2 or not isinstance(kernel, Tensor) or kernel.dim() != 3:
            raise DataError(f"{path} is no checkpoint of DeCoAR 2.0: it has no encoder with convolutional positions")
        numbers = [int(found[1]) for name in weights if (found := re.match(r"encoder\.layers\.(\d{1,4})\.", name))]
        settings: dict[str, Any] = {
            "encoder_layers": max(numbers) + 1,
            "encoder_embed_dim": up.shape[1],
            "encoder_ffn_embed_dim": up.shape[0],
            "conv_pos": kernel.shape[2],
            "conv_pos_groups": kernel.shape[0] // max(1, kernel.shape[1]),
        }
        heads = said.get("encoder_attention_heads")
        return settings | ({} if heads is None else {"encoder_attention_heads": heads}), weights

    def out_lengths(self, lengths: Tensor) -> Tensor:
        return (lengths + EVERY - 1) // EVERY

    def hidden_states(self, x: Tensor, lengths: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        lengths = self.out_lengths(lengths)
        return self.network(x[:, ::EVERY], lengths), lengths
