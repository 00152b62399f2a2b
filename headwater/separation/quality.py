"""PESQ and STOI, by the packages `pesq` and `pystoi`, which are an extra: what they cannot score is no number, with the reason."""

from __future__ import annotations

import importlib
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headwater.errors import UsageError
from headwater.metrics.extras import Extra

INSTALL = "pip install 'headwater[separation]'"
Samples = NDArray[np.floating[Any]]
Band = Literal["wb", "nb"]
_NUMPY = threading.Lock()
RATES: dict[Band, tuple[int, ...]] = {"wb": (16000,), "nb": (8000, 16000)}  # Hz, where PESQ is defined


class Score(NamedTuple):
    """A number, or None and why there is none."""

    value: float | None
    reason: str | None = None


def pesq(reference: Samples, estimate: Samples, sample_rate: int, band: Band) -> Score:
    """Perceptual quality (MOS-LQO of ITU-T P.862.1 and P.862.2) of equally long signals (T,).

    `wb` is defined at 16 kHz, 1.02 to 4.64, `nb` at 8 and 16 kHz, 1.02 to 4.55.

    Raises:
        UsageError: the package is not installed, or PESQ is not defined at this rate.
    """
    if sample_rate not in RATES[band]:
        rates = " or ".join(map(str, RATES[band]))
        raise UsageError(f"PESQ ({band}) is defined at {rates} Hz; these signals have {sample_rate} Hz")
    measure = _function("pesq", "PESQ")
    return _score(lambda: measure(sample_rate, reference, estimate, band), reference, estimate)


def stoi(reference: Samples, estimate: Samples, sample_rate: int, *, extended: bool = False) -> Score:
    """Intelligibility, about 0 to 1, of equally long signals (T,); ESTOI if `extended`. It needs 30 frames (0.4 s) of speech.

    Raises:
        UsageError: the package is not installed.
    """
    measure = _function("pystoi", "STOI")
    with _same_draws():
        return _score(lambda: measure(reference, estimate, sample_rate, extended), reference, estimate)


STOI = Extra("pystoi", INSTALL, ("stoi",), lambda s, e, rate: {"stoi": stoi(s, e, rate).value})
ESTOI = Extra("pystoi", INSTALL, ("estoi",), lambda s, e, rate: {"estoi": stoi(s, e, rate, extended=True).value})
# At both rates, and so of another band at each; and of the wide band alone.
PESQ = Extra("pesq", INSTALL, ("pesq",), lambda s, e, rate: {"pesq": pesq(s, e, rate, _band(rate)).value}, RATES["nb"])
PESQ_WB = Extra(
    "pesq", INSTALL, ("pesq_wb",), lambda s, e, rate: {"pesq_wb": pesq(s, e, rate, "wb").value}, RATES["wb"]
)


def _band(rate: int) -> Band:
    return "wb" if rate in RATES["wb"] else "nb"


def _function(package: str, what: str) -> Callable[..., Any]:
    try:
        module = importlib.import_module(package)
    except ImportError:
        raise UsageError(f"{what} needs the package {package}: {INSTALL}, or pip install {package}") from None
    found: Callable[..., Any] = module.pesq if package == "pesq" else module.stoi
    return found


@contextmanager
def _same_draws() -> Iterator[None]:
    """pystoi's ESTOI adds noise of 1e-16 from numpy's one global generator: here it is the same each time, and nobody else's draws are."""
    with _NUMPY:
        state = np.random.get_state()
        np.random.seed(0)
        try:
            yield
        finally:
            np.random.set_state(state)


def _score(measure: Callable[[], Any], reference: Samples, estimate: Samples) -> Score:
    for name, signal in {"reference": reference, "estimate": estimate}.items():
        if not len(signal) or not np.any(signal):
            return Score(None, f"the {name} is silent")
    try:
        with warnings.catch_warnings():
            # pystoi warns where it has too few frames, and gives 1e-5.
            warnings.simplefilter("error", RuntimeWarning)
            value = float(measure())
    except (RuntimeWarning, RuntimeError, ValueError, IndexError) as error:
        told = error.args[0] if error.args else type(error).__name__
        return Score(None, (told.decode() if isinstance(told, bytes) else str(told)).partition(". ")[0])
    return Score(value) if np.isfinite(value) else Score(None, "it is not a number")
