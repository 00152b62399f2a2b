"""F0 of waveforms, by WORLD's trackers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from headwater.errors import UsageError
from headwater.vocoder.world import CEILING_HZ, FLOOR_HZ, FRAME_PERIOD_MS, Array, pyworld, samples_of, times

Tracker = Literal["harvest", "harvest+stonemask", "dio", "dio+stonemask"]
LEAST_HZ = 10.0  # WORLD's filters are as long as some periods of the floor
TRACKERS: tuple[Tracker, ...] = get_args(Tracker)


@dataclass(frozen=True)
class Tracking:
    """How F0 is found.

    tracker: dio calls few frames voiced, harvest many; stonemask refines the values of either. Results of different trackers must not be compared.
    floor_hz, ceiling_hz: no value of dio or harvest lies outside; stonemask may leave them by a little. period_ms: between frames.
    """

    tracker: Tracker = "dio+stonemask"
    floor_hz: float = FLOOR_HZ
    ceiling_hz: float = CEILING_HZ
    period_ms: float = FRAME_PERIOD_MS

    def check(self, sample_rate: int) -> None:
        """`UsageError` for an unknown tracker, a period of nothing, or limits below `LEAST_HZ`, that do not rise or reach half the sample rate."""
        if self.tracker not in TRACKERS:
            raise UsageError(f"the F0 tracker is {self.tracker!r}; known are {', '.join(TRACKERS)}")
        if not LEAST_HZ <= self.floor_hz < self.ceiling_hz <= sample_rate / 2:
            raise UsageError(
                f"F0 is to lie between {self.floor_hz:g} and {self.ceiling_hz:g} Hz; the limits must be {LEAST_HZ:g} Hz or more, rise, "
                f"and end at half the sample rate ({sample_rate / 2:g} Hz) at most"
            )
        if self.period_ms <= 0:
            raise UsageError(f"the frame period of F0 is {self.period_ms:g} ms; it must be above 0")


Find = Callable[[Array, int, Tracking], Array]  # `track`, or what gives the same in another way


def track(samples: Array, sample_rate: int, tracking: Tracking) -> Array:
    """F0 on WORLD's own arrays, float64 (samples,) to float64 (frames,); see `extract_f0`."""
    tracking.check(sample_rate)
    name, _, refinement = tracking.tracker.partition("+")
    limits = {"f0_floor": tracking.floor_hz, "f0_ceil": tracking.ceiling_hz}
    f0: Array = getattr(pyworld(), name)(samples, sample_rate, **limits, frame_period=tracking.period_ms)[0]
    if refinement:
        f0 = pyworld().stonemask(samples, f0, times(len(f0), tracking.period_ms), sample_rate)
    return f0


def extract_f0(wav: Tensor, sample_rate: int, tracking: Tracking = Tracking(), *, find: Find = track) -> Tensor:
    """F0 in Hz, (frames,) float32 on the CPU, 0 where unvoiced; frame k lies at `k * period_ms`, and there are `floor(duration / period) + 1`.

    Args:
        wav: (samples,) floating, in [-1, 1].
        find: what finds the track; `tracks.kept_track` keeps it on disk.

    Raises:
        UsageError: pyworld is missing, or as `Tracking.check`.
        DataError: no samples, or values that are not finite.
    """
    return torch.from_numpy(find(samples_of(wav), sample_rate, tracking).astype(np.float32))
