"""What S3PRL's training of APC, VQ-APC and NPC leaves: `config` (`model.paras`, `data.audio`) and `model`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headwater.errors import DataError
from headwater.fairseq import plain
from headwater.mam.s3prl import STAND_INS
from headwater.pickles import read_pickle
from headwater.pretrained.features import from_s3prl
from headwater.pretrained.upstream import group
from headwater.weights import blaming


def read_s3prl(path: str | Path) -> dict[str, Any]:
    """The content of a file of S3PRL, with stand-ins for what its training kept. `DataError` where there is none."""
    file = read_pickle(path, STAND_INS)
    if not isinstance(file, dict):
        raise DataError(f"{path} holds {type(file).__name__}, not a checkpoint of S3PRL")
    return {str(key): value for key, value in file.items()}


def read_apc_series(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings under our names, and weights under S3PRL's. `DataError` as `Pretrained.foreign`."""
    file = read_s3prl(path)
    weights = group(file, "model", path)
    config = plain(group(file, "config" if "config" in file else "Upstream_Config", path), path)
    paras = group(group(config, "model", path), "paras", path)
    with blaming(path):
        audio = from_s3prl(group(group(config, "data", path), "audio", path))
    return {**paras, "audio": audio}, weights
