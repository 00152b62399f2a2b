"""How fast an upstream is on this machine, how much memory it takes, and how much the store for what it says."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from headwater.nn.upstream import Upstream
from headwater.speed.machine import (
    accelerator_peak,
    count_flops,
    describe,
    forget_peak_memory,
    matmul_peak,
    peak_memory,
)
from headwater.store.compute import Extractor
from headwater.store.features import FrozenFeatures
from headwater.store.plan import WIDTHS, bytes_of, count_frames
from headwater.store.quality import relative_error

HOUR = 3600.0
BATCH = 32  # utterances that accelerators compute together, of like length
PROBED = 8  # utterances from which the error of bfloat16 is measured


@dataclass(frozen=True)
class Speed:
    """What `measure` found.

    utterances, audio_s: of one round. rounds, seconds: of all that were timed. flops: operations of matrix products, convolutions and attention in a round, as
    if unpadded. peak_flops: a second, of this machine's matrix products in `dtype`. memory: bytes of the process at its peak; device_memory: of the
    accelerator. error: relative RMS of each layer against float32. store: "frames float32" and the like -> bytes for an hour of such audio, all layers.
    """

    upstream: str
    parameters: int
    layers: int
    machine: str
    device: str
    threads: int
    dtype: str
    utterances: int
    audio_s: float
    rounds: int
    seconds: float
    flops: float
    peak_flops: float
    memory: int
    device_memory: int | None
    error: list[float] | None
    store: dict[str, int]

    @property
    def audio_per_second(self) -> float:
        """Seconds of audio that are computed a second."""
        return self.rounds * self.audio_s / self.seconds

    @property
    def share_of_peak(self) -> float:
        return self.rounds * self.flops / self.seconds / self.peak_flops

    def to_json(self) -> dict[str, Any]:
        """All of it, for a file."""
        return {
            **asdict(self),
            "audio_per_second": self.audio_per_second,
            "real_time_factor": 1 / self.audio_per_second,
            "share_of_peak": self.share_of_peak,
        }

    def lines(self) -> list[str]:
        """All of it, for people."""
        mib, times = 2**20, self.audio_per_second
        model = f"{self.parameters / 1e6:.1f} M parameters, {self.layers} hidden state(s)"
        timed = f"{self.rounds * self.utterances} utterances, {self.rounds * self.audio_s:.0f} s of audio in {self.seconds:.1f} s"
        needed = f"{self.flops / self.audio_s / 1e9:.3g} GFLOP for a second of audio"
        reached = f"{100 * self.share_of_peak:.1f} % of the {self.peak_flops / 1e9:.0f} GFLOP/s that matrix products reach here"
        device = f", {self.device} {self.device_memory / mib:.0f} MiB" if self.device_memory is not None else ""
        lines = [
            f"machine    {self.machine}",
            f"upstream   {self.upstream}: {model}, {self.dtype} on {self.device}",
            f"speed      {times:.1f} s of audio a second (real-time factor {1 / times:.2g}); {timed}",
            f"limit      {needed}: {reached}",
            f"memory     process {self.memory / mib:.0f} MiB{device}, at the peak",
            f"store      MiB for an hour of such audio: {', '.join(f'{kind} {count / mib:.1f}' for kind, count in self.store.items())}",
        ]
        if self.error is not None:
            lines.append(f"error      relative RMS a layer: {', '.join(f'{100 * one:.2f}' for one in self.error)} %")
        return lines


@dataclass(frozen=True)
class _Clip:
    id: str
    wav: Tensor


def measure(
    upstream: Upstream,
    wavs: Sequence[Tensor],
    *,
    device: torch.device | None = None,
    dtype: str = "float32",
    seconds: float = 5.0,
) -> Speed:
    """Extract the hidden states of `wavs` as every run does, again and again for about `seconds`.

    Parameters
    ----------
    upstream: in eval mode, on its device. wavs: (samples,) at its rate, held in memory: reading files is no part of the time. Where one round would take
    longer than `seconds`, every n-th is taken.
    device: as `Extractor`'s. dtype: float32, or bfloat16 for the encoder.

    Raises `UsageError` where the device does not compute bfloat16.
    """
    forget_peak_memory()
    layers = range(upstream.num_layers)
    clips = sorted((_Clip(str(number), wav) for number, wav in enumerate(wavs)), key=lambda clip: len(clip.wav))
    extractor: Extractor[_Clip] = Extractor(upstream, layers, lambda clip: clip.wav, device=device, dtype=dtype)
    device = extractor.device
    together = 1 if device.type == "cpu" else BATCH
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def run(chosen: Sequence[_Clip]) -> float:
        groups = [chosen[first : first + together] for first in range(0, len(chosen), together)]
        begun = time.perf_counter()
        for _ in extractor(groups):  # a group is given out when it is finite, so the device has been waited for
            pass
        return time.perf_counter() - begun

    middle = len(clips) // 2
    few = clips[middle : middle + max(together, extractor.workers)]
    run(few)
    expected = run(few) / sum(len(clip.wav) for clip in few) * sum(len(clip.wav) for clip in clips)
    clips = clips[:: max(1, min(round(expected / seconds), len(clips) // (2 * extractor.workers)))]
    took, rounds = 0.0, 0
    while took < seconds:
        took, rounds = took + run(clips), rounds + 1
    memory = peak_memory()
    device_memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    chosen = [clip.wav for clip in clips]
    frozen: FrozenFeatures[_Clip] = FrozenFeatures(upstream, layers, extractor.read, device=device, extract_dtype=dtype)
    threads = extractor.workers if device.type == "cpu" else torch.get_num_threads()
    audio = sum(map(len, chosen)) / upstream.sample_rate
    return Speed(
        upstream=upstream.name,
        parameters=sum(parameter.numel() for parameter in upstream.parameters()),
        layers=upstream.num_layers,
        machine=describe(threads),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        threads=threads,
        dtype=dtype,
        utterances=len(chosen),
        audio_s=audio,
        rounds=rounds,
        seconds=took,
        flops=operations(upstream, chosen, device),
        peak_flops=matmul_peak(dtype, threads) if device.type == "cpu" else accelerator_peak(device, dtype),
        memory=memory,
        device_memory=device_memory,
        error=relative_error(frozen, clips[:: -(-len(clips) // PROBED)]),
        store=store_bytes(upstream, [len(wav) for wav in chosen]),
    )


@torch.no_grad()
def operations(upstream: Upstream, wavs: Sequence[Tensor], device: torch.device) -> float:
    """Of the matrix products, convolutions and attention that these utterances need, each without padding."""
    return sum(count_flops(lambda wav=wav: upstream.extract([wav.to(device)])) for wav in wavs)  # type: ignore[misc]


def store_bytes(upstream: Upstream, num_samples: Sequence[int]) -> dict[str, int]:
    """What the store takes for an hour of utterances of these lengths (at the upstream's rate), all layers of all frames or of the means."""
    hours = sum(num_samples) / upstream.sample_rate / HOUR
    rows = {"frames": count_frames(upstream, num_samples), "means": len(num_samples)}
    return {
        f"{form} {dtype}": round(bytes_of(upstream, range(upstream.num_layers), count, dtype) / hours)
        for form, count in rows.items()
        for dtype in WIDTHS
    }
