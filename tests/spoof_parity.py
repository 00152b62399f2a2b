"""Scores and published values of spoofing evaluation: synthetic cases that lie with the tests, real ones beside the repository."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SHARED

SYNTHETIC = Path(__file__).parent / "data" / "spoof_metrics"
REAL = SHARED / "parity" / "spoof_metrics"
Arrays = list[np.ndarray]


@cache
def expected(folder: Path = SYNTHETIC) -> Any:
    return json.loads((folder / "expected.json").read_text())


@cache
def arrays(folder: Path = SYNTHETIC) -> dict[str, np.ndarray]:
    with np.load(folder / "scores.npz", allow_pickle=False) as held:
        return {name: held[name] for name in held}


def everywhere(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test on the cases that lie here, and on all of them, real scores too, where they are at hand."""
    real = pytest.param(
        REAL,
        marks=pytest.mark.skipif(not REAL.is_dir(), reason=f"the real scores are not beside this repository ({REAL})"),
    )
    return pytest.mark.parametrize("folder", [SYNTHETIC, real], ids=["synthetic", "all"])(test)


def two_classes(folder: Path, case: str) -> tuple[np.ndarray, np.ndarray]:
    name, _, kinds = case.partition(":")
    held = arrays(folder)
    return (
        (held[f"{name}/target"], held[f"{name}/nontarget"])
        if kinds
        else (held[f"{name}/bonafide"], held[f"{name}/spoof"])
    )


def asv_lists(folder: Path, name: str, attack: str | None = None) -> Arrays:
    """Target, nontarget, spoof; of one attack only where it is named."""
    held = arrays(folder)
    if name == "asv_no_spoof_trials":
        return [held["asv_gauss/target"], held["asv_gauss/nontarget"], np.zeros(0)]
    lists = [held[f"{name}/{kind}"] for kind in ("target", "nontarget", "spoof")]
    return lists if attack is None else [*lists[:2], lists[2][held[f"{name}/attack"] == attack]]


def close(value: float, reference: float) -> bool:
    return abs(value - reference) <= 1e-9


def same_threshold(value: float, reference: float) -> bool:
    return abs(value - reference) <= 1e-12 * abs(reference)
