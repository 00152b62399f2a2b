"""Writes that a full disk, a limit, a kill or a signal cuts short: words, nothing half-written, and a run that the same command goes on with."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from conftest import ROOT
from faults import OTHER, command, csv, whole

from headwater.results.events import Events


def numbers(folder: str = "result") -> object:
    result = json.loads(Path(folder, "result.json").read_text())
    return result["metrics"], [{key: point[key] for key in point} for point in result["history"]]


def test_a_disk_that_fills_at_any_write_leaves_nothing_half_written(
    place: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    place("csv", "run-speaker")
    sync = os.fsync
    for full_at in count(1):
        written = 0

        def fsync(number: int, full_at: int = full_at) -> None:
            nonlocal written
            written += 1
            if written >= full_at:
                raise OSError(28, "No space left on device")
            sync(number)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            said = command(*csv())
        if said.code == 0:
            break
        assert said.code == OTHER and "No space left" in said.err and "Traceback" not in said.err, said
        assert whole()
        if full_at == 1:
            assert not Path("result").exists()
        if full_at % 3 == 1:
            assert command(*csv()).code == 0
            assert numbers() == numbers("run-speaker")
            assert Path("result/report.html").is_file()
        shutil.rmtree("result", ignore_errors=True)
    assert full_at > 8


SCRIPT = """
import os, signal, sys
import matplotlib.figure, safetensors.torch, soundfile, soxr, torch  # once, not in every child
from transformers import get_scheduler
import headwater.results.plots, headwater.results.report, headwater.train.runner
import headwater.upstream.baseline.expert, headwater.downstream.speaker.expert
from headwater.cli.main import main
from headwater.cli.shell import guarded
arguments = sys.argv[2:]
for number in map(int, sys.argv[1].split(",")):
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        continue
    replace, left = os.replace, [number]
    def dying(source, target):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
    os.replace = dying
    os._exit(guarded(main, [*arguments, "-p", f"run-{number}"]))
"""


def process(*arguments: str, **more: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more
    )  # type: ignore[call-overload]


def test_a_process_killed_at_any_write_leaves_a_run_to_go_on_with(place: Callable[..., None]) -> None:
    place("csv", "run-speaker")
    writes = (1, 2, 3, 4, 6, 8)  # settings, identity, weights, checkpoint, scores, model
    _, err = (child := process("-c", SCRIPT, ",".join(map(str, writes)), *csv())).communicate(timeout=120)
    assert child.returncode == 0 and "Traceback" not in err, err
    for number in writes:
        run = f"run-{number}"
        assert not Path(run, "result.json").exists()
        said = command(*csv("-p", run))
        assert said.code == 0, (number, said)
        assert whole(run)
        assert numbers(run) == numbers("run-speaker")


def test_a_file_that_may_not_grow_ends_a_command_with_words(place: Callable[..., None]) -> None:
    place("csv")
    limit = 2500  # bytes: the settings fit, the weights of the head do not
    child = process(
        "-m", "headwater", *csv(), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit,) * 2)
    )
    out, err = child.communicate(timeout=120)
    assert child.returncode == OTHER, (out, err)
    assert "File too large" in err and "Traceback" not in err
    assert whole() and not Path("result/result.json").exists()
    assert command(*csv()).code == 0


def test_events_are_records_that_tensorboard_reads(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    events = Events(tmp_path)
    events.add_scalar("train/loss", 0.5, 7)
    events.close()
    content, found = events.path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        assert struct.unpack("<I", content[8:12])[0] == masked_crc32c(content[:8])
        record, content = content[12 : 12 + length], content[12 + length :]
        assert struct.unpack("<I", content[:4])[0] == masked_crc32c(record)
        content = content[4:]
        found.append(Event.FromString(record))
    assert found[0].file_version == "brain.Event:2"
    (value,) = found[1].summary.value
    assert (value.tag, value.simple_value, found[1].step) == ("train/loss", 0.5, 7)


def test_events_on_a_full_disk_end_a_run_with_words_and_do_not_hang(
    place: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    place("csv", "run-speaker")
    scalars = Events.add_scalar

    def add_scalar(events: Events, tag: str, value: float, step: int) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (events.path.stat().st_size, limits[1]))
        try:
            scalars(events, tag, value, step)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    with monkeypatch.context() as patch:
        patch.setattr(Events, "add_scalar", add_scalar)
        said = command(*csv())
    assert said.code == OTHER and "events" in said.err and "File too large" in said.err, said
    assert whole() and not Path("result/result.json").exists()
    assert command(*csv()).code == 0
    assert numbers() == numbers("run-speaker")


def test_sigterm_stops_between_steps_and_the_same_command_goes_on(place: Callable[..., None]) -> None:
    place("csv")
    long = csv("-o", "runner.total_steps=1000000,,runner.eval_step=1000000,,runner.save_step=20")
    child = process("-m", "headwater", *long)
    until = time.monotonic() + 60
    while not Path("result/checkpoint/last.pt").exists() and time.monotonic() < until:
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    out, err = child.communicate(timeout=60)
    assert child.returncode == OTHER, (out, err)
    assert "stopped at step" in err and "the same command" in err and "Traceback" not in err
    assert whole()
