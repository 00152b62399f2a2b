"""Long files from the command line: in flat memory, and in one order whatever a network says from window to window."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import Answer
from headwater.downstream.separation import systems
from mixture_corpora import RATE, make_list, voice
from peaks import peaks
from separation_tasks import AT_8K, TINY

Command = Callable[..., Answer]
SECONDS = 4.0  # of a window


@pytest.fixture()
def run(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of a tiny Conv-TasNet."""
    monkeypatch.setenv("HEADWATER_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("headwater.train.runner.illustrate", lambda *given, **named: None)
    data = make_list(tmp_path / "mixtures")
    steps = f"runner.total_steps=1,,runner.eval_step=1,,runner.save_step=1,,batch.size=2,,task.window_seconds={SECONDS}"
    line = ["run", "-u", "waveform", "-d", "separation_convtasnet", "--data", data, "-p", tmp_path / "run"]
    said = command(*line, "-o", f"{steps},,{AT_8K},,{TINY},,task.net.L=64")
    assert said.code == 0, said.err
    return tmp_path / "run"


def test_ten_minutes_are_separated_in_the_memory_of_three(run: Path, tmp_path: Path) -> None:
    sizes = {minutes: 60 * minutes * RATE for minutes in (3, 10)}
    for minutes, size in sizes.items():
        wav = 0.1 * np.random.default_rng(0).standard_normal(size)
        soundfile.write(tmp_path / f"{minutes}.wav", wav, RATE)
    line = ["run", "-m", "predict", "-e", run, "-o", "batch.size=2"]
    found = peaks([[*line, "--out", tmp_path / f"out{n}", tmp_path / f"{n}.wav"] for n in sizes], tmp_path)
    for minutes, size in sizes.items():
        for source in (1, 2):
            assert soundfile.info(tmp_path / f"out{minutes}" / f"{minutes}-source{source}.wav").frames == size
    # Seven minutes are 13 MB as float32, for the mixture and for each source.
    assert found[1] - found[0] < 10e6


def test_sources_keep_their_places_where_a_network_changes_them_from_window_to_window(
    run: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = torch.from_numpy(np.stack([voice(speaker, 0, 15 * RATE) for speaker in (0, 3)])).float()
    soundfile.write(tmp_path / "m.wav", sources.sum(0).numpy(), RATE, "FLOAT")
    turns: list[int] = []

    def moody(system: Any, output: Any, batch: Any) -> list[torch.Tensor]:
        """By bands, in another order and at another level each time."""
        made = []
        for wav in systems.alone(batch.inputs["mixture"], batch):
            hertz = torch.fft.rfftfreq(len(wav), 1 / RATE)
            low = torch.fft.irfft(torch.fft.rfft(wav) * (hertz < 800), len(wav))
            turns.append(len(turns))
            pair = (1 + len(turns) % 4) * torch.stack([0.01 * low, 300 * (wav - low)])
            made.append(pair.flip(0) if len(turns) % 2 else pair)
        return made

    monkeypatch.setattr(systems.FilterSystem, "estimates", moody)
    said = command("run", "-m", "predict", "-e", run, "--out", tmp_path / "out", tmp_path / "m.wav")
    assert said.code == 0, said.err
    assert len(turns) == 7
    found = np.stack([soundfile.read(tmp_path / "out" / f"m-source{number}.wav")[0] for number in (1, 2)])
    if np.abs(found[0] - sources[0].numpy()).max() > 0.05:
        found = found[::-1]
    # Filters ring where the sound begins and ends.
    np.testing.assert_allclose(found[:, 100:-100], sources.numpy()[:, 100:-100], atol=0.01)
