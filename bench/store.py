"""Kill a process that fills a feature store, again and again, and look at what it leaves.

    OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 python bench/store.py [--kills 20] [--seed 0]

A moment is a place in the program, not a time: the n-th call that writing a file makes (temporary name, write, flush,
rename, flush of the folder ...), drawn from the seed. There the process sends itself SIGKILL. After each kill everything
that can be seen in the store must be whole; the next process goes on with the same store. What all of them leave together
must be the same files, to the last byte, that one undisturbed process leaves. The exit code is 1 where it is not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
WRITER = "atomic.py"
UTTERANCES = 40
SHARD_BYTES = 100_000


@dataclass(frozen=True)
class Key:
    """An utterance of this bench: noise, drawn from its number."""

    id: str


class Clock:
    """Counts the calls that writing a file makes, and kills this process at one of them."""

    def __init__(self, moment: int | None) -> None:
        self.moment, self.count = moment, 0

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        caller = frame if event == "c_call" else frame.f_back if event == "call" else None
        if caller is not None and os.path.basename(caller.f_code.co_filename) == WRITER:
            self.count += 1
            if self.count == self.moment:
                name = frame.f_code.co_name if event == "call" else getattr(argument, "__name__", "?")
                print(name, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)


def fill(root: Path, moment: int | None = None) -> tuple[int, int]:
    """Fill the store at `root`. Returns utterances computed, and calls made while writing."""
    import torch

    import headwater
    from headwater.store import Bank, FrozenFeatures, Store
    from headwater.store.digests import content_key

    upstream = headwater.load("fbank")
    keys = [Key(f"utterance {number}") for number in range(UTTERANCES)]
    sizes = {key.id: 4000 + 977 * (number % 13) for number, key in enumerate(keys)}

    def read(key: Key) -> torch.Tensor:
        generator = torch.Generator().manual_seed(int(hashlib.sha256(key.id.encode()).hexdigest()[:8], 16))
        return 0.1 * torch.randn(sizes[key.id], generator=generator)

    features: FrozenFeatures[Key] = FrozenFeatures(upstream, (0,), read, store=Store(root, shard_bytes=SHARD_BYTES))
    # Made by hand: somebody may edit the sources while this runs, and a bank knows that.
    bank = Bank({"upstream": "fbank", "dtype": "float32", "layer_dims": list(upstream.layer_dims)})
    clock = Clock(moment)
    sys.setprofile(clock)
    try:
        features.fill(
            keys,
            bank=bank,
            content={key.id: content_key(key.id) for key in keys},
            seconds=lambda key: sizes[key.id] / upstream.sample_rate,
        )
    finally:
        sys.setprofile(None)
    return features.filled.computed, clock.count


def start(root: Path, moment: int | None = None) -> subprocess.CompletedProcess[str]:
    """`fill` in a process of its own; what it says is its answer, or the call that it was killed in."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, str(Path(__file__).resolve()), "--child", str(root), json.dumps(moment)]
    return subprocess.run(arguments, env=environment, capture_output=True, text=True)


def files(root: Path) -> dict[str, str]:
    """Everything that a reader of the store sees, by sha256; what counts uses is not among it."""
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*"))
        if file.is_file() and not file.name.startswith(".") and file.name != "usage.json"
    }


@dataclass
class Outcome:
    """What became of a store whose writers were killed. faults: what should not be."""

    kills: Counter[str] = field(default_factory=Counter)
    stores: int = 0
    faults: list[str] = field(default_factory=list)


def torment(folder: Path, kills: int, seed: int) -> Outcome:
    """Kill writers `kills` times in all, over as many stores as that takes; every store is brought to its end."""
    from headwater.store import Store

    chance, outcome = random.Random(seed), Outcome()
    done = start(folder / "undisturbed")
    if done.returncode:
        raise SystemExit(f"the undisturbed process failed:\n{done.stderr}")
    calls, expected = json.loads(done.stdout)[1], files(folder / "undisturbed")
    while sum(outcome.kills.values()) < kills:
        root = folder / str(outcome.stores)
        while True:
            again = sum(outcome.kills.values()) < kills
            # A few steps further each time, so that a store is killed more than once before it is full.
            done = start(root, chance.randint(1, max(2, calls // 3)) if again else None)
            if done.returncode == -signal.SIGKILL:
                outcome.kills[done.stdout.strip()] += 1
            elif done.returncode:
                outcome.faults.append(f"exit code {done.returncode}: {done.stderr.strip()[-300:]}")
                break
            checked, damaged = Store(root).verify()
            if damaged:
                outcome.faults.append(f"{damaged} of {checked} shards damaged after {outcome.kills}")
            if done.returncode == 0:
                break
        if files(root) != expected:
            outcome.faults.append(f"store {outcome.stores} differs from the undisturbed one")
        outcome.stores += 1
    return outcome


def main() -> int:
    """Print what came of it."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(fill(Path(sys.argv[2]), json.loads(sys.argv[3]))))
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        outcome = torment(Path(folder), args.kills, args.seed)
    where = ", ".join(f"{name} {count}" for name, count in outcome.kills.most_common())
    print(f"{sum(outcome.kills.values())} kills in {outcome.stores} store(s), in: {where}")
    print("\n".join(outcome.faults) or "every store is whole, and byte for byte that of one undisturbed process")
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
