"""Self-supervised models beside acoustic features and their own random-weight twins, on real speech: phones of unseen speakers, and speakers.

    python bench/ssl_models.py ../shared/data --out /tmp/ssl [--models tera.demo] [--tasks phone_linear] [--seeds 1337 1 2] [--fine_tune] [--only-table]

Four speaker-disjoint folds are pooled; of an utterance's score the mean over the seeds is taken. The intervals are over speakers. Runs that are finished
are not run again, so several of these may share the work: `--part 0/2`, `--part 1/2`.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from headwater.cli.run import main as run
from headwater.cli.shell import guarded
from headwater.metrics import Metric, evaluate, paired_difference
from headwater.metrics.measures import Ratio
from headwater.results.table import load_result, read_scores
from headwater.store.features import FrozenFeatures
from headwater.train import feed
from headwater.weights import state_sha256

FOLDS = tuple(f"librispeech_phone_fold{fold}" for fold in range(4))
SPEAKERS = ("librispeech_speaker_id_large",)
LISTS = {
    "phone_linear": FOLDS,
    "phone_1hidden": FOLDS,
    "phone_concat": FOLDS,
    "speaker_utterance": SPEAKERS,
    "speaker_frame": SPEAKERS,
}
FEATURES = ("mel", "fbank", "fbank_no_cmvn")
SELECTIONS = {"sum": [], "last": ["-s", "last_hidden_state"]}
# Of fine-tuning: as many steps as a small model takes on two cores, at a rate of its own.
FINE_TUNING = [
    "-f",
    "--upstream_lr",
    "1e-4",
    "-o",
    "runner.total_steps=400,,runner.eval_step=100,,runner.save_step=100",
]


class Shelf(FrozenFeatures[Any]):
    """Frozen features that outlive a run: the next seed, head and fold find them."""

    held: ClassVar[dict[tuple[Any, ...], dict[str, Any]]] = {}

    def __init__(self, upstream: Any, layers: Any, *rest: Any, **options: Any) -> None:
        super().__init__(upstream, layers, *rest, **options)
        key = (upstream.name, state_sha256(upstream), tuple(layers), self.pooled)
        if key not in Shelf.held:
            Shelf.held.clear()
        self._held = Shelf.held.setdefault(key, {})


def systems(models: Iterable[str], fine_tune: bool) -> dict[str, list[str]]:
    """Name -> what stands on the command line."""
    found = {} if fine_tune else {name: ["-u", name] for name in FEATURES}
    for model in models:
        for selection, flags in SELECTIONS.items():
            more = FINE_TUNING if fine_tune else []
            found[f"{model} {selection}"] = ["-u", model, *flags, *more]
            twin = ["-u", model, "-o", "upstream.config.random_weights=1", *flags, *more]
            found[f"{model} random {selection}"] = twin
    return found


def answer(out: Path, system: str, task: str, seeds: Iterable[int]) -> list[dict[str, Any]] | None:
    """Score rows of all folds, the counts summed over seeds; None where a run is missing."""
    rows: dict[str, dict[str, Any]] = defaultdict(lambda: {"correct": 0, "total": 0})
    for name in LISTS[task]:
        for seed in seeds:
            folder = place(out, system, task, name, seed)
            if not (folder / "result.json").is_file():
                return None
            for row in read_scores(folder, "test"):
                held = rows[row["id"]]
                total = row.get("total", 1)
                held.update(id=row["id"], speaker=row["speaker"], total=held["total"] + total)
                held["correct"] += row["correct"]
    return list(rows.values())


def place(out: Path, system: str, task: str, name: str, seed: int) -> Path:
    return out / system.replace(" ", "-") / task / f"{name}-{seed}"


def cell(metric: Metric) -> str:
    low, high = metric.ci95 if metric.ci95 is not None else (float("nan"), float("nan"))
    return f"{metric.value:.2f} [{low:.2f}, {high:.2f}]"


def report(out: Path, names: Iterable[str], tasks: Iterable[str], seeds: list[int]) -> None:
    """The table, and the paired differences to the first two features."""
    measure = Ratio("accuracy", "correct", "total")
    width = max(map(len, names))
    held: dict[tuple[str, str], list[dict[str, Any]]] = {}
    print(f"accuracy in %, mean over {len(seeds)} seed(s), 95 % interval over speakers")
    for task in tasks:
        print(f"\n{task}")
        for system in names:
            rows = answer(out, system, task, seeds)
            if rows is None:
                continue
            held[system, task] = rows
            values = [measure.value(_table(answer(out, system, task, [seed]) or [])) for seed in seeds]
            spread = f"   seeds {min(values):.2f} to {max(values):.2f}" if len(seeds) > 1 else ""
            print(
                f"  {system:<{width}}  {cell(evaluate([measure], rows)['accuracy'])}{spread}{_weights(out, system, task, seeds)}"
            )
        for other in FEATURES[:2]:
            for system in names:
                if (
                    (system, task) in held
                    and (other, task) in held
                    and system not in FEATURES
                    and "random" not in system
                ):
                    difference = paired_difference(measure, held[system, task], held[other, task])
                    print(f"  {system} - {other}: {cell(difference)}")


def _table(rows: list[dict[str, Any]]) -> Any:
    from headwater.metrics.rows import Table

    return Table(rows)


def _weights(out: Path, system: str, task: str, seeds: list[int]) -> str:
    """The learned layer weights of the first run."""
    upstream: Mapping[str, Any] = load_result(place(out, system, task, LISTS[task][0], seeds[0]))["upstream"]
    weights = upstream.get("layer_weights")
    return "   layers " + " ".join(f"{weight:.2f}" for weight in weights) if weights and len(weights) > 1 else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=["tera.demo", "mockingjay.demo", "audio_albert.demo"])
    parser.add_argument("--systems", nargs="*", help="only these rows")
    parser.add_argument("--tasks", nargs="*", default=list(LISTS), choices=list(LISTS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[1337, 1, 2])
    parser.add_argument("--fine_tune", action="store_true")
    parser.add_argument("--part", default="0/1", metavar="I/N")
    parser.add_argument("--only-table", action="store_true")
    args = parser.parse_args()
    feed.FrozenFeatures = Shelf  # type: ignore[misc]
    out = args.out / ("fine_tuned" if args.fine_tune else "frozen")
    rows = {
        name: line
        for name, line in systems(args.models, args.fine_tune).items()
        if not args.systems or name in args.systems
    }
    part, parts = map(int, args.part.split("/"))
    labels = f"data.labels={args.data / 'phones_librispeech' / 'aligned_phones_10ms.txt'}"
    for number, (system, line) in enumerate(rows.items()):
        if args.only_table or number % parts != part:
            continue
        for task in args.tasks:
            for name in LISTS[task]:
                for seed in args.seeds:
                    folder = place(out, system, task, name, seed)
                    if (folder / "result.json").is_file():
                        continue
                    data = [
                        "--data",
                        str(args.data / "lists" / f"{name}.csv"),
                        *(["-o", labels] if "phone" in task else []),
                    ]
                    if guarded(run, [*line, "-d", task, *data, "--seed", str(seed), "-p", str(folder)]):
                        return 1
    report(out, list(rows), args.tasks, args.seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
