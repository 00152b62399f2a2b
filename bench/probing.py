"""What an evaluation costs: a run of 20 epochs with the store, without it, computing everything anew in each epoch, and grids of probes.

    OMP_WAIT_POLICY=PASSIVE python bench/probing.py [DATA] [--limit N] [--tasks speaker phone] [--epochs 20] [--timed-epochs 1] [--repeat 1]
                                                    [--threads 2] [--small] [-o KEY=VALUE]

DATA is a folder with `lists/librispeech_speaker_id_large.csv`, `lists/librispeech_phone_unseen.csv` and `phones_librispeech/aligned_phones_10ms.txt`; the
demo corpus when not given. The upstream is of TERA base's size (21.3 M) with random weights; settings of the tasks are those of their cards. In one process,
one after another, each as a whole run from settings to report:

    a  with a store that holds nothing yet
    b  with the store that a left
    m  without a store on disk, features held in memory
    c  without either: the upstream runs over every utterance again in each epoch and each evaluation. Timed for --timed-epochs epochs, and scaled: the time of
       one of them times the epochs that are missing, and evaluations on dev as many as a had
    l  --layers all: a probe on every layer and on their weighted sum
    g  --lr-grid: 8 learning rates. Both need the features that a computed: they read a's store, and a's seconds for them are added
    d  nothing but the upstream over the same files once, read from disk; nothing is kept
    e  the heads' own time: training and evaluation of m, where features lie in memory

Test scores, metrics, history and weights of a, b and m must be equal bit for bit, and so must those of c and of a run of so few epochs from b's store; the exit
code is 1 where they are not.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.config import RunConfig

SMALL = {"hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 1024}
RATES = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1]
LISTS = {"speaker": "librispeech_speaker_id_large", "phone": "librispeech_phone_unseen"}
LABELS = "phones_librispeech/aligned_phones_10ms.txt"
COUNTED = 24  # utterances whose operations are counted
RUNS = {
    "a": "cold store",
    "b": "warm store",
    "m": "in memory, no store",
    "l": "--layers all",
    "g": "8 learning rates",
    "c": "recomputed",
}


@dataclass(frozen=True)
class Ran:
    """One run: seconds of it all, what its result says of their parts, and what must not differ between two of the same settings."""

    whole: float
    timing: dict[str, float]
    evaluations: int
    bits: list[bytes]


def config_of(
    args: argparse.Namespace, task: str, epochs: int, store: dict[str, Any], grid: dict[str, Any]
) -> RunConfig:
    from headwater.config import RunConfig
    from headwater.registry import downstreams
    from headwater.settings import merge, parse_overrides, validate

    data: dict[str, Any] = {"limit": args.limit}
    if args.data is not None:
        data["path"] = str(args.data / "lists" / f"{LISTS[task]}.csv")
        if task == "phone":
            data["labels"] = str(args.data / LABELS)
    own = {
        "upstream": {
            "name": "tera",
            "config": {"random_weights": 0, "sequence_length": 0, **({"transformer": SMALL} if args.small else {})},
        },
        "downstream": task,
        "grid": grid,
        "data": data,
        "store": store,
        "runner": {"epochs": epochs},
    }
    return validate(RunConfig, merge(downstreams[task].config, own, parse_overrides(args.override)))


def run_once(args: argparse.Namespace, task: str, kind: str, epochs: int, place: Path) -> Ran:
    """One of `RUNS` from settings to report; `place` holds the store."""
    from headwater.train.runner import run

    grid = {"l": {"layers": "all"}, "g": {"lrs": RATES}}.get(kind, {})
    store: dict[str, Any] = {
        "m": {"cache": False, "memory_gib": args.memory},
        "c": {"cache": False, "memory_gib": 0},
    }.get(kind, {})
    home = place / ("none" if kind in "mc" else "store")
    if kind == "a":
        shutil.rmtree(home, ignore_errors=True)
    os.environ["HEADWATER_STORE"] = str(home)  # digests of audio lie there, too
    config = config_of(args, task, epochs, store, grid)
    folder = place / "run"
    begun = time.perf_counter()
    result, _ = run(
        config, folder=folder, device="cpu", fresh=True, dry_run=False, bundle=False, init_ckpt=None, say=lambda line: None
    )  # fmt: skip
    whole = time.perf_counter() - begun
    assert result is not None
    numbers = json.dumps([result["metrics"], result["history"]], sort_keys=True).encode()
    scores = [file.read_bytes() for file in sorted((folder / "scores").rglob("*.jsonl"))]
    bits = [numbers, (folder / "model.safetensors").read_bytes(), *scores]
    return Ran(whole, result["timing"], sum("dev" in point for point in result["history"]), bits)


def with_extraction(warm: Ran, cold: Ran) -> Ran:
    """A run from a store that was full, as if it had filled it."""
    seconds = cold.timing["extract_s"]
    timing = {**warm.timing, "extract_s": warm.timing["extract_s"] + seconds}
    return Ran(warm.whole + seconds, timing, warm.evaluations, warm.bits)


def scaled(args: argparse.Namespace, short: Ran, evaluations: int, share_of_dev: float) -> float:
    """Seconds of all epochs, from a run of few. share_of_dev: of the audio that is scored in the end."""
    evaluation = short.timing["evaluate_s"] * share_of_dev
    epoch = (short.timing["train_s"] - short.evaluations * evaluation) / args.timed_epochs
    more = max(0, args.epochs - args.timed_epochs)
    return short.whole + more * epoch + (evaluations - short.evaluations) * evaluation


class Bare:
    """d: the upstream over all utterances of a task once."""

    def __init__(self, args: argparse.Namespace, task: str) -> None:
        import headwater
        from headwater.store.compute import Extractor
        from headwater.train.parts import build_task, item_reader

        config = config_of(args, task, args.epochs, {}, {})
        self.upstream = headwater.load("tera", config=config.upstream.config)
        built = build_task(config)
        self.items, rate = built.corpora(), built.spec.sample_rate
        self.read = item_reader(config, rate, self.upstream)
        self.minutes = {split: sum(item.num_samples for item in part) / rate / 60 for split, part in self.items.items()}
        self.utterances = list({item.id: item for part in self.items.values() for item in part}.values())
        self.audio = sum(item.num_samples for item in self.utterances) / rate
        self.extractor: Extractor[Any] = Extractor(self.upstream, range(self.upstream.num_layers), self.read)

    def seconds(self) -> float:
        begun = time.perf_counter()
        for _ in self.extractor([[item] for item in self.utterances]):
            pass
        return time.perf_counter() - begun

    def flops(self) -> float:
        """Operations for a second of audio, of utterances at equal distances in the order of length."""
        import torch

        from headwater.speed.upstream import operations

        ordered = sorted(self.utterances, key=lambda item: item.num_samples)
        wavs = [self.read(item) for item in ordered[:: -(-len(ordered) // COUNTED)]]
        return operations(self.upstream, wavs, torch.device("cpu")) / sum(map(len, wavs)) * self.upstream.sample_rate


def measure(args: argparse.Namespace, task: str, place: Path) -> bool:
    """Print the table of one task; whether all that must be equal is."""
    import torch

    from headwater.speed.machine import matmul_peak

    bare = Bare(args, task)
    share_of_dev = bare.minutes["dev"] / (bare.minutes["dev"] + bare.minutes["test"])
    found: dict[str, list[Ran]] = {kind: [] for kind in RUNS}
    passes, peaks, ratios = [], [], []
    equal = True
    for _ in range(args.repeat):
        for kind in ("a", "b", "m", "l", "g"):
            ran = run_once(args, task, kind, args.epochs, place)
            found[kind].append(with_extraction(ran, found["a"][-1]) if kind in "lg" else ran)
        few = run_once(args, task, "b", args.timed_epochs, place)
        found["c"].append(run_once(args, task, "c", args.timed_epochs, place))
        peaks.append(matmul_peak("float32", torch.get_num_threads()))
        passes.append(bare.seconds())
        last = {kind: runs[-1] for kind, runs in found.items()}
        equal = equal and last["a"].bits == last["b"].bits == last["m"].bits and last["c"].bits == few.bits
        recomputed = scaled(args, last["c"], last["a"].evaluations, share_of_dev)
        ratios.append(
            {
                "c / a": recomputed / last["a"].whole,
                "a / (d + e)": last["a"].whole / (passes[-1] + heads_of(last["m"])),
                "a / b": last["a"].whole / last["b"].whole,
                "l / a": last["l"].whole / last["a"].whole,
                "g / a": last["g"].whole / last["a"].whole,
                "heads of l / heads of a": heads_of(last["l"]) / heads_of(last["a"]),
                "heads of g / heads of a": heads_of(last["g"]) / heads_of(last["a"]),
                "c": recomputed,
            }
        )
    tell(args, task, bare, found, passes, peaks, ratios)
    print(
        f"a, b and m, and c and b after {args.timed_epochs} epoch(s): test scores, metrics, history and weights "
        f"{'identical bit for bit' if equal else 'DIFFER'}\n",
        flush=True,
    )
    return equal


def heads_of(ran: Ran) -> float:
    return ran.timing["train_s"] + ran.timing["evaluate_s"]


def tell(
    args: argparse.Namespace,
    task: str,
    bare: Bare,
    found: dict[str, list[Ran]],
    passes: list[float],
    peaks: list[float],
    ratios: list[dict[str, float]],
) -> None:
    middle = statistics.median
    flops = bare.flops()
    sizes = ", ".join(f"{split} {minutes:.1f}" for split, minutes in bare.minutes.items())
    parameters = sum(parameter.numel() for parameter in bare.upstream.parameters())
    print(
        f"{task}: {len(bare.utterances)} utterances, {bare.audio / 60:.1f} min ({sizes}); upstream {parameters / 1e6:.1f} M parameters; "
        f"{args.epochs} epochs, dev scored {found['a'][0].evaluations} time(s) on the way"
    )
    print(f"   {'':<31}{'extraction':>11}{'training':>10}{'evaluation':>12}{'whole run (s)':>15}")
    for kind, name in RUNS.items():
        parts = [middle([one.timing[part] for one in found[kind]]) for part in ("extract_s", "train_s", "evaluate_s")]
        what = f"{name}, {args.timed_epochs} epoch(s)" if kind == "c" else name
        print(
            f"{kind}  {what:<31}{parts[0]:>11.1f}{parts[1]:>10.1f}{parts[2]:>12.1f}{middle([one.whole for one in found[kind]]):>15.1f}"
        )
    how = f"scaled from {args.timed_epochs}" if args.timed_epochs < args.epochs else "timed"
    speed, peak = bare.audio / middle(passes), middle(peaks)
    print(f"c  {f'recomputed, {args.epochs} epochs ({how})':<31}{'':>33}{middle([one['c'] for one in ratios]):>15.1f}")
    print(f"d  {'one bare pass of the upstream':<31}{'':>33}{middle(passes):>15.1f}")
    print(f"e  {'the heads alone, in memory':<31}{'':>33}{middle([heads_of(one) for one in found['m']]):>15.1f}")
    print(
        f"limit: {flops / 1e9:.2f} GFLOP for a second of audio, peak {peak / 1e9:.0f} GFLOP/s; d computes {speed:.1f} s of audio a second, "
        f"{100 * speed * flops / peak:.0f} % of the peak; a {bare.audio / middle([one.whole for one in found['a']]):.1f}"
    )
    for name in ratios[0]:
        if name != "c":
            values = [one[name] for one in ratios]
            spread = f" [{min(values):.2f}, {max(values):.2f}]" if len(values) > 1 else ""
            print(f"{name:<25}{middle(values):>7.2f}{spread}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, metavar="DATA", help="the folder; the demo corpus when not given")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N utterances of each split")
    parser.add_argument("--tasks", nargs="+", choices=tuple(LISTS), default=list(LISTS))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--timed-epochs", type=int, default=1, help="of c")
    parser.add_argument(
        "--repeat", type=int, default=1, help="of everything; medians are told, with the least and the greatest ratio"
    )
    parser.add_argument("--threads", type=int, help="as many as torch takes when not given")
    parser.add_argument("--memory", type=float, default=8.0, metavar="GIB", help="what m may hold")
    parser.add_argument("--small", action="store_true", help="a small model, for trying this program out")
    parser.add_argument(
        "-o", "--override", metavar="KEY=VALUE", action="append", default=[], help="a setting of all runs"
    )
    args = parser.parse_args()
    if not 1 <= args.timed_epochs <= args.epochs:
        parser.error("--timed-epochs: from 1 to --epochs")
    import torch

    from headwater.cli.shell import keep_memory
    from headwater.speed.machine import limits

    keep_memory()  # as every command does
    if args.threads:
        torch.set_num_threads(args.threads)
    print(f"{limits(torch.get_num_threads())}; {'LibriSpeech' if args.data else 'the demo corpus'}", flush=True)
    before = os.environ.get("HEADWATER_STORE")
    try:
        with tempfile.TemporaryDirectory() as folder:
            # What only a first run pays: imports, and the demo corpus.
            warm = argparse.Namespace(**{**vars(args), "limit": 24, "small": True, "data": None})
            run_once(warm, "speaker", "m", 1, Path(folder))
            equal = [measure(args, task, Path(folder)) for task in args.tasks]
    finally:
        os.environ.pop("HEADWATER_STORE", None)
        if before is not None:
            os.environ["HEADWATER_STORE"] = before
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main())
