"""Utterance ids as file names. Ids come from other people's lists: they may climb out of a folder, be too long for it, or differ in nothing but case."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence

LONGEST = 180  # bytes of one name: file systems take 255, and temporary names are longer
DEEPEST = 800  # bytes of the whole
_PLAIN = frozenset("_-.+=@")
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


def file_names(ids: Sequence[str]) -> dict[str, str]:
    """Id -> a relative path without a suffix, below any folder: no two are one file, on systems that do not know upper from lower case either.

    Ordinary ids stay as they are, folders in them too. What is unsafe in others is written as %XX; what is too long, or would meet another, ends in a hash.
    """
    names = {name: _mirrored(name) for name in ids}
    count = Counter(_folded(name) for name in names.values())
    return {
        name: place if count[_folded(place)] == 1 and len(place.encode()) <= DEEPEST else _hashed(name, place)
        for name, place in names.items()
    }


def _folded(place: str) -> str:
    return unicodedata.normalize("NFC", place).casefold()


def _mirrored(name: str) -> str:
    return "/".join(_component(part) for part in name.split("/"))


def _component(part: str) -> str:
    # Systems without case know devices by these names, whatever follows a dot; names that end in a dot or blank lose it.
    if not part:
        return "%"
    device = part.split(".")[0].lower() in _DEVICES
    safe = "".join(
        letter
        if (letter.isalnum() or letter in _PLAIN or letter == " ")
        and not (place == 0 and (letter in ". " or device))
        and not (place == len(part) - 1 and letter in ". ")
        else "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogatepass"))
        for place, letter in enumerate(part)
    )
    return safe if len(safe.encode()) <= LONGEST else _hashed(part, safe)


def _hashed(name: str, place: str) -> str:
    """The start of the last component and a hash of the id. No other name holds `%~`."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:24]
    folder, slash, last = (
        place.rpartition("/") if len(place.encode()) <= DEEPEST else ("", "", place.rpartition("/")[2])
    )
    start = last.encode()[: LONGEST - 40].decode(errors="ignore").partition("%")[0]
    return f"{folder}{slash}{start}%~{digest}"
