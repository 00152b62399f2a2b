"""Where things lie: the expert folders and recipes of a clone or a wheel, and the cache."""

from __future__ import annotations

import os
from pathlib import Path

import headwater


def expert_root(kind: str) -> Path:
    """The folder `upstream`, `downstream`, `pretrain` or `config`: beside the core in a wheel, at the top of a clone."""
    for base in headwater.__path__:
        folder = Path(base) / kind
        if folder.is_dir():
            return folder
    return Path(headwater.__path__[0]) / kind


def cache_root() -> Path:
    """`HEADWATER_CACHE`, or `~/.cache/headwater`."""
    return Path(os.environ.get("HEADWATER_CACHE") or Path.home() / ".cache" / "headwater").expanduser()


def store_root() -> Path:
    """Where frozen features are kept: `HEADWATER_STORE`, or `features` in the cache."""
    return Path(os.environ.get("HEADWATER_STORE") or cache_root() / "features").expanduser()
