"""NII's raw files: headless little-endian float32, row major. `.mfbsp` is (frames, 80), `.f0` (frames,) in Hz with 0 where unvoiced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headwater.audio.frontends.melspec import NSF_FFT, NiiMel
from headwater.errors import DataError, UsageError
from headwater.results.files import write_bytes
from headwater.vocoder.f0 import Tracking, extract_f0

MEL, F0 = ".mfbsp", ".f0"
RATE = 16000
_FLOAT = np.dtype("<f4")


def read_mel(path: str | Path, num_mels: int = 80) -> Tensor:
    """(frames, num_mels) float32 of a `.mfbsp`.

    `DataError` for a file that is missing, empty, not whole frames, or holds values that are not finite. A wrong `num_mels` is seen only where frames do not
    come out whole.
    """
    values = _read(Path(path), num_mels)
    return torch.from_numpy(values.reshape(-1, num_mels))


def read_f0(path: str | Path) -> Tensor:
    """(frames,) float32 Hz of a `.f0`. `DataError` as `read_mel`, and for a value below 0."""
    values = _read(Path(path), 1)
    if (values < 0).any():
        raise DataError(
            f"{path}: frame {int(np.argmax(values < 0))} has an F0 below 0; it must be in Hz, 0 where unvoiced"
        )
    return torch.from_numpy(values)


def write_mel(path: str | Path, mel: Tensor) -> None:
    """A whole `.mfbsp` of (frames, num_mels), or none: `UsageError` for another shape, `DataError` for values that are not finite."""
    _write(Path(path), mel, 2)


def write_f0(path: str | Path, f0: Tensor) -> None:
    """A whole `.f0` of (frames,) in Hz, or none. Raises as `write_mel`."""
    _write(Path(path), f0, 1)


def analysed(wav: Tensor, *, n_fft: int = NSF_FFT, **tracker: Any) -> tuple[Tensor, Tensor]:
    """What raw files hold of a waveform (samples,) at 16 kHz: mel (T, 80) and F0 (T,), frames every 5 ms, float32.

    tracker: fields of `Tracking`; `extract_f0` says what it raises.
    """
    mel = NiiMel(n_fft=n_fft)
    frames = mel([wav])[0][0]
    return frames, extract_f0(wav, RATE, Tracking(period_ms=1000 * mel.stride / RATE, **tracker))


def _read(path: Path, row: int) -> np.ndarray:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read as raw float32: {error.strerror}") from None
    frame = row * _FLOAT.itemsize
    if not content or len(content) % frame:
        raise DataError(
            f"{path} has {len(content)} bytes; raw float32 frames of {row} value(s) take {frame} bytes each, and at least one must be there"
        )
    values = np.frombuffer(content, _FLOAT).astype(np.float32)
    if not np.isfinite(values).all():
        raise DataError(
            f"{path}: frame {int(np.argmin(np.isfinite(values))) // row} holds NaN or infinity; is it raw little-endian float32?"
        )
    return values


def _write(path: Path, values: Tensor, dim: int) -> None:
    if values.dim() != dim or not values.is_floating_point() or not values.numel():
        raise UsageError(f"{path}: {values.dtype} of shape {tuple(values.shape)} cannot be written as raw frames")
    if not bool(torch.isfinite(values).all()):
        raise DataError(f"{path}: not written, its values hold NaN or infinity")
    write_bytes(path, values.detach().cpu().numpy().astype(_FLOAT).tobytes())
