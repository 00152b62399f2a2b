"""Names of files, made from names that may say anything."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LONGEST = 100  # bytes of a name, well below what file systems allow


def safe(name: str) -> str:
    """A name that any file system takes, and that names a file in its folder, whatever it says."""
    kept = re.sub(r"[^\w.+-]+", "_", name).strip("._-")
    return kept.encode()[:_LONGEST].decode(errors="ignore") or "audio"


def unique(names: Iterable[str]) -> list[str]:
    """The names, each but the first of equal ones with a number behind it; file systems may not tell capitals apart."""
    taken: set[str] = set()
    found = []
    for name in names:
        number, chosen = 1, name
        while chosen.casefold() in taken:
            number += 1
            chosen = f"{name}_{number}"
        taken.add(chosen.casefold())
        found.append(chosen)
    return found
