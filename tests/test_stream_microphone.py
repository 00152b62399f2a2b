"""`--stream microphone`, by a sounddevice of our own: Ctrl-C ends a recording and loses nothing of it, and what the device lost is said."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from separation_tasks import task_of

from headwater.cli.stream import stream
from headwater.errors import DataError, UsageError

RATE = 8000
CAUSAL = ("task.net.causal=true", "task.net.norm=cumulative", "task.loss=snr30", "task.rescale=unchanged")


class Microphone:
    """Plays some blocks as soon as it is switched on; the third of them comes after an overflow."""

    def __init__(self, blocks: list[np.ndarray], then: Callable[[], None]) -> None:
        self.blocks, self.then, self.closed = blocks, then, False
        self.PortAudioError = OSError

    def InputStream(self, *, callback: Callable[..., None], blocksize: int, **settings: Any) -> Microphone:
        self.callback = callback
        assert settings == {"samplerate": RATE, "channels": 1, "dtype": "float32"} and blocksize == len(self.blocks[0])
        return self

    def __enter__(self) -> Microphone:
        for number, block in enumerate(self.blocks):
            self.callback(block[:, None], len(block), None, SimpleNamespace(input_overflow=number == 2))
        self.then()
        return self

    def __exit__(self, *reason: object) -> None:
        self.closed = True


@pytest.fixture()
def parts(monkeypatch: pytest.MonkeyPatch) -> Any:
    built, _ = task_of("separation_convtasnet", *CAUSAL)
    built.restore({})
    return SimpleNamespace(task=built, probe=SimpleNamespace(head=built.system), device=torch.device("cpu"))


def blocks(count: int) -> list[np.ndarray]:
    return [0.1 * np.random.default_rng(n).standard_normal(RATE // 10).astype(np.float32) for n in range(count)]


@pytest.fixture()
def keyboard() -> Iterator[None]:
    """Ctrl-C interrupts, as it does not in processes that a shell has put into the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_while_an_answer_is_computed_keeps_the_recording(
    presses: int,
    keyboard: None,
    parts: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    device = Microphone(blocks(8), lambda: None)
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    made = parts.task.stream(parts.probe.head)
    expected = torch.cat([made.push(torch.from_numpy(np.concatenate(blocks(8)))), made.finish()], 1)
    made = parts.task.stream(parts.probe.head)
    pushes: list[int] = []

    class Interrupted:
        latency = made.latency
        finish = staticmethod(made.finish)

        @staticmethod
        def push(block: torch.Tensor) -> torch.Tensor:
            pushes.append(len(block))
            answer: torch.Tensor = made.push(block)
            if 3 <= len(pushes) < 3 + presses:
                signal.raise_signal(signal.SIGINT)
            return answer

    monkeypatch.setattr(parts.task, "stream", lambda head: Interrupted())
    try:
        taken = stream(parts, "microphone", tmp_path / "out")
    except KeyboardInterrupt:  # which would end all tests
        pytest.fail("Ctrl-C ends more than the recording")
    # What was recorded when Ctrl-C came first is all answered; a second one ends that, too, and costs the block that it meets.
    assert taken == len(pushes) * RATE // 10 and len(pushes) == (8 if presses == 1 else 4)
    answers = [soundfile.read(tmp_path / "out" / f"source{number}.wav")[0] for number in (1, 2)]
    whole = taken if presses == 1 else taken - RATE // 10
    for answer, one in zip(answers, expected.numpy(), strict=True):
        assert whole <= len(answer) <= taken
        np.testing.assert_allclose(answer[: whole - 16], one[: whole - 16], atol=1.1 / 32768)
    assert device.closed and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert "lost 1 times" in capsys.readouterr().err


def test_ctrl_c_before_any_sound_leaves_no_file(
    parts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "sounddevice", Microphone(blocks(1), interrupt))
    with pytest.raises(DataError, match="microphone: no samples came in"):
        stream(parts, "microphone", tmp_path / "out")
    assert not (tmp_path / "out").exists() and "lost" not in capsys.readouterr().err


def test_a_device_that_fails_is_said(parts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError("no input device")

    monkeypatch.setitem(sys.modules, "sounddevice", Microphone(blocks(1), fail))
    with pytest.raises(UsageError, match="no sound from the microphone: no input device"):
        stream(parts, "microphone", tmp_path / "out")
