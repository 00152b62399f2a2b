"""The sources that an upstream's numbers come from: what its classes' modules import, read without importing anything more."""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import headwater

_LIBRARIES = tuple(
    {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)

# What these decide is in the bank by its value (the card, the settings, the weights), or is no part of a feature.
ASIDE = tuple(
    f"headwater.{name}"
    for name in (
        "cli", "download", "errors", "loading", "metrics", "paths", "progress", "registry", "results", "store", "train",
    )
)  # fmt: skip


def sources_sha256(modules: Iterable[str]) -> str | None:
    """sha256 over the sources of these modules and of all that they import of headwater's and of the user's own, by module name.

    Libraries (what is installed, and Python's own) are left to their versions, and imports of `ASIDE` are not followed. None where the source of one of
    `modules` is not there.
    """
    files: dict[str, Path] = {}
    waiting = [(name, _file(name)) for name in modules]
    while waiting:
        name, file = waiting.pop()
        if file is None:
            return None
        if name in files or (_installed(file) and not name.startswith("headwater")):
            continue
        files[name] = file
        waiting += [
            (other, found)
            for other in _imports(name, file)
            if not _aside(other) and (found := _file(other)) is not None
        ]
    digest = hashlib.sha256()
    for name in sorted(files):
        content = files[name].read_bytes()
        digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def is_library(name: str) -> bool:
    """Whether a module is installed software, which its version tells."""
    file = _file(name)
    return not name.startswith("headwater") and (
        (file is not None and _installed(file)) or (file is None and name in sys.builtin_module_names)
    )


def _aside(name: str) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in ASIDE)


def _installed(file: Path) -> bool:
    return "site-packages" in file.parts or any(file.is_relative_to(place) for place in _LIBRARIES)


def _file(name: str) -> Path | None:
    """The source of a module: of one that is imported, or of one of ours that is not yet. None where there is none."""
    module = sys.modules.get(name)
    held = getattr(module, "__file__", None) if isinstance(module, ModuleType) else None
    if held is not None:
        file = Path(held).resolve()
        return file if file.suffix == ".py" and file.is_file() else None
    if name.startswith("headwater."):
        for root in headwater.__path__:
            base = Path(root, *name.split(".")[1:])
            for file in (base.with_suffix(".py"), base / "__init__.py"):
                if file.is_file():
                    return file.resolve()
    return None


def _imports(name: str, file: Path) -> Iterator[str]:
    """Every module that a source names in an import, wherever it stands; names that may be modules or what lies in one are both."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for level, base, names in _statements(file, file.stat().st_mtime_ns):
        if level:
            parts = package.split(".")
            parts = parts[: len(parts) - level + 1]
            base = ".".join([*parts, base] if base else parts)
        if base:
            yield base
        yield from (f"{base}.{one}" if base else one for one in names)


@functools.cache
def _statements(file: Path, changed: int) -> tuple[tuple[int, str, tuple[str, ...]], ...]:
    """(level, module, names) of each import."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return ()
    found: list[tuple[int, str, tuple[str, ...]]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.append((0, "", tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
    return tuple(found)
