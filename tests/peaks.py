"""How much memory commands take, for tests: in a process of their own, as a peak is of all that a process ever did."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from conftest import ROOT

_SCRIPT = """
import json, sys
from headwater.cli.main import main
from headwater.cli.shell import guarded
from headwater.speed.machine import forget_peak_memory, peak_memory
peaks = []
for words in json.loads(sys.argv[1]):
    forget_peak_memory()
    assert guarded(main, words) == 0
    peaks.append(peak_memory())
open(sys.argv[2], "w").write(json.dumps(peaks))
"""


def peaks(commands: Sequence[Sequence[object]], folder: Path) -> list[int]:
    """Bytes that one fresh process has at its peak during each of some commands of `headwater`, one after the other; the first of them warms it up."""
    words = json.dumps([[str(word) for word in command] for command in commands])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", _SCRIPT, words, str(folder / "peaks.json")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found: list[int] = json.loads((folder / "peaks.json").read_text())
    return found
