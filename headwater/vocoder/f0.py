"""F0 of waveforms, by WORLD's trackers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from headwater.errors import UsageError
from headwater.vocoder.world import CEILING_HZ, FLOOR_HZ, FRAME_PERIOD_MS, Array, pyworld, samples_of, times

Tracker = Literal["harvest", "harvest+stonemask", "dio", "dio+stonemask"]
TRACKERS: tuple[Tracker, ...] = get_args(Tracker)
Find = Callable[..., Array]  # `track`, or what gives the same in another way


def track(
    samples: Array,
    sample_rate: int,
    *,
    tracker: Tracker,
    floor_hz: float = FLOOR_HZ,
    ceiling_hz: float = CEILING_HZ,
    frame_period_ms: float = FRAME_PERIOD_MS,
) -> Array:
    """F0 on WORLD's own arrays, float64 (samples,) to float64 (frames,); see `extract_f0`."""
    if tracker not in TRACKERS:
        raise UsageError(f"the F0 tracker is {tracker!r}; known are {', '.join(TRACKERS)}")
    if not 0 < floor_hz < ceiling_hz <= sample_rate / 2:
        raise UsageError(
            f"F0 is to lie between {floor_hz:g} and {ceiling_hz:g} Hz; the limits must be above 0, rise, "
            f"and end at half the sample rate ({sample_rate / 2:g} Hz) at most"
        )
    if frame_period_ms <= 0:
        raise UsageError(f"the frame period of F0 is {frame_period_ms:g} ms; it must be above 0")
    name, _, refinement = tracker.partition("+")
    find = getattr(pyworld(), name)
    f0: Array = find(samples, sample_rate, f0_floor=floor_hz, f0_ceil=ceiling_hz, frame_period=frame_period_ms)[0]
    if refinement:
        f0 = pyworld().stonemask(samples, f0, times(len(f0), frame_period_ms), sample_rate)
    return f0


def extract_f0(
    wav: Tensor,
    sample_rate: int,
    *,
    tracker: Tracker = "dio+stonemask",
    floor_hz: float = FLOOR_HZ,
    ceiling_hz: float = CEILING_HZ,
    frame_period_ms: float = FRAME_PERIOD_MS,
    find: Find = track,
) -> Tensor:
    """F0 in Hz, (frames,) float32 on the CPU, 0 where unvoiced; frame k lies at `k * frame_period_ms`, and there are `floor(duration / period) + 1`.

    Args:
        wav: (samples,) floating, in [-1, 1].
        tracker: dio calls few frames voiced, harvest many; stonemask refines the values of either. Results of different trackers must not be compared.
        floor_hz, ceiling_hz: no value of dio or harvest lies outside; stonemask may leave them by a little.
        find: what finds the track; `tracks.kept_track` keeps it on disk.

    Raises:
        UsageError: pyworld is missing, an unknown tracker, or limits that do not rise or reach half the sample rate.
        DataError: no samples, or values that are not finite.
    """
    f0 = find(
        samples_of(wav),
        sample_rate,
        tracker=tracker,
        floor_hz=floor_hz,
        ceiling_hz=ceiling_hz,
        frame_period_ms=frame_period_ms,
    )
    return torch.from_numpy(f0.astype(np.float32))
