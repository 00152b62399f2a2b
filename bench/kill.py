"""Kill runs at random moments, start them again, and compare what they end with to a run that nobody disturbed.

    OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 python bench/kill.py [--kills 20] [--seed 0] [--tasks phone speaker pretraining]

A moment is a place in the program, not a time: the n-th Python or C call made while features are extracted, while
training, while scoring or while a file is written, both drawn from the seed. There the process sends itself SIGKILL.
The corpus is made on the spot. The result (but for timings and versions), the scores and the weights must be equal to
the last bit; the exit code is 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Where our own code lies; the environment may lie below the root, too.
OURS = tuple(f"{ROOT / folder}{os.sep}" for folder in ("headwater", "upstream", "downstream", "pretrain"))
# Function (file, name) -> what a process is doing while it is in it; the innermost one counts.
PHASES = {
    ("runner.py", "extract"): "extraction",
    ("loop.py", "fit"): "training",
    ("probing.py", "evaluate_each"): "evaluation",
    ("pretraining.py", "losses"): "evaluation",
    ("files.py", "write_bytes"): "writing",
}
NAMES = tuple(dict.fromkeys(PHASES.values()))
HARD = (
    "batch.size=2,,runner.total_steps=24,,runner.gradient_accumulate_steps=2,,runner.eval_step=6,,runner.save_step=5,,runner.log_step=4,,"
    "scheduler.name=linear,,scheduler.warmup_steps=4,,specaug.time_width=10,,specaug.frequency_width=20"
)
PRETRAINING = (
    "model.transformer.hidden_size=16,,model.transformer.num_hidden_layers=1,,model.transformer.intermediate_size=32,,"
    "model.transformer.hidden_dropout_prob=0.1,,min_seconds=0,,crop_seconds=0.25,,batch.size=2,,runner.total_steps=24,,"
    "runner.gradient_accumulate_steps=2,,runner.eval_step=6,,runner.save_step=5,,runner.log_step=4"
)
TASKS = ("phone", "speaker", "pretraining")
Moment = tuple[str, int]


@dataclass
class Outcome:
    """What became of the runs of one task."""

    task: str
    finished: int = 0
    interrupted: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)


class Clock:
    """Counts the calls of our own code by phase, and sends `number` to this process at a moment."""

    def __init__(self, moment: Moment | None, number: int) -> None:
        self.moment, self.number = moment, number
        self.counts: Counter[str] = Counter()
        self.stack: list[tuple[FrameType, str]] = []

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if not code.co_filename.startswith(OURS):
            return
        if event == "call" and (phase := PHASES.get((os.path.basename(code.co_filename), code.co_name))):
            self.stack.append((frame, phase))
        if self.stack:
            phase = self.stack[-1][1]
            self.counts[phase] += 1
            if self.moment == (phase, self.counts[phase]):
                os.kill(os.getpid(), self.number)
        if event == "return" and self.stack and self.stack[-1][0] is frame:
            self.stack.pop()


def child(signal_number: int, moment: Moment | None, counts: Path, arguments: Sequence[str]) -> int:
    """The command itself, under a `Clock`."""
    # Imported first: what they do is nobody's phase, and slow to count.
    import tensorboardX.summary  # noqa: F401
    from transformers import get_scheduler  # noqa: F401

    import headwater.train.pretrain  # noqa: F401
    from headwater.cli.main import main
    from headwater.cli.shell import guarded

    clock = Clock(moment, signal_number)
    sys.setprofile(clock)
    code = guarded(main, arguments)
    sys.setprofile(None)
    counts.write_text(json.dumps(clock.counts))
    return code


def start(
    arguments: Sequence[str], folder: Path, moment: Moment | None = None, signal_number: int = signal.SIGKILL
) -> tuple[subprocess.CompletedProcess[str], dict[str, int]]:
    """The command with the run folder `folder`, struck at `moment`; and its calls by phase where it came to an end."""
    counts = folder.parent / f"{folder.name}.counts"
    counts.unlink(missing_ok=True)
    when = json.dumps([int(signal_number), moment, str(counts)])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--child", when, *arguments, "-p", str(folder)],
        env=environment,
        capture_output=True,
        text=True,
    )
    return done, json.loads(counts.read_text()) if counts.is_file() else {}


def commands(folder: Path) -> dict[str, list[str]]:
    """Task -> arguments, on a tiny corpus made in `folder`. SpecAugment and dropout make all depend on the random state."""
    sys.path.insert(0, str(ROOT / "tests"))
    from corpora import make_corpus, make_labels  # type: ignore[import-not-found]

    corpus = make_corpus(folder, speakers=2, utterances=10, seconds=0.3)
    labels = make_labels(folder, speakers=2, utterances=10, seconds=0.3)
    common = ["run", "-u", "fbank_no_cmvn", "--no-cache", "--data", str(corpus), "-o", HARD]
    return {
        "phone": [*common, "-d", "phone", "-o", f"data.labels={labels}", "-o", "task.hidden=8"],
        "speaker": [*common, "-d", "speaker", "-o", "task.projector=8,,runner.patience=2"],
        "pretraining": ["pretrain", "-u", "tera", "--data", str(corpus), "-o", PRETRAINING],
    }


def answer(folder: Path) -> dict[str, Any]:
    """What a run found: all of `result.json` but timings and versions, the scores, and the weights, by name."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    result.pop("timing"), result.pop("versions")
    files = [*sorted((folder / "scores").rglob("*.jsonl")), *sorted(folder.glob("model.*"))]
    return {**result, **{str(file.relative_to(folder)): file.read_bytes() for file in files}}


def differences(folder: Path, reference: Path) -> list[str]:
    """The names of what is not the same in two finished runs."""
    ours, theirs = answer(folder), answer(reference)
    drawn = [file.relative_to(reference) for file in (reference / "report.html", *(reference / "plots").iterdir())]
    missing = [str(file) for file in drawn if (reference / file).is_file() and not (folder / file).is_file()]
    return missing + sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))


def torment(task: str, arguments: Sequence[str], folder: Path, kills: int, seed: int) -> Outcome:
    """Kill runs of a command `kills` times in all, each time starting the same run again; one that comes to its end is compared."""
    chance = random.Random(f"{seed} {task}")
    reference = folder / f"{task}-undisturbed"
    done, counts = start(arguments, reference)
    phases = [name for name in NAMES if name in counts]
    if done.returncode or not {*NAMES} - {"extraction"} <= set(phases):
        raise SystemExit(f"{task}: the undisturbed run failed, or lacks a phase ({counts}):\n{done.stderr}")
    outcome = Outcome(task)
    bag: list[str] = []
    while sum(outcome.interrupted.values()) < kills:
        run = folder / f"{task}-{outcome.finished}"
        while True:
            moment = None
            if sum(outcome.interrupted.values()) < kills:
                bag = bag or chance.sample(phases, len(phases))
                phase = bag.pop()
                moment = (phase, chance.randint(1, counts[phase]))
            done, _ = start(arguments, run, moment)
            if moment is not None and done.returncode == -signal.SIGKILL:
                outcome.interrupted[moment[0]] += 1
            elif done.returncode:
                raise SystemExit(f"{task}: exit code {done.returncode} after a kill:\n{done.stderr}")
            else:
                break
        outcome.differences += [f"run {outcome.finished}: {name}" for name in differences(run, reference)]
        outcome.finished += 1
    return outcome


def main() -> int:
    """Print the table."""
    if sys.argv[1:2] == ["--child"]:
        number, moment, counts = json.loads(sys.argv[2])
        return child(number, moment and (moment[0], moment[1]), Path(counts), sys.argv[3:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of each task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    args = parser.parse_args()
    failed = False
    print(f"{'task':<12}{'kills':>6}  {''.join(f'{name:>12}' for name in NAMES)}{'runs':>6}  differences")
    with tempfile.TemporaryDirectory() as folder:
        arguments = commands(Path(folder) / "corpus")
        for task in args.tasks:
            outcome = torment(task, arguments[task], Path(folder), args.kills, args.seed)
            hits = "".join(f"{outcome.interrupted[name]:>12}" for name in NAMES)
            found = ", ".join(outcome.differences) or "none"
            print(f"{task:<12}{sum(outcome.interrupted.values()):>6}  {hits}{outcome.finished:>6}  {found}", flush=True)
            failed |= bool(outcome.differences)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
