"""Modified CPC as an upstream, and CPC_audio's and S3PRL's files of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from headwater.audio.frontends import Waveform
from headwater.errors import DataError, UsageError
from headwater.fairseq import plain
from headwater.nn.convolution import timing
from headwater.nn.lengths import zero_beyond
from headwater.pretrained.names import Rules, renamed
from headwater.pretrained.s3prl import read_s3prl
from headwater.pretrained.upstream import Pretrained, group
from headwater.weights import is_whole

from .model import WINDOWS, ContrastiveNet, Settings, frames

NAMES: Rules = (
    (r"gEncoder\.conv(\d)\.(.+)", r"encoder.\1.conv.\2"),
    (r"gEncoder\.batchNorm(\d)\.(.+)", r"encoder.\1.norm.\2"),
    (r"gAR\.baseNet\.(.+)", r"context.\1"),
)
ARGUMENTS = "checkpoint_args.json"  # beside a checkpoint of CPC_audio


class Cpc(Pretrained):
    """z, what the convolutions make of the waveform, and c, what the recurrent net makes of z.

    An utterance begins from nothing. S3PRL carries the state of the recurrent net from one call to the next where `samplingType` was sequential, so that an
    utterance has other features each time. `carry_state` does so for whoever must have the same; it is no setting, as a run keeps features by utterance.
    """

    settings_type = Settings
    own = ("encoder.", "context.", "gEncoder.", "gAR.")
    settings: Settings
    network: ContrastiveNet
    carry_state: bool = False

    def __init__(self, settings: Settings, name: str = "cpc") -> None:
        stride, offset = timing(WINDOWS)
        dims = [settings.hiddenEncoder, settings.hiddenGar]
        super().__init__(Waveform(), dims, ["z (encoder)", "c (context)"], stride=stride, offset=offset)
        self.settings, self.network = settings, self.network_of(settings)
        self._carried: Any = None

    @classmethod
    def network_of(cls, settings: Settings) -> ContrastiveNet:
        return ContrastiveNet(settings)

    @classmethod
    def foreign(cls, path: str | Path, said: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        file = read_s3prl(path)
        if "weights" in file:
            weights, arguments = group(file, "weights", path), plain(group(file, "config", path), path)
        else:
            weights, arguments = group(file, "gEncoder", path), _arguments(Path(path).with_name(ARGUMENTS))
        kind = arguments.get("encoder_type", "cpc")
        if kind != "cpc":
            raise DataError(f"{path}: encoder_type is {kind!r}; only cpc, convolutions on the waveform, is known here")
        config = {key: arguments[key] for key in Settings.model_fields if key in arguments}
        if config.get("cpc_mode") == "none":
            del config["cpc_mode"]
        state = renamed(weights, NAMES)
        flat = {name: value.flatten() for name, value in state.items() if ".norm." in name and is_whole(value)}
        return config, state | flat

    def out_lengths(self, lengths: Tensor) -> Tensor:
        return frames(lengths)

    def hidden_states(self, x: Tensor, lengths: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        z, lengths = self.network.encode(x, lengths)
        if self.carry_state and len(z) > 1:
            raise UsageError("carry_state: only one utterance at a time can go on from the one before it")
        c, last = self.network.contextual(z, lengths, self._carried if self.carry_state else None)
        if self.carry_state:
            self._carried = _detached(last)
        return (zero_beyond(z, lengths), c), lengths


def _detached(state: Any) -> Any:
    return tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()


def _arguments(path: Path) -> dict[str, Any]:
    """The arguments of a training by CPC_audio; defaults where their file is not there."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(said, dict):
        raise DataError(f"{path} holds {type(said).__name__}, not arguments")
    return said
