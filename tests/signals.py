"""Runs on signals, for tests: tones and mixtures on disk, the command line of `TonesTask`, what a run found, and a run that is interrupted."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from headwater.train.loop import Trainer

PLUGIN = Path(__file__).with_name("tones_task.py")
RATE = 16000
STEPS = "runner.total_steps=6,,runner.eval_step=3,,runner.save_step=2,,batch.size=3,,optimizer.lr=0.02"


def make_mixtures(folder: Path, rate: int = RATE, seconds: float = 0.5) -> Path:
    """Tones of four speakers, of unequal lengths, and a list of mixtures of two."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(8):
        generator = np.random.default_rng(number)
        size = int(rate * seconds * generator.uniform(0.8, 1.4))
        tone = 0.2 * np.sin(2 * np.pi * 110 * (1 + number) * np.arange(size) / rate)
        soundfile.write(folder / f"tone{number}.wav", tone + 0.01 * generator.standard_normal(size), rate)
    splits = ["train"] * 7 + ["dev"] * 2 + ["test"] * 3
    with (folder / "mixtures.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "split", "path1", "path2", "gain1", "gain2", "speaker1", "speaker2"])
        for number, split in enumerate(splits):
            one, two = number % 8, (3 * number + 5) % 8
            writer.writerow(
                [
                    f"mix{number}",
                    split,
                    f"tone{one}.wav",
                    f"tone{two}.wav",
                    1 + number / 50,
                    0.4,
                    f"s{one % 4}",
                    f"s{two % 4}",
                ]
            )
    return folder / "mixtures.csv"


def tones(folder: Path, *sizes: int, rate: int = RATE) -> list[Path]:
    files = []
    for number, size in enumerate(sizes):
        wav = np.random.default_rng(number).uniform(-0.3, 0.3, size)
        soundfile.write(folder / f"{number}.wav", wav, rate, "FLOAT")
        files.append(folder / f"{number}.wav")
    return files


def words(data: Path, upstream: str = "fbank", *settings: str) -> list[str]:
    task = ["-d", "TonesTask", "--plugin", str(PLUGIN), "--data", str(data)]
    return ["run", "-u", upstream, *task, "-o", ",,".join([STEPS, *settings])]


def result(folder: str | Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))
    return content


def answer(folder: str) -> dict[str, Any]:
    """What a run found, to the last bit."""
    files = [*sorted(Path(folder, "scores").iterdir()), Path(folder, "model.safetensors")]
    found = {key: result(folder)[key] for key in ("metrics", "breakdown", "history", "best_step")}
    return {**found, **{file.name: file.read_bytes() for file in files}}


def die_at(monkeypatch: pytest.MonkeyPatch, number: int) -> Callable[[], None]:
    """Training is interrupted at a step, until what is returned is called."""
    step = Trainer._step

    def dies(trainer: Any, *window: Any) -> Any:
        if trainer.standing.step == number:
            raise KeyboardInterrupt
        return step(trainer, *window)

    monkeypatch.setattr(Trainer, "_step", dies)
    return lambda: monkeypatch.setattr(Trainer, "_step", step)
