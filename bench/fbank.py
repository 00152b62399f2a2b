"""Kaldi fbank: Headwater's batched front-end against a loop over kaldi-native-fbank, and the growth of memory.

    OMP_WAIT_POLICY=PASSIVE python bench/fbank.py [--threads 2] [--batch 32] [--repetitions 9]

Both get the same synthetic utterances of 2 to 15 s in memory and make 80 log mel bands without deltas or normalisation,
with equal settings. Values are compared before anything is timed. Repetitions are paired (one of each, in turn), and
the ratio is the median of the pairs. On a busy machine OpenMP's threads spin for each other, and a second thread makes
torch slower by orders of magnitude; the variable above lets them sleep instead.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import kaldi_native_fbank
import numpy as np
import torch

from headwater.audio.frontends import Frontend, build_frontend
from headwater.speed.machine import forget_peak_memory, limits, peak_memory

RATE = 16000
CONFIG = {"kaldi": {"feat_type": "fbank", "fbank": {"num_mel_bins": 80}}}
# Natural log. The lowest bands are small differences of large sums: among millions of values the worst is
# float32 rounding on both sides.
TOLERANCE = 5e-3
TOLERANCE_RMS = 1e-5


def utterances(count: int, seed: int) -> list[torch.Tensor]:
    """Noise of speech-like level under a slow envelope, 2 to 15 s each."""
    generator = torch.Generator().manual_seed(seed)
    wavs = []
    for _ in range(count):
        size = int(torch.randint(2 * RATE, 15 * RATE, (), generator=generator))
        envelope = 0.55 + 0.45 * torch.sin(torch.arange(size) * (2 * torch.pi * 3 / RATE))
        wavs.append(0.1 * envelope * torch.randn(size, generator=generator))
    return wavs


def kaldi_loop(wavs: list[np.ndarray]) -> list[np.ndarray]:
    """One utterance after the other through kaldi-native-fbank."""
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.samp_freq = RATE
    options.mel_opts.num_bins = 80
    features = []
    for wav in wavs:
        fbank = kaldi_native_fbank.OnlineFbank(options)
        fbank.accept_waveform(RATE, wav)
        fbank.input_finished()
        features.append(np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)]))
    return features


def differences(frontend: Frontend, wavs: list[torch.Tensor]) -> tuple[float, float]:
    """Largest and RMS difference between the two, over all utterances; frame counts must agree."""
    x, lengths = frontend(wavs)
    found = []
    for row, length, theirs in zip(x, lengths.tolist(), kaldi_loop([wav.numpy() for wav in wavs]), strict=True):
        if theirs.shape[0] != length:
            sys.exit(f"frame counts differ: {length} here, {theirs.shape[0]} in kaldi-native-fbank")
        found.append(row[:length] - torch.from_numpy(theirs))
    difference = torch.cat(found)
    return float(difference.abs().max()), float(difference.square().mean().sqrt())


def seconds(call: object, argument: object) -> float:
    """Wall time of one call."""
    begin = time.perf_counter()
    call(argument)  # type: ignore[operator]
    return time.perf_counter() - begin


def peak_growth(count: int, batch: int) -> float:
    """MiB of peak over start while `count` utterances pass in batches, each made and dropped; waveforms count."""
    frontend = build_frontend(CONFIG)
    frontend(utterances(1, seed=0))
    forget_peak_memory()  # of the imports
    before = peak_memory()
    for first in range(0, count, batch):
        frontend(utterances(min(batch, count - first), seed=first))
    return (peak_memory() - before) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and memory of the Kaldi fbank front-end.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--memory", type=int, metavar="COUNT", help="only print the memory growth for COUNT utterances")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with torch.no_grad():
        if args.memory:
            print(f"{peak_growth(args.memory, args.batch):.1f}")
            return
        frontend = build_frontend(CONFIG)
        wavs = utterances(args.batch, seed=1)
        arrays = [wav.numpy() for wav in wavs]
        audio = sum(map(len, wavs)) / RATE
        worst, rms = differences(frontend, wavs)
        print(f"{limits(args.threads)}; {args.batch} utterances, {audio:.0f} s of audio")
        print(
            f"difference of values: RMS {rms:.1e} (allowed {TOLERANCE_RMS:.0e}), "
            f"largest {worst:.1e} (allowed {TOLERANCE:.0e})"
        )
        if worst > TOLERANCE or rms > TOLERANCE_RMS:
            sys.exit("the two do not compute the same features; nothing was timed")
        pairs = [(seconds(kaldi_loop, arrays), seconds(frontend, wavs)) for _ in range(args.repetitions)]
    ratios = sorted(theirs / ours for theirs, ours in pairs)
    theirs, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"kaldi-native-fbank {theirs * 1e3:.0f} ms ({audio / theirs:.0f} x real time), "
        f"headwater {ours * 1e3:.0f} ms ({audio / ours:.0f} x)"
    )
    print(f"ratio {statistics.median(ratios):.1f} (median of {len(ratios)} pairs; {ratios[0]:.1f} to {ratios[-1]:.1f})")
    for count in (100, 400):
        # A process of its own each, as a peak never goes down again.
        command = [
            sys.executable,
            __file__,
            "--memory",
            str(count),
            "--batch",
            str(args.batch),
            "--threads",
            str(args.threads),
        ]
        print(f"peak memory growth, {count} utterances: {subprocess.check_output(command, text=True).strip()} MiB")


if __name__ == "__main__":
    main()
