"""Foreign weight files are read, and nothing that they say is ever run."""

from __future__ import annotations

import argparse
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from headwater.errors import DataError
from headwater.pickles import StandIn, read_pickle

SCHEDULE = "optimizers.WarmupLinearSchedule"
formats = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


@pytest.fixture()
def schedule(monkeypatch: pytest.MonkeyPatch) -> type:
    """A class that only the writer of the file has."""
    module = ModuleType("optimizers")
    made = type("WarmupLinearSchedule", (), {"__module__": "optimizers"})
    module.WarmupLinearSchedule = made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "optimizers", module)
    return made


def save(path: Path, value: Any, zipped: bool) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


@formats
def test_weights_and_settings_are_read_with_stand_ins_for_named_classes(
    tmp_path: Path, schedule: type, zipped: bool
) -> None:
    held = schedule()
    held.warmup, held.t_total = 0.07, 1000
    value = {
        "Transformer": {"weight": torch.arange(6.0).view(2, 3)},
        "Optimizer": {"param_groups": [{"schedule": held, "lr": 2e-4}]},
        "Args": argparse.Namespace(seed=7, config=None),
    }
    read = read_pickle(save(tmp_path / "states.ckpt", value, zipped), {SCHEDULE})
    assert torch.equal(read["Transformer"]["weight"], value["Transformer"]["weight"])  # type: ignore[call-overload]
    stand_in = read["Optimizer"]["param_groups"][0]["schedule"]
    assert isinstance(stand_in, StandIn) and vars(stand_in) == {"warmup": 0.07, "t_total": 1000}
    assert vars(read["Args"]) == {"seed": 7, "config": None}


@formats
def test_a_class_that_was_not_named_is_refused_by_name(tmp_path: Path, schedule: type, zipped: bool) -> None:
    path = save(tmp_path / "states.ckpt", {"Optimizer": [schedule()]}, zipped)
    with pytest.raises(
        DataError, match=r"states\.ckpt asks for 'optimizers\.WarmupLinearSchedule'.*nothing in it was run"
    ):
        read_pickle(path)


WRITTEN = "written.txt"
NESTINGS: list[Callable[[Any], Any]] = [
    lambda call: call,
    lambda call: {"Optimizer": {"state": {0: [call]}}},
    lambda call: argparse.Namespace(a=call),
]


@formats
@pytest.mark.parametrize("nesting", NESTINGS, ids=["at the top", "in the optimiser", "in a namespace"])
@pytest.mark.parametrize(
    ("asked", "function", "arguments"),
    [
        ("posix.system", os.system, (f"touch {WRITTEN}",)),
        ("exec", exec, (f"open({WRITTEN!r}, 'w')",)),
        ("eval", eval, (f"open({WRITTEN!r}, 'w')",)),
        ("open", open, (WRITTEN, "w")),
        ("getattr", getattr, ("text", "upper")),
        ("load", torch.load, (WRITTEN,)),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="the name of os.system is that of a POSIX system")
def test_no_function_is_called(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    nesting: Callable[[Any], Any],
    zipped: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "states.ckpt", nesting(Call(function, *arguments)), zipped)
    with pytest.raises(DataError, match=rf"asks for '(\w+\.)*{asked}'"):
        read_pickle(path, {SCHEDULE})
    assert not Path(WRITTEN).exists()


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


COMMAND = text(f"touch {WRITTEN}")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"cposix\nsystem\n" + COMMAND + b"\x85R", id="reduce"),
        pytest.param(b"(" + COMMAND + b"iposix\nsystem\n", id="inst"),
        pytest.param(b"(cposix\nsystem\n" + COMMAND + b"o", id="obj"),
        pytest.param(b"\x8c\x05posix\x8c\x06system\x93" + COMMAND + b"\x85R", id="stack global"),
        pytest.param(b"coptimizers\nWarmupLinearSchedule\n" + COMMAND + b"\x85R", id="a stand-in, called"),
        pytest.param(b"coptimizers\nWarmupLinearSchedule\n" + COMMAND + b"\x81", id="a stand-in, made of text"),
    ],
)
def test_no_opcode_leads_to_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "states.ckpt"
    path.write_bytes(b"\x80\x02" + body + b".")
    with pytest.raises(DataError, match="nothing in it was run"):
        read_pickle(path, {SCHEDULE})
    assert not Path(WRITTEN).exists()


@pytest.mark.parametrize("arguments", [(), (1,), ("a", len, {"b": print})])
def test_a_stand_in_is_inert_however_it_is_made(arguments: tuple[Any, ...]) -> None:
    assert vars(StandIn(*arguments)) == {} and vars(StandIn.__new__(StandIn, *arguments)) == {}


def test_a_stand_in_keeps_no_state_that_could_be_called() -> None:
    called: list[Any] = []
    stand_in = StandIn()
    for state in ({"__setstate__": called.append, "__class__": dict, 3: "x", "kept": 1}, {"more": 2}, [1], None, "x"):
        stand_in.__setstate__(state)
    assert not called and type(stand_in) is StandIn and vars(stand_in) == {"kept": 1, "more": 2}


@formats
def test_a_cut_or_changed_file_is_an_error_that_names_it(tmp_path: Path, zipped: bool) -> None:
    path = save(tmp_path / "states.ckpt", {"weight": torch.randn(50)}, zipped)
    whole = path.read_bytes()
    for size in (0, 1, 7, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"states\.ckpt"):
            read_pickle(path)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        changed = bytearray(whole)
        for position in torch.randint(len(whole), (5,), generator=generator).tolist():
            changed[position] ^= 255
        path.write_bytes(changed)
        try:
            read_pickle(path)
        except DataError as error:
            assert "states.ckpt" in str(error)


@pytest.mark.parametrize("content", [b"", b"hello, this is text\n" * 9, b"RIFF\x00\x00\x00\x00WAVEfmt ", bytes(300)])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.bin"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"other\.bin: not a whole weight file"):
        read_pickle(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.ckpt: no such file"):
        read_pickle(tmp_path / "none.ckpt")
    with pytest.raises(DataError, match="not readable"):
        read_pickle(tmp_path)


def test_nothing_stays_allowed_afterwards(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    path = save(tmp_path / "states.ckpt", argparse.Namespace(a=1), True)
    assert isinstance(read_pickle(path, {SCHEDULE}), StandIn)
    with pytest.raises(DataError):
        read_pickle(save(tmp_path / "bad.ckpt", Call(os.system, "true"), True))
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
