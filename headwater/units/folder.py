"""A folder of units: `units.txt`, a line `UTTERANCE u0 u1 u2 ...` each; `centres.safetensors`; and `units.json`, which says what they are and comes last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from headwater.data.text import lines
from headwater.errors import DataError, UsageError
from headwater.identity import fingerprint
from headwater.results.files import write_bytes, write_json
from headwater.weights import read_safetensors, to_bytes

LINES, CENTRES, ABOUT = "units.txt", "centres.safetensors", "units.json"


@dataclass(frozen=True)
class Units:
    """Units by utterance id: arrays (T,) of numbers below `clusters`; that of place t belongs to the sample `offset + t * stride`.

    source: the upstream, its settings and weights, and the layer. sha256: of units and time.
    """

    of: Mapping[str, np.ndarray]
    clusters: int
    sample_rate: int
    stride: int
    offset: float
    source: Mapping[str, Any]
    sha256: str


def write_units(folder: Path, of: Mapping[str, np.ndarray], centres: Tensor, about: Mapping[str, Any]) -> None:
    """`about` has at least sample_rate, stride, offset and source, as `Units` explains them."""
    text = "".join(f"{name} {' '.join(map(str, values.tolist()))}\n" for name, values in sorted(of.items()))
    write_bytes(folder / LINES, text.encode())
    write_bytes(folder / CENTRES, to_bytes({"centres": centres}))
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_json(folder / ABOUT, {"schema": 1, "clusters": len(centres), "units_sha256": digest, **about})


def read_about(folder: str | Path) -> dict[str, Any]:
    """`units.json`. UsageError where there is none, DataError for a broken one."""
    path = Path(folder).expanduser() / ABOUT
    if not path.is_file():
        raise UsageError(f"{folder} is no folder of units: {ABOUT} is missing; `headwater units` makes one")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        kinds = {
            "clusters": int,
            "sample_rate": int,
            "stride": int,
            "offset": (int, float),
            "source": dict,
            "units_sha256": str,
        }
        wrong = [key for key, kind in kinds.items() if not isinstance(about[key], kind)]  # type: ignore[arg-type]
        if wrong or about["clusters"] < 1 or about["stride"] < 1 or about["sample_rate"] < 1:
            raise ValueError(f"what it says of {', '.join(wrong) or 'sizes'} cannot be")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(f"{path}: broken ({error}); make the units again") from None
    return dict(about)


def read_centres(folder: str | Path) -> Tensor:
    """The centres (K, D) float32."""
    path = Path(folder).expanduser() / CENTRES
    held = read_safetensors(path).get("centres")
    if held is None or held.dim() != 2 or not held.is_floating_point():
        raise DataError(f"{path} holds no table of centres")
    return held.float()


def read_units(folder: str | Path) -> Units:
    """A folder of `write_units`.

    Raises:
        UsageError: there is none.
        DataError: it is broken, or its units are not those that it was written with.
    """
    about = read_about(folder)
    path = Path(folder).expanduser() / LINES
    of: dict[str, np.ndarray] = {}
    for number, line in lines(path):
        name, _, rest = line.strip().partition(" ")
        try:
            values = np.array(rest.split(), dtype=np.int64)
        except (ValueError, OverflowError):
            raise DataError(f"{path}:{number}: the form is UTTERANCE u0 u1 u2 ...") from None
        if not len(values) or values.min() < 0 or values.max() >= about["clusters"] or name in of:
            raise DataError(
                f"{path}:{number}: {name!r} twice, without units, or with some that are not 0 to {about['clusters'] - 1}"
            )
        of[name] = values.astype(np.int16 if about["clusters"] <= 2**15 else np.int32)
    if hashlib.sha256(path.read_bytes()).hexdigest() != about["units_sha256"]:
        raise DataError(f"{path}: not the units that {ABOUT} beside it describes; make them again")
    time = (about["sample_rate"], about["stride"], about["offset"])
    return Units(
        of, about["clusters"], *time, about["source"], fingerprint(about["units_sha256"], about["clusters"], time)
    )
