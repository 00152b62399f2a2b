"""Runs that fail: training that diverges, features that are no numbers, a broken checkpoint, a folder that is taken or read-only; and the code of an error."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from faults import FIRST, OTHER, USAGE, WRONG_DATA, Owned, command, csv, cut, train, tree, whole, with_nan
from filelock import FileLock

from headwater.errors import HeadwaterError


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("speaker_sid", "optimizer.name=SGD,,optimizer.lr=1e30"),
        ("speaker", "optimizer.name=SGD,,optimizer.lr=1e38"),
        ("phone", "optimizer.name=SGD,,optimizer.lr=1e38"),
        ("speaker_sid", "optimizer.name=SGD,,optimizer.lr=1e30,,runner.total_steps=1"),
    ],
)
def test_a_diverged_run_has_no_number(task: str, settings: str, place: Callable[..., None]) -> None:
    place("csv")
    said = command(*train(task, "csv", "-o", settings))
    assert said.code == OTHER, said
    assert "diverged" in said.err and "lower optimizer.lr" in said.err
    assert whole() and not Path("result/result.json").exists()


def test_nan_that_shows_in_training_leaves_a_folder_to_go_on_with(place: Callable[..., None]) -> None:
    place("csv")
    good = Path(FIRST["csv"]).read_bytes()
    with_nan(FIRST["csv"])
    said = command(*csv("--no-cache", "-o", "store.memory_gib=0"))
    assert said.code == WRONG_DATA and "spk00-00.wav" in said.err and "NaN" in said.err
    assert whole() and not Path("result/result.json").exists()
    Path(FIRST["csv"]).write_bytes(good)
    assert command(*csv("--no-cache", "-o", "store.memory_gib=0")).code == 0


@pytest.mark.parametrize("content", ["pickle", "text", "cut off"])
def test_a_broken_checkpoint_is_named_and_never_executed(content: str, place: Callable[..., None]) -> None:
    place("csv", "run-speaker")
    Path("run-speaker/result.json").unlink()
    last = Path("run-speaker/checkpoint/last.pt")
    if content == "pickle":
        torch.save({"standing": Owned()}, last)
    elif content == "text":
        last.write_text("no checkpoint")
    else:
        cut(str(last))
    said = command(*csv("-p", "run-speaker"))
    assert said.code == OTHER, said
    assert "last.pt" in said.err and "--fresh" in said.err and "Traceback" not in said.err
    assert not Path("owned").exists()
    assert whole("run-speaker")
    assert command(*csv("-p", "run-speaker", "--fresh")).code == 0


def test_two_processes_cannot_write_one_run(place: Callable[..., None]) -> None:
    place("csv")
    assert command(*csv()).code == 0
    Path("result/result.json").unlink()
    lock = FileLock("result/.lock")
    with lock:
        before = tree()
        said = command(*csv())
        assert said.code == USAGE and "another process" in said.err and "-n" in said.err
        assert tree() == before
    assert command(*csv()).code == 0


@contextlib.contextmanager
def powerless() -> Iterator[None]:
    """The rights of an ordinary user: root may write to read-only folders, so this thread lays its capabilities down."""
    if os.geteuid() != 0:
        yield
        return
    libc, header = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(0x20080522, 0)
    held, none = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, held) == 0
    none[:] = [0, *held[1:3], 0, *held[4:6]]  # (effective, permitted, inheritable) twice: only the effective ones go
    assert libc.capset(header, none) == 0
    try:
        yield
    finally:
        assert libc.capset(header, held) == 0


@pytest.mark.parametrize("where", ["locked", "locked/deep/run"])
def test_a_read_only_result_folder_is_refused(where: str, place: Callable[..., None]) -> None:
    place("csv")
    Path("locked").mkdir(mode=0o555)
    before = tree()
    with powerless():
        said = command(*csv("-p", where))
    assert said.code == USAGE, said
    assert "locked" in said.err and "-p" in said.err and "Traceback" not in said.err
    assert tree() == before


def test_the_errors_of_the_program_have_the_codes_of_the_commands() -> None:
    kinds = {kind.__name__: kind.exit_code for kind in (HeadwaterError, *HeadwaterError.__subclasses__())}
    assert kinds["HeadwaterError"] == OTHER
    assert kinds["UsageError"] == USAGE
    assert kinds["DataError"] == WRONG_DATA
