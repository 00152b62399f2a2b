"""Files that are whole or not there, under several processes and machines on one file system."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

TEMPORARY = ".tmp"
ABANDONED = 3600.0  # seconds after which a temporary file is of nobody who lives
_UMASK = os.umask(0)
os.umask(_UMASK)


def write_atomically(path: Path, content: bytes, *, essential: bool = True) -> bool:
    """Write to a temporary name in the same folder, flush, rename, flush the folder. Whether that went well; raises `OSError` where it is `essential`.

    The temporary name is nobody else's, on other machines either. A write that is not essential costs no flush.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=TEMPORARY, dir=path.parent)
        with open(number, "wb") as file:
            file.write(content)
            file.flush()
            if essential:
                os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, path)
        if essential:
            _flush_folder(path.parent)
        return True
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
        if essential or not isinstance(error, OSError):
            raise
        return False


def sweep(folder: Path) -> None:
    """Remove what writers that were killed left behind."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.startswith(".") and entry.name.endswith(TEMPORARY):
                with suppress(OSError):
                    if time.time() - entry.stat().st_mtime > ABANDONED:
                        os.unlink(entry.path)


def _flush_folder(folder: Path) -> None:
    """So that the name, too, outlives a power cut; some file systems know no such thing."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
