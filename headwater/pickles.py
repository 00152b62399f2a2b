"""Weight files that are pickles, read without running anything that they say.

PyTorch's own restricted reader does the work. It knows tensors and plain containers; the few other classes that official files hold are stood in for by
classes without behaviour. Whatever else a file asks for, it is refused, by name.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from headwater.errors import DataError

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


def read_pickle(path: str | Path, stand_ins: Collection[str] = ()) -> Any:
    """What `torch.save` wrote, in its present or its older format, on the CPU.

    Args:
        stand_ins: dotted names of classes that the file may hold, besides `argparse.Namespace`; their objects become `StandIn`s.

    Raises:
        DataError: there is no such file; it asks for something else; it is broken, or no such file at all. Nothing in it was run.

    Safe to call from several threads; other threads that call `torch.load` meanwhile may meet stand-ins for the same names.
    """
    allowed = [(type(name.rpartition(".")[2], (StandIn,), {}), name) for name in {"argparse.Namespace", *stand_ins}]
    try:
        with (
            open(path, "rb") as file,
            _LOCK,
            warnings.catch_warnings(),
            torch.serialization.safe_globals(allowed),  # type: ignore[arg-type]
        ):
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror or error})") from None
    except Exception as error:  # whatever the bytes of a foreign file lead to
        asked = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", str(error))
        if asked:
            raise DataError(
                f"{path} asks for {asked[1]!r}, which no weight file that Headwater reads needs; it was not read, nothing in it was run"
            ) from None
        why = [type(error).__name__, *str(error).strip().splitlines()[-1:]]
        raise DataError(
            f"{path}: not a whole weight file of PyTorch ({': '.join(why)}); nothing in it was run"
        ) from None
