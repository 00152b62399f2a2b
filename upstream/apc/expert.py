"""APC and VQ-APC as upstreams, and S3PRL's files of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headwater.pretrained.features import frontend_of
from headwater.pretrained.names import QUANTIZER, Rules, renamed
from headwater.pretrained.predictive import PredictiveModel
from headwater.pretrained.s3prl import read_apc_series

from .model import PredictiveGru, Settings

NAMES: Rules = (
    (r"rnn_layers\.(.+)", r"layers.\1"),
    *QUANTIZER,
)


class Apc(PredictiveModel):
    """The output of every recurrent layer; of VQ-APC, too, before the quantizer."""

    settings_type = Settings
    settings: Settings
    network: PredictiveGru

    def __init__(self, settings: Settings, name: str = "apc") -> None:
        count = settings.num_layers
        super().__init__(
            frontend_of(settings, name),
            [settings.hidden_size] * count,
            [f"layer {number + 1}" for number in range(count)],
        )
        self.settings, self.network = settings, self.network_of(settings)

    @classmethod
    def family(cls, settings: Settings) -> str:
        return "apc" if settings.vq is None else "vq_apc"

    @classmethod
    def network_of(cls, settings: Settings) -> PredictiveGru:
        return PredictiveGru(settings, frontend_of(settings).out_dim)

    @classmethod
    def foreign(cls, path: str | Path, said: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        settings, weights = read_apc_series(path)
        return settings, renamed(weights, NAMES)
