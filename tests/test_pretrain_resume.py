"""A pretraining that was killed at any place and started again ends as one that nobody disturbed."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from types import ModuleType

from headwater.train.checkpoint import Checkpoint


def test_a_pretraining_killed_in_every_phase_ends_as_an_undisturbed_one(kill: ModuleType, tmp_path: Path) -> None:
    arguments = kill.commands(tmp_path / "corpus")["pretraining"]
    done, counts = kill.start(arguments, tmp_path / "undisturbed")
    assert done.returncode == 0, done.stderr
    assert set(counts) == {"training", "evaluation", "writing"}, "a phase has another name now; tell bench/kill.py"
    chance = random.Random(5)
    reached = [0]
    for phase in ("training", "writing", "evaluation"):
        # Early enough that a resumed run, which has less to do, comes by once more.
        done, _ = kill.start(
            arguments, tmp_path / "run", (phase, chance.randint(counts[phase] // 6, counts[phase] // 3))
        )
        assert done.returncode == -signal.SIGKILL, f"{phase}: {done.stderr}"
        assert not (tmp_path / "run" / "result.json").exists()
        state = Checkpoint(tmp_path / "run" / "checkpoint").load()
        reached.append(0 if state is None else state["standing"]["step"])
    assert reached == sorted(reached) and reached[-1] > 0, "the runs went on from what was saved"
    done, _ = kill.start(arguments, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert kill.differences(tmp_path / "run", tmp_path / "undisturbed") == []
    assert not list((tmp_path / "run").rglob(".*")), "what a killed process was writing is still there"
