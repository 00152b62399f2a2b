"""F0 tracks kept on disk: every epoch, system and run asks for those of the same originals again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from headwater.paths import store_root
from headwater.store.atomic import sweep, write_atomically
from headwater.vocoder.f0 import Tracking, track
from headwater.vocoder.world import Array, pyworld

_FLOAT = np.dtype("<f8")  # as WORLD gives them, so that what follows from a kept track has the bits of a fresh one
_SUM = hashlib.sha256().digest_size


def kept_track(samples: Array, sample_rate: int, tracking: Tracking) -> Array:
    """`f0.track`, read from disk where the same was asked before: the same samples, rate, settings and version of pyworld. Raises as it does.

    A track is a file of its own in `f0` beside the frozen features, which begins with its sha256: one that is missing or damaged is computed again, and where
    nothing can be written, each is.
    """
    said = json.dumps([sample_rate, asdict(tracking), getattr(pyworld(), "__version__", None)], sort_keys=True)
    name = hashlib.sha256(said.encode() + b"\0" + samples.tobytes()).hexdigest()
    file = store_root() / "f0" / name[:2] / f"{name[2:]}.f0"
    found = _read(file)
    if found is None:
        found = track(samples, sample_rate, tracking)
        values = found.astype(_FLOAT).tobytes()
        if write_atomically(file, hashlib.sha256(values).digest() + values, essential=False):
            sweep(file.parent)
    return found


def _read(file: Path) -> Array | None:
    """A kept track; None where there is none, or not the one that was written."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    values = content[_SUM:]
    if hashlib.sha256(values).digest() != content[:_SUM]:
        return None
    return np.frombuffer(values, _FLOAT).astype(np.float64)
