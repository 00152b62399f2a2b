"""Folders that are made on first use and kept: never half there, whoever else makes the same one at the same time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from headwater.errors import HeadwaterError, UsageError


def built_once(folder: Path, build: Callable[[Path], None], what: str) -> Path:
    """`folder`, filled by `build` under another name and renamed where it is not there yet.

    build: fills the empty folder that it is given, with equal bytes at each call. what: named in errors.

    Raises
    ------
    UsageError: nothing can be written beside `folder`.
    HeadwaterError: the disk fails, or is full.
    """
    if folder.is_dir():
        return folder
    parent = folder.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".building-", dir=parent))
    except OSError as error:
        raise UsageError(
            f"{what} cannot be kept in {parent}: {error.strerror}; set HEADWATER_CACHE to a folder that can be written"
        ) from None
    try:
        build(building)
        building.chmod(0o755)
        try:
            building.rename(folder)
        except OSError:
            if not folder.is_dir():  # not the case where another process was first, with the same bytes
                raise
    except OSError as error:
        raise HeadwaterError(f"{what} cannot be written to {parent}: {error.strerror}") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder
