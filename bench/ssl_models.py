"""Self-supervised models beside acoustic features and their own random-weight twins, on real speech: phones of unseen speakers, and speakers.

    python bench/ssl_models.py ../shared/data --out /tmp/ssl [--models tera.demo] [--tasks phone_linear] [--seeds 3] [--sum] [--fine_tune]

All seeds are trained side by side, and every layer with them where that costs little; the rows are the sum and the last layer (`--sum`: the sum alone).
Four speaker-disjoint folds are pooled; of an utterance's score the mean over the seeds is taken. The intervals are over speakers. Larger heads and fine-tuned
models take fewer steps, the same for every row (`SHORTENED`, `FINE_TUNING`). Runs that are finished are not run again, so several of these may share the
work: `--part 0/2`, `--part 1/2`.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.tables import arguments, asked, finished, made, mine, spread

from headwater.metrics import evaluate, paired_difference
from headwater.metrics.measures import Ratio
from headwater.metrics.rows import Row, Table
from headwater.results.table import load_result, read_scores

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
SEED = 1337
# Heads that take most of the time, on every frame or with large matrices: fewer steps, bfloat16, and only the two layers of the rows.
SHORTENED = {
    "speaker_frame": "runner.total_steps=1000",
    "phone_1hidden": "runner.total_steps=300,,runner.precision=bf16,,optimizer.lr=3e-3",
    "phone_concat": "runner.total_steps=300,,runner.precision=bf16,,optimizer.lr=3e-3",
}
# Of fine-tuning: as many steps as a small model takes on two cores, at a rate of its own.
FINE_TUNING = [
    "-f",
    "--upstream_lr",
    "1e-4",
    "-o",
    "batch.size=8,,runner.total_steps=200,,runner.eval_step=200,,runner.save_step=200",
]


def systems(models: Iterable[str], fine_tune: bool) -> dict[str, list[str]]:
    """Name -> what stands on the command line."""
    found = {} if fine_tune else {name: ["-u", name] for name in FEATURES}
    for model in models:
        found[model] = ["-u", model]
        found[f"{model} random"] = ["-u", model, "-o", "upstream.config.random_weights=1"]
    return found


def runs_of(system: str, task: str, name: str, seeds: Sequence[int], args: argparse.Namespace) -> dict[str, list[str]]:
    """Folder -> flags of the runs that a system needs on one list."""
    if args.fine_tune:
        # Every seed is a run of its own: no features are shared.
        return {f"{name}-{seed}": [*FINE_TUNING, "--seed", str(seed)] for seed in seeds}
    side_by_side = ["--seeds", str(len(seeds)), "--seed", str(SEED)]
    if task in SHORTENED:
        side_by_side += ["-o", f"{SHORTENED[task]},,runner.eval_step=100,,runner.save_step=100"]
        only = (
            {}
            if args.sum or system in FEATURES or "random" in system
            else {f"{name}-last": [*side_by_side, "-l", "-1"]}
        )
        return {name: side_by_side} | only
    return {name: [*([] if args.sum or system in FEATURES else ["--layers", "all"]), *side_by_side]}


def selections(system: str, args: argparse.Namespace) -> dict[str, str]:
    """What of a system's runs makes a row: what it is called -> the selection as results say it ("" for the one that was asked for)."""
    if args.fine_tune or system in FEATURES:
        return {system: ""}
    return {f"{system} sum": ""} | ({} if args.sum else {f"{system} last": "last"})


def answer(out: Path, system: str, selection: str, task: str, seeds: Iterable[int]) -> list[dict[str, Any]] | None:
    """Score rows of all folds, the counts summed over seeds; None where a run is missing."""
    rows: dict[str, dict[str, Any]] = defaultdict(lambda: {"correct": 0, "total": 0})
    for name in LISTS[task]:
        for seed in seeds:
            scored = scores(out, system, selection, task, name, seed)
            if scored is None:
                return None
            for row in scored:
                held = rows[row["id"]]
                held.update(id=row["id"], speaker=row["speaker"], total=held["total"] + row.get("total", 1))
                held["correct"] += row["correct"]
    return list(rows.values())


def scores(out: Path, system: str, selection: str, task: str, name: str, seed: int) -> Sequence[Row] | None:
    """The test rows of one selection and seed: of a run of its own, or of an arm of one."""
    own = place(out, system, task, f"{name}-{seed}")
    folder = own if finished(own) else place(out, system, task, name)
    if selection == "last" and task in SHORTENED:
        folder, selection = place(out, system, task, f"{name}-last"), ""
    if not finished(folder):
        return None
    if selection == "last":
        selection = [row["selection"] for row in load_result(folder)["seeds"] if row["selection"] != "weighted_sum"][-1]
    asked = not selection and (seed == SEED or folder == own)
    if asked:
        return read_scores(folder, "test")
    return read_scores(folder, f"{(selection or asked_of(folder)).replace(' ', '_')}-seed{seed}/test")


def asked_of(folder: Path) -> str:
    return next(arm["selection"] for arm in load_result(folder)["arms"] if arm["asked"])


def place(out: Path, system: str, task: str, name: str) -> Path:
    return out / system.replace(" ", "-") / task / name


def report(out: Path, names: Iterable[str], seeds: list[int], args: argparse.Namespace) -> None:
    """The table, and the paired differences to the first two features and to the random twins."""
    measure = Ratio("accuracy", "correct", "total")
    rows = {row: (system, asked) for system in names for row, asked in selections(system, args).items()}
    width = max(map(len, rows))
    print(f"accuracy in %, mean over {len(seeds)} seed(s), 95 % interval over speakers")
    for task in args.tasks:
        print(f"\n{task}")
        held = {row: found for row, (s, a) in rows.items() if (found := answer(out, s, a, task, seeds)) is not None}
        for row, found in held.items():
            system, asked = rows[row]
            values = [measure.value(Table(answer(out, system, asked, task, [seed]) or [])) for seed in seeds]
            print(
                f"  {row:<{width}}  {evaluate([measure], found)['accuracy'].brief()}{spread(values)}{_weights(out, system, asked, task)}"
            )
        for row, found in held.items():
            if row in FEATURES or "random" in row:
                continue
            *model, kind = row.split()
            for other in (*FEATURES[:2], " ".join([*model, "random", kind]), f"{row} random"):
                if other in held:
                    print(f"  {row} - {other}: {paired_difference(measure, found, held[other]).brief()}")


def _weights(out: Path, system: str, selection: str, task: str) -> str:
    """The learned layer weights of the first run."""
    folder = place(out, system, task, LISTS[task][0])
    if selection or not finished(folder):
        return ""
    upstream: Mapping[str, Any] = load_result(folder)["upstream"]
    weights = upstream.get("layer_weights")
    return "   layers " + " ".join(f"{weight:.2f}" for weight in weights) if weights and len(weights) > 1 else ""


def main() -> int:
    parser = arguments(__doc__, ("tera.demo", "mockingjay.demo", "audio_albert.demo"))
    parser.add_argument("--tasks", nargs="*", default=list(LISTS), choices=list(LISTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sum", action="store_true", help="of the layers the learned sum alone")
    parser.add_argument("--fine_tune", action="store_true")
    args = parser.parse_args()
    out = args.out / ("fine_tuned" if args.fine_tune else "frozen")
    rows = asked(systems(args.models, args.fine_tune), parser, args)
    labels = f"data.labels={args.data / 'phones_librispeech' / 'aligned_phones_10ms.txt'}"
    seeds = list(range(SEED, SEED + args.seeds))
    for system, line in mine(rows, args):
        for task in args.tasks:
            for name in LISTS[task]:
                data = [
                    "--data",
                    str(args.data / "lists" / f"{name}.csv"),
                    *(["-o", labels] if "phone" in task else []),
                ]
                for folder, flags in runs_of(system, task, name, seeds, args).items():
                    if not made(place(out, system, task, folder), [*line, "-d", task, *data, *flags]):
                        return 1
    report(out, list(rows), seeds, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
