"""A grid against the single probe: how much more do all layers, or eight learning rates, cost?

    OMP_WAIT_POLICY=PASSIVE python bench/grid.py [--data CSV] [--labels FILE] [--upstream NAME] [--small] [--epochs 20] [--repeat 3] [--threads N]

For the tasks speaker and phone: the plain run (learned weighted sum), `--layers all`, `--lr-grid` (8 rates), and both a layer and `--lr-grid`
against the plain run of that layer. Every run computes its own features (no store on disk). Two ratios each: of the heads' loop (training with its
evaluations on dev), and of the whole run, extraction and test included. Without --data it is the demo corpus. The upstream has random weights: TERA
base by default, S3PRL's small demo size with --small.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from headwater.cli.shell import keep_memory
from headwater.config import RunConfig
from headwater.registry import downstreams
from headwater.settings import merge, validate
from headwater.speed.machine import limits
from headwater.train.runner import run

SMALL = {"hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 1024}
RATES = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1]
# name -> (what is asked, the grid, what it is compared with)
RUNS: dict[str, tuple[dict[str, Any], dict[str, Any], str | None]] = {
    "single, weighted sum": ({}, {}, None),
    "all layers": ({}, {"layers": "all"}, "single, weighted sum"),
    "8 rates, weighted sum": ({}, {"lrs": RATES}, "single, weighted sum"),
    "single, one layer": ({"layer": 1}, {}, None),
    "8 rates, one layer": ({"layer": 1}, {"lrs": RATES}, "single, one layer"),
}


def seconds(
    args: argparse.Namespace, task: str, asked: dict[str, Any], grid: dict[str, Any], folder: Path
) -> tuple[float, float]:
    """Seconds of a run's loop and of the whole run."""
    config = {"random_weights": 0, **({"transformer": SMALL} if args.small else {})}
    data = {"path": args.data, "labels": args.labels if task == "phone" else None}
    own = {
        "upstream": {"name": args.upstream, "config": config, **asked},
        "downstream": task,
        "grid": grid,
        "data": data,
        "store": {"cache": False},
        # One evaluation every other epoch or so: as often as the tasks' own settings ask.
        "runner": {"epochs": args.epochs},
    }
    settings = validate(RunConfig, merge(downstreams[task].config, own))
    started = time.perf_counter()
    result, _ = run(
        settings, folder=folder, device=None, fresh=True, dry_run=False, bundle=False, init_ckpt=None, say=lambda line: None,
    )  # fmt: skip
    assert result is not None
    return result["timing"]["train_s"], time.perf_counter() - started


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", help="a CSV or corpus; the demo corpus when not given")
    parser.add_argument("--labels", help="phone labels of that corpus")
    parser.add_argument("--upstream", default="tera")
    parser.add_argument(
        "--small", action="store_true", help="a small model: quick, and hard on the ratio of the whole run"
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; medians are compared")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--tasks", nargs="+", default=["speaker", "phone"])
    args = parser.parse_args()
    os.environ.setdefault("TQDM_DISABLE", "1")
    keep_memory()  # as every command does
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.data is not None and args.labels is None and "phone" in args.tasks:
        parser.error("--labels are needed for the phone task on data of yours")
    print(f"{limits(torch.get_num_threads())}; {args.epochs} epochs, median of {args.repeat}")
    print(f"{'task':<9}{'run':<24}{'heads (s)':>10}{'run (s)':>10}{'heads ratio':>13}{'run ratio':>11}")
    with tempfile.TemporaryDirectory() as folder:
        for task in args.tasks:
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in RUNS}
            for _ in range(args.repeat):
                for name, (asked, grid, _) in RUNS.items():
                    found[name].append(seconds(args, task, asked, grid, Path(folder) / "run"))
            middle = {
                name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in found.items()
            }
            for name, (_, _, rival) in RUNS.items():
                heads, whole = middle[name]
                ratios = "" if rival is None else f"{heads / middle[rival][0]:>13.2f}{whole / middle[rival][1]:>11.2f}"
                print(f"{task:<9}{name:<24}{heads:>10.2f}{whole:>10.2f}{ratios}", flush=True)


if __name__ == "__main__":
    main()
