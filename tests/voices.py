"""Small voices and small runs of vocoders, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from conftest import Answer

RATE = 16000
STEPS = "runner.total_steps=4,,runner.eval_step=2,,runner.save_step=1,,runner.log_step=1,,batch.size=3"
SMALL = f"{STEPS},,task.crop_seconds=0.2,,task.model.dim=16,,task.model.blocks=1"
SMALL_NSF = f"{STEPS},,task.crop_seconds=0.05,,task.model.channels=4,,task.model.blocks=1,,task.model.layers=2"


def voice(seconds: float, hertz: float, seed: int = 0) -> np.ndarray:
    """Overtones of a gliding F0, and a little noise."""
    time = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(hertz * (1 + 0.1 * np.sin(2 * np.pi * 2 * time))) / RATE
    tone = sum(np.sin(order * phase) / order for order in range(1, 12))
    return 0.1 * tone + 0.003 * np.random.default_rng(seed).standard_normal(len(time))


def words(corpus: Path, system: str, *settings: str) -> list[str]:
    """A small run of the probe or of a source-filter vocoder, but for its folder."""
    what = {"vocoder": ("mel", SMALL), "vocoder_nsf": ("nii_mel", SMALL_NSF)}[system]
    return ["run", "-u", what[0], "-d", system, "--data", str(corpus), "-o", ",,".join([what[1], *settings]), "-p"]


def result(folder: str | Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(folder, "result.json").read_text(encoding="utf-8"))
    return content


def done(answer: Answer) -> Answer:
    assert answer.code == 0, answer.err
    return answer
