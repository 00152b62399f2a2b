"""Files that are whole or not there: written to a temporary name, flushed, renamed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from headwater.errors import HeadwaterError

if TYPE_CHECKING:
    from headwater.metrics.rows import Row


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file as a whole. Raises as `write_chunks` does."""
    write_chunks(path, [content])


def write_chunks(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file as a whole, a piece at a time.

    `HeadwaterError` where it cannot be written (a full disk, a read-only folder); what stood there before stays then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise HeadwaterError(
            f"{path}: cannot be written ({error.strerror}); free some space or choose another place, then run the same command again"
        ) from None


@contextmanager
def all_or_none(folder: Path) -> Iterator[Path]:
    """Where to write files that belong together: they move to `folder` at the end, over those of the same names. Where anything is raised, none does, and
    nothing is left behind.

    `HeadwaterError` where the folder cannot be written to.
    """
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = Path(mkdtemp(prefix=".", suffix=".tmp", dir=folder))
    except OSError as error:
        raise HeadwaterError(f"{folder}: cannot be written to ({error.strerror}); choose another place") from None
    try:
        yield place
        files = sorted(place.iterdir())
        if taken := next((file.name for file in files if (folder / file.name).is_dir()), None):
            raise HeadwaterError(f"{folder / taken}: cannot be written, as it is a folder; choose another place")
        for file in files:
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(place, ignore_errors=True)
        if new:
            with suppress(OSError):
                folder.rmdir()  # which it refuses where anything is in it


def write_json(path: Path, value: Any) -> None:
    """Strict JSON: NaN and infinity are an error of ours, not a file that others cannot read."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """JSON lines."""
    from headwater.metrics.trials import TrialRows  # numpy, which listing names does without

    if isinstance(rows, TrialRows):
        write_chunks(path, rows.json_lines())
    else:
        write_chunks(path, ((json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode() for row in rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows that `write_rows` wrote."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]
