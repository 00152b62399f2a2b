"""Reading lists: the one place that decodes text files, and says which line was wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from headwater.errors import DataError


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises
    ------
    DataError: the file cannot be opened, or is in another encoding (said so, with the line).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path} is UTF-16 text; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: the byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8 (it may be Latin-1 or Windows-1252)"
        ) from None


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of each line that is not blank."""
    # Not splitlines(): it also cuts at characters that editors and Praat count as part of a line.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r")


def some(items: Sequence[object], shown: int = 5) -> str:
    """`a, b, c, d, e and 7 more`."""
    text = ", ".join(str(item) for item in items[:shown])
    return f"{text} and {len(items) - shown} more" if len(items) > shown else text


def find_root(file: Path, paths: Sequence[str], root: Path | str | None, what: str = "") -> Path:
    """The folder that the relative `paths` of a list start from: `root` when given, else the list's folder or the
    nearest of its parents that holds the first of `paths` (or, should that one file be missing, another of the first
    twenty).

    Raises
    ------
    DataError: no folder holds any of them; all that were tried are named.
    """
    if root is not None:
        return Path(root).expanduser().absolute()
    folder = file.absolute().parent
    asked = [path for path in paths[:20] if not Path(path).is_absolute()]
    if not asked:
        return folder
    tried = [folder, *folder.parents]
    for path in asked:
        for candidate in tried:
            if (candidate / path).exists():
                return candidate
    raise DataError(
        f"{file}{what}: {asked[0]} lies in none of {', '.join(map(str, tried))}; say with -o data.root=FOLDER where the paths of this list start"
    )
