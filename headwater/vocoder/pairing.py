"""Frames and samples of one utterance, made to go together: whole frames, of one audio and one frame shift, or an error that says why not."""

from __future__ import annotations

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
    f0 = f0.float()
    if bool((~torch.isfinite(f0) | (f0 < 0) | (f0 > sample_rate / 2)).any()):
        raise DataError(
            f"{where}: F0 must be in Hz, 0 where unvoiced, and at most half the sample rate; it has values from {f0.min():g} to {f0.max():g}"
        )
    if not bool(torch.isfinite(mel).all()):
        raise DataError(f"{where}: the mel frames hold NaN or infinity")
    counts = [len(mel), len(f0)]
    if wav is not None:
        counts.append(len(wav) // hop)
    if max(counts) - min(counts) > MOST:
        heard = "" if wav is None else f", and {len(wav)} samples are {counts[2]} frames of {hop} samples"
        raise DataError(
            f"{where}: mel has {counts[0]} frames, F0 has {counts[1]}{heard}. "
            f"All must be of the same audio at {sample_rate} Hz, with a frame every {hop} samples ({1000 * hop / sample_rate:g} ms)"
        )
    size = min(counts)
    if not size:
        raise DataError(f"{where}: there is no whole frame of {hop} samples in it")
    return mel[:size], f0[:size], None if wav is None else wav[: size * hop]
