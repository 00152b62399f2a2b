"""Foreign weight files are read, and nothing that they say is ever run."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from headwater.errors import DataError
from headwater.fairseq import read_fairseq
from headwater.mam import s3prl as mam_s3prl
from headwater.pickles import StandIn, read_pickle
from headwater.pretrained.s3prl import read_s3prl

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


def legacy(body: bytes, *, magic: int = 0x1950A86A20F9469CFC6C, protocol: bytes = b"\x02") -> bytes:
    """A file of the older format with this content, without storages."""
    before = b"".join(pickle.dumps(value, protocol=2) for value in (magic, 1001, {}))
    return before + b"\x80" + protocol + body + b"." + pickle.dumps([], protocol=2)


def saved(value: Any, *, protocol: int = 2, packed: bool = False, member: str | None = None) -> bytes:
    """What `torch.save` writes; with its members packed, or with another one."""
    source, made = io.BytesIO(), io.BytesIO()
    torch.save(value, source, pickle_protocol=protocol)
    if not packed and member is None:
        return source.getvalue()
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED if packed else 0) as archive:
        for item in whole.infolist():
            archive.writestr(item.filename, whole.read(item))
        if member is not None:
            archive.writestr(member, b"x")
    return made.getvalue()


COMMAND = text(f"touch {WRITTEN}")
STATEMENT = f"__import__('pathlib').Path({WRITTEN!r}).touch()"
SYSTEM = b"cos\nsystem\n" + COMMAND + b"\x85R"
INNER = legacy(SYSTEM)


class Reduced:
    """Pickles as a call that it makes up for the protocol in use."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return exec, (STATEMENT,)


class Sized:
    """Pickles as a kilobyte that becomes many."""

    def __reduce__(self) -> Any:
        return bytearray, (2 * 10**8,)


# Every one would write a file if anything of it ran -> what is said of it.
HELD = {"weight": torch.zeros(3000), "Optimizer": Reduced()}
ATTACKS: dict[str, tuple[bytes, str]] = {
    "os.system": (legacy(SYSTEM), "asks for 'os.system'"),
    "builtins.eval": (legacy(b"cbuiltins\neval\n" + text(STATEMENT) + b"\x85R"), "asks for 'eval'"),
    "nested globals": (
        legacy(b"ctorch\nserialization.os.system\n" + COMMAND + b"\x85R", protocol=b"\x04"),
        "asks for 'torch.serialization.os.system'",
    ),
    "__reduce_ex__": (saved(HELD), "asks for 'exec'"),
    "a pickle in the pickle": (
        legacy(b"ctorch.storage\n_load_from_bytes\nB" + len(INNER).to_bytes(4, "little") + INNER + b"\x85R"),
        "asks for 'torch.storage._load_from_bytes'",
    ),
    "a program": (saved(HELD, member="archive/constants.pkl"), "TorchScript archives"),
    "memory by the number": (saved({"m": Sized()}), "asks for 'bytearray'"),
    "memory by the number, in Python 2's words": (
        legacy(b"c__builtin__\nbytearray\nJ\x00\x00\x00\x40\x85R"),
        "asks for 'bytearray'",
    ),
    "a zip bomb": (saved(HELD, packed=True), "it would unpack to more than it is"),
    "a path out of the archive": (
        saved(HELD, member="archive/../../outside"),
        "'archive/../../outside' leads out of it",
    ),
    "a wrong magic number": (legacy(SYSTEM, magic=0xBAD), "Invalid magic number"),
    "cut": (saved(HELD)[:-2000], "not a whole weight file of PyTorch"),
}
READERS: dict[str, Callable[[Path], Any]] = {
    "S3PRL": mam_s3prl.read,
    "S3PRL, other families": read_s3prl,
    "fairseq": read_fairseq,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_with_the_name_of_the_file_and_of_what_it_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str, reader: str
) -> None:
    content, says = ATTACKS[attack]
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("states.ckpt").write_bytes(content)
    with pytest.raises(DataError, match=rf"states\.ckpt.*{re.escape(says)}.*nothing in it was run") as refused:
        READERS[reader](folder / "states.ckpt")
    assert "weights_only` set to" not in str(refused.value), "PyTorch's advice how to run it all the same"
    assert [file.name for file in tmp_path.rglob("*")] == ["here", "states.ckpt"]


def test_these_attacks_are_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read without care, each writes its file: a reader that runs them would be seen."""
    monkeypatch.chdir(tmp_path)
    for attack in ("os.system", "builtins.eval", "nested globals", "__reduce_ex__", "a pickle in the pickle"):
        with contextlib.suppress(Exception):
            torch.load(io.BytesIO(ATTACKS[attack][0]), weights_only=False)
        assert Path(WRITTEN).exists(), attack
        Path(WRITTEN).unlink()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param(b"cposix\nsystem\n" + COMMAND + b"\x85R", "'posix.system'", id="reduce"),
        pytest.param(b"(" + COMMAND + b"iposix\nsystem\n", "it asks for INST", id="inst"),
        pytest.param(b"(cposix\nsystem\n" + COMMAND + b"o", "'posix.system'", id="obj"),
        pytest.param(text("posix") + text("system") + b"\x93", "it asks for STACK_GLOBAL", id="stack global"),
        pytest.param(b"\x95" + bytes(8) + SYSTEM, "it asks for FRAME", id="protocol 4"),
    ],
)
def test_no_opcode_leads_to_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "states.ckpt"
    path.write_bytes(legacy(body))
    with pytest.raises(DataError, match=f"{says}.*nothing in it was run"):
        read_pickle(path, {SCHEDULE})
    assert not Path(WRITTEN).exists()


@pytest.mark.parametrize("made", [b"\x85R", b"\x81"], ids=["called", "made of text"])
def test_a_stand_in_for_a_class_takes_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    Path("states.ckpt").write_bytes(legacy(b"coptimizers\nWarmupLinearSchedule\n" + COMMAND + made))
    read = read_pickle("states.ckpt", {SCHEDULE})
    assert isinstance(read, StandIn) and vars(read) == {} and not Path(WRITTEN).exists()


@pytest.mark.parametrize("arguments", [(), (1,), ("a", len, {"b": print})])
def test_a_stand_in_is_inert_however_it_is_made(arguments: tuple[Any, ...]) -> None:
    assert vars(StandIn(*arguments)) == {} and vars(StandIn.__new__(StandIn, *arguments)) == {}


def test_a_stand_in_keeps_no_state_that_could_be_called() -> None:
    called: list[Any] = []
    stand_in = StandIn()
    for state in ({"__setstate__": called.append, "__class__": dict, 3: "x", "kept": 1}, {"more": 2}, [1], None, "x"):
        stand_in.__setstate__(state)
    assert not called and type(stand_in) is StandIn and vars(stand_in) == {"kept": 1, "more": 2}


def test_pythons_own_containers_are_read_under_their_old_names(tmp_path: Path) -> None:
    """As omegaconf's files of protocol 2 have them; torch.save writes them as classes when they are values."""
    body = (
        b"}("
        + text("kinds")
        + b"("
        + b"".join(b"c__builtin__\n" + name + b"\n" for name in (b"dict", b"list", b"long", b"unicode", b"bool"))
        + b"t"
        + text("held")
        + b"ccollections\ndefaultdict\n(c__builtin__\ndict\ntR("
        + text("a")
        + b"K\x01uu"
    )
    path = tmp_path / "states.ckpt"
    path.write_bytes(legacy(body))
    read = read_pickle(path)
    assert read == {"kinds": (dict, list, int, str, bool), "held": {"a": 1}} and type(read["held"]) is dict


@pytest.mark.parametrize(
    ("asked", "body"),
    [
        ("eval", b"c__builtin__\neval\n" + text("1") + b"\x85R"),
        ("exec", b"cbuiltins\nexec\n" + text("1") + b"\x85R"),
        ("getattr", b"c__builtin__\ngetattr\n"),
        ("type", b"cbuiltins\ntype\n"),
        ("system", b"cos\nsystem\n" + text("true") + b"\x85R"),
        ("Popen", b"csubprocess\nPopen\n" + text("true") + b"\x85R"),
        ("dictconfig.os.system", b"comegaconf\ndictconfig.os.system\n"),
        ("omegaconf.dictconfig.DictConfig.__class__", b"comegaconf.dictconfig\nDictConfig.__class__\n"),
        ("fairseq.utils.import_user_module", b"cfairseq.utils\nimport_user_module\n" + text("x") + b"\x85R"),
        ("torch.hub.load", b"ctorch.hub\nload\n" + text("a/b") + text("c") + b"\x86R"),
    ],
)
def test_what_a_checkpoint_of_fairseq_may_hold_opens_no_other_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, body: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(legacy(b"}(" + text("cfg") + body + b"u"))
    with pytest.raises(
        DataError, match=rf"checkpoint\.pt asks for '(\w+\.)*{re.escape(asked)}'.*nothing in it was run"
    ):
        read_fairseq(path)


@pytest.mark.parametrize("made_by", ["__setstate__", "a call"])
def test_stand_ins_for_omegaconf_run_nothing_that_their_state_names(tmp_path: Path, made_by: str) -> None:
    from headwater.fairseq import STAND_INS, plain

    # DictConfig, with a state that has methods of Python's own in the place of its own.
    state = b"}(" + text("__setstate__") + b"cbuiltins\nlist\n" + text("_content") + b"}(" + text("a") + b"K\x01uu"
    made = b"comegaconf.dictconfig\nDictConfig\n" + (b")\x81" if made_by == "__setstate__" else text("x") + b"\x85R")
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(legacy(made + state + b"b"))
    read = read_pickle(path, STAND_INS)
    assert isinstance(read, StandIn) and "__setstate__" not in vars(read)
    assert plain(read, path) == {"a": 1}


def test_a_name_from_the_root_leads_out_of_an_archive_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "states.ckpt"
    path.write_bytes(saved({"weight": torch.ones(3)}, member="/outside"))
    with pytest.raises(DataError, match=r"states\.ckpt: no archive that PyTorch wrote: '/outside' leads out of it"):
        read_pickle(path)
    path.write_bytes(saved({"weight": torch.ones(3)}, member="archive/inside"))
    assert torch.equal(read_pickle(path)["weight"], torch.ones(3))


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
