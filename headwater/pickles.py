"""Weight files that are pickles, read without running anything that they say.

PyTorch's own restricted reader does the work. It knows tensors and plain containers; the few other classes that official files hold are stood in for by
classes without behaviour. Whatever else a file asks for, it is refused, by name.
"""

from __future__ import annotations

import mmap
import pickletools
import re
import threading
import warnings
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from headwater.errors import DataError

# PyTorch makes a bytearray of any size that a file names: a kilobyte could take all memory. No weights need one.
_GREEDY = re.compile(rb"c(?:builtins|__builtin__)\nbytearray\n")
# PyTorch keeps the list of allowed names for the whole process.
_LOCK = threading.Lock()


class StandIn:
    """In the place of an object of somebody's class: what was stored in it, as plain attributes; how it was made is ignored."""

    def __new__(cls, *args: Any, **kwargs: Any) -> StandIn:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        # A stored `__setstate__` would be called in the place of this one.
        if isinstance(state, dict):
            self.__dict__.update(
                {key: value for key, value in state.items() if isinstance(key, str) and not key.startswith("__")}
            )


class _Mapping:
    """In the place of `collections.defaultdict`: a plain dict, whatever it was to hold where nothing is."""

    def __new__(cls, *args: Any) -> dict[Any, Any]:  # type: ignore[misc]
        return {}


# Python's own containers and numbers, which a few files (omegaconf's, of protocol 2) name as classes, under the names of Python 3 and 2.
_OWN: dict[str, type] = {
    f"{module}.{name}": kind
    for module in ("builtins", "__builtin__")
    for name, kind in {
        "dict": dict,
        "list": list,
        "int": int,
        "long": int,
        "str": str,
        "unicode": str,
        "bool": bool,
    }.items()
} | {"collections.defaultdict": _Mapping}


def read_pickle(path: str | Path, stand_ins: Collection[str] = ()) -> Any:
    """What `torch.save` wrote, in its present or its older format, on the CPU.

    Args:
        stand_ins: dotted names of classes that the file may hold, besides `argparse.Namespace`; their objects become `StandIn`s.

    Raises:
        DataError: there is no such file; it asks for something else; it is broken, or no such file at all. Nothing in it was run.

    Safe to call from several threads; other threads that call `torch.load` meanwhile may meet stand-ins for the same names.
    """
    allowed = [(type(name.rpartition(".")[2], (StandIn,), {}), name) for name in {"argparse.Namespace", *stand_ins}]
    allowed += [(kind, name) for name, kind in _OWN.items()]
    try:
        with (
            open(path, "rb") as file,
            _LOCK,
            warnings.catch_warnings(),
            torch.serialization.safe_globals(allowed),  # type: ignore[arg-type]
        ):
            warnings.simplefilter("ignore")
            _plain_archive(path)
            _no_bytearray(path)
            return torch.load(file, map_location="cpu", weights_only=True)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror or error})") from None
    except Exception as error:  # whatever the bytes of a foreign file lead to
        asked = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", str(error))
        if asked:
            raise _asks(path, asked[1]) from None
        raise DataError(f"{path}: not a whole weight file of PyTorch ({_said(error)}); nothing in it was run") from None


def _no_bytearray(path: str | Path) -> None:
    """`DataError` for a file that asks for memory by the number."""
    if not Path(path).stat().st_size:
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if _GREEDY.search(content) is not None:
            raise _asks(path, "bytearray")


def _asks(path: str | Path, what: str) -> DataError:
    return DataError(
        f"{path} asks for {what!r}, which no weight file that Headwater reads needs; it was not read, nothing in it was run"
    )


def _said(error: Exception) -> str:
    """What PyTorch found. Not its advice, which is to read the file in the way that runs what it says."""
    text = str(error).strip()
    found = re.search(r"WeightsUnpickler error:\s*(.+)", text)
    line = found[1] if found else "".join(text.splitlines()[-1:]).partition(". In PyTorch ")[0]
    if number := re.search(r"Unsupported operand (\d+)", line):
        names = {operation.code: operation.name for operation in pickletools.opcodes}
        line = f"it asks for {names.get(chr(int(number[1])), number[1])}, an instruction that no weights need"
    return ": ".join([type(error).__name__, *([line] if line else [])])


def _plain_archive(path: str | Path) -> None:
    """`DataError` for a zip archive that PyTorch would not have written: packed or overlapping members (zip bombs), or names that lead out of it."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":  # an older format, or no such file at all
            return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    packed = [item.filename for item in members if item.compress_type != zipfile.ZIP_STORED]
    outside = [item.filename for item in members if item.filename.startswith("/") or ".." in item.filename.split("/")]
    if packed or outside or sum(item.file_size for item in members) > Path(path).stat().st_size:
        why = f"{outside[0]!r} leads out of it" if outside else "it would unpack to more than it is"
        raise DataError(f"{path}: no archive that PyTorch wrote: {why}; it was not read, nothing in it was run")
