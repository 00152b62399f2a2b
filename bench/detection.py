"""Detection at scale: rates, costs and their curves from lists of scores, in seconds and linear memory.

    OMP_WAIT_POLICY=PASSIVE python bench/detection.py [10_000_000] [--check 2000]

Each number is timed on scores of which one in ten is a positive, once spread and once rounded to 1000 levels, so that nearly all are tied.
How much the peak of resident memory grows is printed for half as many scores and for all: where it is linear, the growth doubles.

Before that, on --check scores (spread, tied, and few), every number is compared with its definition written out: a loop over all thresholds
that counts anew what each accepts. With --check 0 it is not.
"""

from __future__ import annotations

import argparse
import itertools
import math
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from headwater.metrics import AsvRates, act_dcf, cllr, det_curve, eer, min_dcf, min_tdcf, t_eer, tandem_costs
from headwater.speed.machine import forget_peak_memory, peak_memory

ASV = AsvRates(miss=0.02, false_alarm=0.02, spoof=0.4)
COSTS = (0.95, 1.0, 10.0)  # of ASVspoof 5
LEVELS = 1000

Scores = np.ndarray
Measured = dict[str, Callable[[Scores, Scores], float]]

MEASURED: Measured = {
    "EER, asvspoof": lambda p, n: eer(p, n, "asvspoof"),
    "EER, interpolated": lambda p, n: eer(p, n),
    "minDCF": lambda p, n: min_dcf(p, n, *COSTS),
    "actDCF": lambda p, n: act_dcf(p, n, *COSTS),
    "Cllr": cllr,
    "min t-DCF 2019": lambda p, n: min_tdcf(p, n, ASV, 2019),
    "min t-DCF 2021": lambda p, n: min_tdcf(p, n, ASV, 2021),
    "DET curve": lambda p, n: float(len(det_curve(p, n).miss)),
    # The same scores serve as those of the ASV: a third of the negatives are spoofs.
    "t-EER": lambda p, n: t_eer((p, n[::2], n[1::2]), (p, n[::2], n[1::2])).concurrent,
}


def synthetic(size: int, tied: bool, seed: int = 0) -> tuple[Scores, Scores]:
    """Positives and negatives."""
    generator = np.random.default_rng(seed)
    positives = max(1, size // 10)
    scores = generator.normal(size=size)
    scores[:positives] += 2
    if tied:
        np.round(scores * LEVELS / 10, out=scores)
        scores *= 10 / LEVELS
    return scores[:positives], scores[positives:]


def plain(positives: Scores, negatives: Scores) -> dict[str, float]:
    """The definitions, a threshold at a time."""
    thresholds = [*sorted({*positives.tolist(), *negatives.tolist()}), math.inf]
    points = [(float((positives < t).mean()), float((negatives >= t).mean())) for t in thresholds]
    of_miss, of_false_alarm = COSTS[0] * COSTS[1], (1 - COSTS[0]) * COSTS[2]
    scale = min(of_miss, of_false_alarm)
    decided = -math.log(of_miss / of_false_alarm)
    found = {
        "minDCF": min(of_miss * miss + of_false_alarm * false_alarm for miss, false_alarm in points) / scale,
        "actDCF": float(of_miss * (positives < decided).mean() + of_false_alarm * (negatives >= decided).mean())
        / scale,
        "Cllr": float(np.log2(1 + np.exp(-positives)).mean() + np.log2(1 + np.exp(negatives)).mean()) / 2,
        "DET curve": float(len(points)),
    }
    for (miss0, false0), (miss1, false1) in itertools.pairwise(points):
        if miss0 <= false0 and miss1 >= false1:
            share = (false0 - miss0) / ((false0 - miss0) + (miss1 - false1))
            found["EER, interpolated"] = miss0 + share * (miss1 - miss0)
            break
    for year in (2019, 2021):
        costs = tandem_costs(ASV, year)  # type: ignore[arg-type]
        weighed = (costs.fixed + costs.of_miss * miss + costs.of_false_alarm * fa for miss, fa in points)
        found[f"min t-DCF {year}"] = min(weighed) / costs.scale
    ranked = sorted([(score, 0) for score in positives.tolist()] + [(score, 1) for score in negatives.tolist()])
    best, gap, missed, rejected = 0.5, 1.0, 0, 0
    for _, kind in ranked:
        missed, rejected = missed + (kind == 0), rejected + kind
        miss, false_alarm = missed / len(positives), (len(negatives) - rejected) / len(negatives)
        if abs(miss - false_alarm) < gap:
            best, gap = (miss + false_alarm) / 2, abs(miss - false_alarm)
    return {**found, "EER, asvspoof": best}


def check(size: int) -> None:
    """Compare with the definitions; an AssertionError names what differs."""
    worst = 0.0
    for number, (count, tied) in enumerate([(size, False), (size, True), *((n, n % 2 == 0) for n in range(20, 60))]):
        scores = synthetic(count, tied, number)
        for name, value in plain(*scores).items():
            ours = MEASURED[name](*scores)
            assert abs(ours - value) < 1e-9, (name, count, tied, ours, value)
            worst = max(worst, abs(ours - value))
    print(
        f"equal to the definitions on {size} scores, spread and tied, and on 40 small sets: largest difference {worst:.1e}"
    )


def measure(size: int, tied: bool, name: str) -> None:
    """One number in a process of its own: seconds, and by how much the peak of memory grows."""
    positives, negatives = synthetic(size, tied)
    MEASURED[name](*synthetic(1000, tied))  # what is imported on first use is no part of it
    forget_peak_memory()
    before = peak_memory()
    started = time.perf_counter()
    value = MEASURED[name](positives, negatives)
    seconds = time.perf_counter() - started
    print(f"{value!r} {seconds} {peak_memory() - before}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", nargs="?", type=int, default=10_000_000)
    parser.add_argument("--check", type=int, default=2000)
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--tied", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        measure(given.size, given.tied, given.one)
        return
    if given.check:
        check(given.check)
    print(
        f"{given.size} scores ({given.size * 8 / 2**20:.0f} MiB); memory: growth of the peak for half of them -> for all"
    )
    for tied in (False, True):
        print("tied" if tied else "spread")
        for name in MEASURED:
            (_, _, half), (value, seconds, whole) = (ask(size, tied, name) for size in (given.size // 2, given.size))
            shown = f"{value:.0f} points" if name == "DET curve" else f"{value:.6f}"
            print(f"  {name:<18} {shown:>16} {seconds:7.2f} s  {half / 2**20:6.0f} -> {whole / 2**20:6.0f} MiB")


def ask(size: int, tied: bool, name: str) -> tuple[float, float, float]:
    """Value, seconds and bytes of one number, from another process."""
    words = [sys.executable, __file__, str(size), "--one", name, *(["--tied"] if tied else [])]
    answer = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    return float(answer[0]), float(answer[1]), float(answer[2])


if __name__ == "__main__":
    main()
