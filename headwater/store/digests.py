"""What a file holds, by sha256 of all its bytes: read once, and remembered for as long as nothing about the file changes."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from headwater.download import file_sha256
from headwater.errors import DataError
from headwater.progress import progress
from headwater.store.atomic import write_atomically

# A file that was written so short a time ago may be written again within the same tick of the file system's clock.
RACY_NS = 2_000_000_000
Stamp = list[int]  # size, mtime_ns, ctime_ns, inode


def file_digests(paths: Iterable[Path], memory: Path | None = None, *, shown: bool = True) -> dict[Path, str]:
    """sha256 of each file.

    memory: folder in which digests are remembered, one file for each folder that a set of paths lies in; where it is None or cannot be written, none are.
    Raises `DataError` for a file that cannot be read.
    """
    unique = list(dict.fromkeys(paths))
    if not unique:
        return {}
    memo = memory / f"{_name(unique)}.json" if memory is not None else None
    known = _remembered(memo)
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        stamps = dict(zip(unique, pool.map(_stamp, unique), strict=True))
        fresh = [path for path in unique if not _holds(known.get(str(path.absolute())), stamps[path])]
        work = progress(pool.map(_digest, fresh), total=len(fresh), what="hashing files", unit="file", shown=shown)
        found = dict(zip(fresh, work, strict=True))
    digests = {path: found[path] if path in found else known[str(path.absolute())][1] for path in unique}
    if found and memo is not None:
        now = time.time_ns()
        settled = {
            str(path.absolute()): [stamps[path], digest]
            for path, digest in found.items()
            if max(stamps[path][1], stamps[path][2]) < now - RACY_NS and _stamp(path) == stamps[path]
        }
        if settled:
            write_atomically(memo, json.dumps({**known, **settled}).encode(), essential=False)
    return digests


def content_key(digest: str, *policy: Any) -> bytes:
    """16 bytes that name what is read of a file: its content, the part, and how it is read (channel, rates)."""
    said = json.dumps([digest, *policy], ensure_ascii=True)
    return hashlib.sha256(said.encode()).digest()[:16]


def _name(paths: list[Path]) -> str:
    root = os.path.commonpath([os.path.dirname(path.absolute()) for path in paths])
    return hashlib.sha256(os.fsencode(root)).hexdigest()[:16]


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _digest(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def _holds(entry: Any, stamp: Stamp) -> bool:
    """Whether what is remembered is of the file as it is now."""
    return (
        isinstance(entry, list)
        and len(entry) == 2
        and entry[0] == stamp
        and isinstance(entry[1], str)
        and len(entry[1]) == 64
    )


def _remembered(memo: Path | None) -> dict[str, Any]:
    """Never essential: a broken or missing memory is an empty one."""
    try:
        held = json.loads(memo.read_bytes()) if memo is not None else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return held if isinstance(held, dict) else {}
