"""Commands under torchrun, for tests of several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from conftest import ROOT

DRIVER = """
import importlib, json, os, signal, sys

import torch

from headwater.cli.shell import guarded
from headwater.train.distributed import World
from headwater.train.loop import Trainer

RANK, folder = int(os.environ["RANK"]), sys.argv[3]
main = importlib.import_module(f"headwater.cli.{sys.argv[1]}").main
STEP = Trainer._step
# One group of processes for all jobs: starting is what takes time.
CLOSE, World.close = World.close, lambda world: None


def refuse(event, arguments):
    writes = event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if (writes or event in ("os.mkdir", "os.rename", "os.remove")) and folder in str(arguments[0]):
        print(f"rank {RANK} writes: {event} {arguments}", file=sys.stderr, flush=True)
        os._exit(9)


if RANK:
    sys.addaudithook(refuse)


class Died(Exception):
    pass


def run(arguments, stop=None, die=None):
    def step(trainer, window):
        if trainer.standing.step == stop and RANK:
            os.kill(os.getpid(), signal.SIGTERM)
        if trainer.standing.step == die:
            raise Died
        STEP(trainer, window)

    Trainer._step = step
    try:
        return guarded(main, arguments)
    except Died:
        return "died"
    finally:
        # The next command is given when this one has ended, on both ranks.
        World(torch.device("cpu")).barrier()


codes = [run(**job) for job in json.loads(sys.argv[2])]
CLOSE(World(torch.device("cpu")))
print(f"rank {RANK} codes {json.dumps(codes)}", flush=True)
"""


def two_processes(
    verb: str,
    jobs: Mapping[str, Sequence[str]],
    folder: Path,
    disturbed: str | None = None,
    ways: Sequence[Mapping[str, int]] = (),
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Run `headwater VERB` for each job under two processes, started once; only the first may write, and every job must end as it should.

    disturbed, ways: this job is then started once more for each way, always in the folder `again`; `{"stop": n}` asks the second process to stop at step n,
    `{"die": n}` lets both die there. Returns the folder of all run folders, called after their jobs, and what was said.
    """
    driver, runs = folder / "driver.py", folder / "runs"
    driver.write_text(DRIVER, encoding="utf-8")
    runs.mkdir()
    plan = [{"arguments": [*jobs[name], "-p", str(runs / name)]} for name in jobs]
    if disturbed is not None:
        plan += [{"arguments": [*jobs[disturbed], "-p", str(runs / "again")], **way} for way in ways]
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        [sys.executable, *torchrun, str(driver), verb, json.dumps(plan), str(runs)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    codes = [*(0 for _ in jobs), *(1 if "stop" in way else "died" if "die" in way else 0 for way in ways)]
    for rank in (0, 1):
        assert f"rank {rank} codes {json.dumps(codes)}" in done.stdout, done.stdout + done.stderr
    return runs, done
