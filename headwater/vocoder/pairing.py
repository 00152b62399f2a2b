"""Frames and samples of one utterance, made to go together: whole frames, of one audio and one frame shift, or an error that says why not."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from headwater.errors import DataError

# Front-ends and trackers count their last frame differently: NII's published files have one frame less than its later code makes.
MOST = 2


def paired(
    mel: Tensor, f0: Tensor, where: str, *, wav: Tensor | None = None, hop: int, sample_rate: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Mel (T, D), F0 (T) and samples (T * hop) of one utterance, cut to the whole frames that all of them have.

    Args:
        where: the utterance, for messages.
        wav: (samples,) where there is one.

    Raises:
        DataError: counts that differ by more than two frames (another stride, another sample rate, another file), no whole frame, or F0 that is negative, not
            finite or above half the sample rate.
    """
    if mel.dim() != 2 or f0.dim() != 1:
        raise DataError(
            f"{where}: mel must be (frames, bands) and F0 (frames,), not {tuple(mel.shape)} and {tuple(f0.shape)}"
        )
    f0 = _checked(f0, where, sample_rate)
    if not bool(torch.isfinite(mel).all()):
        raise DataError(f"{where}: the mel frames hold NaN or infinity")
    counts = {f"mel has {len(mel)} frames": len(mel), f"F0 has {len(f0)}": len(f0)}
    if wav is not None:
        counts |= _frames_of(len(wav), hop)
    size = _common(counts, where, hop, sample_rate)
    return mel[:size], f0[:size], None if wav is None else wav[: size * hop]


def fitted(f0: Tensor, samples: int, where: str, *, hop: int, sample_rate: int) -> Tensor:
    """A given F0 (T,) for a waveform of so many samples: cut, or its last value repeated, to (samples // hop + 1,), as trackers have it.

    Raises `DataError` as `paired` does.
    """
    f0 = _checked(f0, where, sample_rate)
    counts = {f"F0 has {len(f0)} frames": len(f0), **_frames_of(samples, hop)}
    _common(counts, where, hop, sample_rate)
    due = samples // hop + 1
    return torch.cat([f0, f0[-1:].expand(max(0, due - len(f0)))])[:due]


def _checked(f0: Tensor, where: str, sample_rate: int) -> Tensor:
    f0 = f0.float()
    if bool((~torch.isfinite(f0) | (f0 < 0) | (f0 > sample_rate / 2)).any()):
        raise DataError(
            f"{where}: F0 must be in Hz, 0 where unvoiced, and at most half the sample rate; it has values from {f0.min():g} to {f0.max():g}"
        )
    return f0


def _frames_of(samples: int, hop: int) -> dict[str, int]:
    return {f"{samples} samples are {samples // hop} frames of {hop} samples": samples // hop}


def _common(counts: Mapping[str, int], where: str, hop: int, sample_rate: int) -> int:
    """The whole frames that all have, by what is said of each."""
    if max(counts.values()) - min(counts.values()) > MOST:
        raise DataError(
            f"{where}: {', '.join(counts)}. "
            f"All must be of the same audio at {sample_rate} Hz, with a frame every {hop} samples ({1000 * hop / sample_rate:g} ms)"
        )
    size = min(counts.values())
    if not size:
        raise DataError(f"{where}: there is no whole frame of {hop} samples in it")
    return size
