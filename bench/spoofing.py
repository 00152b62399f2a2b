"""Upstreams as countermeasures: acoustic features beside self-supervised models, a linear probe beside LCNN and LSTM, on the demo and on a few real clips.

    python bench/spoofing.py ../shared/data --out /tmp/spoof [--upstreams lfcc fbank] [--tasks asv_spoof_linear] [--corpora demo] [--seeds 3] [--only-table]

The demo is generated speech and its copies by vocoders, with attacks in test that training has not seen. The real clips are few and have known
shortcuts: their numbers show that all parts fit together and rank nothing. The EER is the mean over the seeds; its interval is that of this mean,
speakers resampled. Runs that are finished are not run again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common.tables import finished, made, spread

from headwater.metrics.bootstrap import interval, resample
from headwater.metrics.measures import Eer
from headwater.metrics.rows import Row, Table
from headwater.results.table import load_result, read_scores

UPSTREAMS = ("lfcc", "nii_lfb", "fbank", "tera.demo", "mockingjay.demo", "audio_albert.demo")
TASKS = ("asv_spoof_linear", "asv_spoof")
SEED = 1337
# 48 clips are one step an epoch: this trains next to nothing, and shows that all parts fit together.
FEW = ["-o", "runner.epochs=10"]
MEASURE = Eer(convention="asvspoof")


def scores(folder: Path, seeds: Sequence[int]) -> list[Sequence[Row]]:
    """Test rows of each seed of a run."""
    asked = next(arm["selection"] for arm in load_result(folder)["arms"] if arm["asked"]).replace(" ", "_")
    return [read_scores(folder, "test" if seed == seeds[0] else f"{asked}-seed{seed}/test") for seed in seeds]


def row(folder: Path, seeds: Sequence[int]) -> str:
    """Mean EER over seeds with its interval, and the best and worst seed."""
    tables = [Table(rows) for rows in scores(folder, seeds)]
    values = [MEASURE.value(table) for table in tables]
    drawn = [resample(MEASURE.statistic(table), table.clusters, len(table)) for table in tables]
    mean = float(np.mean(values))
    found = interval(np.mean(drawn, axis=0), mean, tables[0].clusters, None)
    low, high = found.ci95 if found.ci95 is not None else (float("nan"), float("nan"))
    return f"{mean:6.2f} [{low:5.2f}, {high:5.2f}]{spread(values)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--upstreams", nargs="*", default=list(UPSTREAMS))
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--corpora", nargs="*", default=["demo", "clips"], choices=["demo", "clips"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only-table", action="store_true")
    args = parser.parse_args()
    seeds = list(range(SEED, SEED + args.seeds))
    lines = []
    for corpus in args.corpora:
        for task in args.tasks:
            for upstream in args.upstreams:
                folder = args.out / corpus / task / upstream
                few = FEW if corpus == "clips" and task == "asv_spoof" else []
                data = ["--data", str(args.data / "antispoof"), *few] if corpus == "clips" else []
                line = ["-u", upstream, "-d", task, *data, "--seeds", str(args.seeds), "--seed", str(SEED)]
                if not args.only_table and not made(folder, line):
                    return 1
                if finished(folder):
                    lines.append(f"{corpus:<6}{task:<18}{upstream:<20}{row(folder, seeds)}")
    print(f"EER in %, mean over {args.seeds} seed(s), 95 % interval over speakers; chance 50")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
