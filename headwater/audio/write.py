"""Sound out: what would clip is never clipped in silence, and a file is whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headwater.errors import HeadwaterError

if TYPE_CHECKING:
    import soundfile
    from torch import Tensor

BLOCK = 1 << 16  # samples that are converted at once


@dataclass(frozen=True)
class Signal:
    """A waveform (samples,) float32, full scale being [-1, 1], as an answer or an example. sample_rate in Hz."""

    wav: Tensor
    sample_rate: int

    def samples(self) -> np.ndarray:
        """(samples,) float32 on the CPU."""
        found: np.ndarray = self.wav.detach().float().cpu().numpy()
        return found


class WavWriter:
    """A WAV file that grows by blocks and gets its name when it is whole: 16 bit, or 32-bit float where a sample lies beyond full scale.

    >>> with WavWriter(Path("out.wav"), 16000) as writer:  # doctest: +SKIP
    ...     writer.write(block)
    >>> writer.peak  # doctest: +SKIP

    called: how messages name it, where it gets another place later.

    Raises `HeadwaterError` for samples that are NaN or infinite, and where the file cannot be written; there is no file then.
    """

    def __init__(self, path: Path, sample_rate: int, called: Path | None = None) -> None:
        self.path, self.rate, self.called = path, sample_rate, called or path
        self.peak, self.samples = 0.0, 0
        self._float = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._pcm = path.with_name(f".{path.name}.{os.getpid()}.pcm.tmp")

    def __enter__(self) -> WavWriter:
        with _told(self.called):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._open(self._float, "FLOAT")
        return self

    def write(self, block: np.ndarray) -> None:
        """Append samples (n,) float32."""
        if not np.isfinite(block).all():
            raise HeadwaterError(
                f"{self.called}: the answer has samples that are NaN or infinite, so it is not written"
            )
        self.peak = max(self.peak, float(np.abs(block).max(initial=0.0)))
        self.samples += len(block)
        with _told(self.called):
            self._file.write(block)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            with _told(self.called):
                self._file.close()
                if kind is None:
                    os.replace(self._float if self.clips else self._quantised(), self.path)
        finally:
            for file in (self._float, self._pcm):
                with suppress(OSError):
                    file.unlink()

    @property
    def clips(self) -> bool:
        """Whether 16 bit could not hold it."""
        return self.peak > 1.0

    @property
    def note(self) -> str | None:
        """What a user must know of it, where 16 bit would have clipped."""
        if not self.clips:
            return None
        return f"{self.called} peaks at {self.peak:.3g} times full scale: it is written as 32-bit float, unclipped"

    def _quantised(self) -> Path:
        import soundfile

        with soundfile.SoundFile(self._float) as exact, self._open(self._pcm, "PCM_16") as file:
            for block in exact.blocks(BLOCK, dtype="float32"):
                file.write(block)
        return self._pcm

    def _open(self, path: Path, subtype: str) -> soundfile.SoundFile:
        import soundfile

        return soundfile.SoundFile(path, "w", self.rate, 1, subtype, format="WAV")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What goes wrong with a file, in one sentence."""
    import soundfile

    try:
        yield
    except (OSError, soundfile.SoundFileError) as error:
        why = getattr(error, "strerror", None) or error
        raise HeadwaterError(f"{path}: cannot be written ({why}); free some space or choose another place") from None
