"""NPC as an upstream, and S3PRL's files of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from headwater.errors import DataError
from headwater.pretrained.features import frontend_of
from headwater.pretrained.names import QUANTIZER, Rules, renamed
from headwater.pretrained.predictive import PredictiveModel
from headwater.pretrained.s3prl import read_apc_series
from headwater.weights import is_whole

from .model import MaskedConvolutions, Settings

NAMES: Rules = (
    (r"blocks\.(\d+)\.bn(\d)\.(.+)", r"blocks.\1.norm\2.\3"),
    (r"masked_convs\.(\d+)\.conv_mask", r"masked.\1.mask"),
    (r"masked_convs\.(.+)", r"masked.\1"),
    *QUANTIZER,
    (r"ae_bottleneck\.(.+)", r"bottleneck.\1"),
)


class Npc(PredictiveModel):
    """Every block and the masked convolution on it, in turn, and the sum of the latter (or the bottleneck), before the quantizer."""

    settings_type = Settings
    settings: Settings
    network: MaskedConvolutions

    def __init__(self, settings: Settings, name: str = "npc") -> None:
        pairs = ((f"block {number + 1}", f"masked {number + 1}") for number in range(settings.n_blocks))
        last = "bottleneck" if settings.dim_bottleneck else "masked, last" if settings.disable_cross_layer else "sum"
        names = [*(name for pair in pairs for name in pair), last]
        dims = [settings.hidden_size] * (len(names) - 1) + [settings.dim_bottleneck or settings.hidden_size]
        super().__init__(frontend_of(settings, name), dims, names)
        self.settings, self.network = settings, self.network_of(settings)

    @classmethod
    def network_of(cls, settings: Settings) -> MaskedConvolutions:
        return MaskedConvolutions(settings, frontend_of(settings).out_dim)

    @classmethod
    def foreign(cls, path: str | Path, said: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        settings, weights = read_apc_series(path)
        for name, mask in weights.items():
            if name.endswith(".conv_mask"):
                weights[name] = _taps(mask, f"{path}: {name}")
        return settings, renamed(weights, NAMES)


def _taps(mask: Any, where: str) -> Tensor:
    """A mask that the file has once for every pair of channels, (H, H, kernel) -> (kernel,)."""
    if not is_whole(mask) or mask.dim() != 3 or not mask.numel() or bool((mask != mask[:1, :1]).any()):
        raise DataError(f"{where} is no mask over the taps of a convolution, the same for all channels")
    return mask[0, 0].clone()
