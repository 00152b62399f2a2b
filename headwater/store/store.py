"""The store on disk: folders of immutable shards, one folder a bank. What lies there is the index: no server, no lock, no list of our own."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headwater.progress import progress
from headwater.store.atomic import sweep, write_atomically
from headwater.store.keys import Bank
from headwater.store.plan import SHARD_BYTES
from headwater.store.plan import size as in_words
from headwater.store.shards import SUFFIX, Broken, Form, Row, Shard, open_shard, shard_bytes, shard_name

ABOUT, USAGE = "bank.json", "usage.json"
UNKNOWN_COST = 1e-8  # seconds a byte, of a shard of which nobody remembers what it cost
DAY = 86400.0


class NoRoom(OSError):
    """Everything that might make room is needed."""


@dataclass
class Index:
    """Where the states of `layers` lie, by the key of an utterance."""

    layers: tuple[int, ...]
    shards: list[Shard] = field(default_factory=list)
    whole: dict[bytes, tuple[int, int]] = field(default_factory=dict)  # shard, position: all layers together
    parts: dict[bytes, dict[int, tuple[int, int]]] = field(default_factory=dict)  # layer by layer

    def add(self, shard: Shard, wanted: Collection[bytes]) -> None:
        here = [layer for layer in self.layers if layer in shard.layers]
        found = [(key, position) for position, key in enumerate(shard.keys) if key in wanted and key not in self.whole]
        if not here or not found:
            return
        number = len(self.shards)
        self.shards.append(shard)
        for key, position in found:
            if len(here) < len(self.layers):
                held = self.parts.setdefault(key, {})
                for layer in here:
                    held.setdefault(layer, (number, position))
            else:
                self.whole[key] = (number, position)

    def __contains__(self, key: bytes) -> bool:
        return key in self.whole or len(self.parts.get(key, ())) == len(self.layers)

    def lacks(self, key: bytes) -> list[int]:
        """The layers that are not there."""
        return [] if key in self.whole else [layer for layer in self.layers if layer not in self.parts.get(key, ())]

    def length(self, key: bytes) -> int:
        """Rows of an utterance that is there."""
        number, position = self.whole.get(key) or next(iter(self.parts[key].values()))
        offsets = self.shards[number].offsets
        return offsets[position + 1] - offsets[position]

    def row(self, key: bytes) -> Row:
        """The states of an utterance that is there: views of the mapped files."""
        if (place := self.whole.get(key)) is not None:
            shard, position = self.shards[place[0]], place[1]
            return tuple(shard.row(layer, position) for layer in self.layers)
        places = self.parts[key]
        return tuple(self.shards[places[layer][0]].row(layer, places[layer][1]) for layer in self.layers)


class Store:
    """Features of any number of banks below `root`, at most `budget` bytes of them (None: half of what the disk has for it).

    say: told in one line what goes wrong and is mended. shard_bytes: about what one file holds. A store that cannot be read is an empty one.
    """

    def __init__(
        self,
        root: Path,
        budget: float | None = None,
        say: Callable[[str], object] = lambda line: None,
        shard_bytes: float = SHARD_BYTES,
    ) -> None:
        self.root, self.say, self.shard_bytes = root, say, shard_bytes
        self._budget = budget
        self._needed: set[Path] = set()
        self._good: set[tuple[Path, tuple[int, ...]]] = set()
        self._bad: set[Path] = set()

    @property
    def budget(self) -> float:
        """Bytes that shards may take in all."""
        if self._budget is None:
            place = next(place for place in (self.root, *self.root.absolute().parents) if place.is_dir())
            self._budget = (shutil.disk_usage(place).free + sum(held.size for held in self.shards())) / 2
        return self._budget

    def folder(self, bank: Bank) -> Path:
        return self.root / bank.fingerprint

    def look(
        self, bank: Bank, form: Form, layers: Sequence[int], wanted: Collection[bytes], *, shown: bool = True
    ) -> Index:
        """What of `wanted` is there, checked against its sums. A damaged shard is removed: what it held counts as not there."""
        while True:
            index = Index(tuple(layers))
            for path in _listing(self.folder(bank), form):
                if path in self._bad:
                    continue
                try:
                    index.add(open_shard(path, bank), wanted)
                except FileNotFoundError:
                    continue
                except Broken as error:
                    self._discard(path, str(error))
            damaged = [shard for shard in self._unproved(index, shown) if shard is not None]
            if not damaged:
                self._needed |= {shard.path for shard in index.shards}
                return index
            for shard in damaged:
                self._discard(shard.path, f"{shard.path}: its content is not what was written")

    def write(
        self,
        bank: Bank,
        form: Form,
        ids: Sequence[str],
        keys: Sequence[bytes],
        layers: Sequence[int],
        rows: Sequence[Row],
    ) -> Path:
        """Keep the states of some utterances. Raises `OSError` where there is no room, or nothing can be written."""
        content = shard_bytes(bank, form, ids, keys, layers, rows)
        folder = self.folder(bank)
        path = folder / shard_name(form, keys, layers)
        self.make_room(len(content), besides=path)
        if not (folder / ABOUT).is_file():
            write_atomically(folder / ABOUT, json.dumps(dict(bank.about), default=str, indent=1).encode())
        write_atomically(path, content)
        self._needed.add(path)
        self._good.add((path, tuple(layers)))
        self._bad.discard(path)
        return path

    def used(self, bank: Bank, seconds: Mapping[Path, float], paths: Iterable[Path]) -> None:
        """Remember that shards were used now, and what computing took. Nothing depends on it but what goes first when room is needed."""
        folder = self.folder(bank)
        sweep(folder)
        usage, now = _usage(folder), round(time.time())
        for path in paths:
            cost = seconds.get(path, usage.get(path.name, (None, 0))[0])
            usage[path.name] = (round(cost, 3) if cost is not None else None, now)
        here = {path.name for path in _listing(folder)}
        kept = {name: entry for name, entry in sorted(usage.items()) if name in here}
        if kept:
            write_atomically(folder / USAGE, json.dumps(kept).encode(), essential=False)

    def make_room(self, size: float, besides: Path | None = None) -> list[Held]:
        """Remove the least valuable shards until `size` more bytes are within the budget. Returns what went.

        Raises `NoRoom`, and removes nothing, where what this process needs leaves too little.
        """
        if self._budget == float("inf"):
            return []  # an extraction's worker, for whom the planner made room: a look at every shard for every shard would be slow
        held = [shard for shard in self.shards() if shard.path != besides]
        over = sum(shard.size for shard in held) + size - self.budget
        if over <= 0:
            return []
        spare = sorted((shard for shard in held if shard.path not in self._needed), key=lambda shard: shard.value)
        if over > sum(shard.size for shard in spare):
            raise NoRoom(f"{in_words(size)} more would exceed the budget of {in_words(self.budget)} (--cache-budget)")
        gone = []
        for shard in spare:
            if over <= 0:
                break
            shard.path.unlink(missing_ok=True)
            over -= shard.size
            gone.append(shard)
        return gone

    def shards(self) -> list[Held]:
        """Everything that is kept, of all banks."""
        return [held for folder in self.banks() for held in held_in(folder)]

    def banks(self) -> list[Path]:
        """The folders of all banks."""
        try:
            return sorted(entry for entry in self.root.iterdir() if (entry / ABOUT).is_file())
        except OSError:
            return []

    def verify(self) -> tuple[int, int]:
        """Read every shard of every bank; the damaged ones are removed. Returns how many there were, and how many damaged."""
        paths = [shard.path for shard in self.shards()]

        def fault(path: Path) -> str | None:
            try:
                return f"{path}: its content is not what was written" if open_shard(path).faults() else None
            except FileNotFoundError:
                return None
            except Broken as error:
                return str(error)

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            faults = list(progress(pool.map(fault, paths), total=len(paths), what="checking features", unit="shard"))
        for path, why in zip(paths, faults, strict=True):
            if why is not None:
                self._discard(path, why)
        return len(paths), sum(why is not None for why in faults)

    def tidy(self) -> None:
        """Remove what killed writers left, and folders without shards."""
        for folder in self.banks():
            sweep(folder)
            if not _listing(folder):
                shutil.rmtree(folder, ignore_errors=True)

    def _unproved(self, index: Index, shown: bool) -> Iterable[Shard | None]:
        fresh = [shard for shard in index.shards if (shard.path, index.layers) not in self._good]

        def prove(shard: Shard) -> Shard | None:
            here = [layer for layer in index.layers if layer in shard.layers]
            if shard.faults(layers=here):
                return shard
            self._good.add((shard.path, index.layers))
            return None

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            work = pool.map(prove, fresh)
            yield from progress(work, total=len(fresh), what="checking features", unit="shard", shown=shown)

    def _discard(self, path: Path, why: str) -> None:
        self._bad.add(path)
        try:
            path.unlink(missing_ok=True)
            done = "removed; it is computed again where it is needed"
        except OSError:
            done = "not used; it cannot be removed"
        self.say(f"{why}; {done}")


@dataclass(frozen=True)
class Held:
    """A shard that is kept. cost: seconds that computing it took; used: when it was used last."""

    path: Path
    size: int
    cost: float
    used: float

    @property
    def value(self) -> float:
        """Seconds saved a byte, less the longer nobody has asked."""
        return self.cost / self.size / (1 + max(0.0, time.time() - self.used) / DAY)


def about(folder: Path) -> dict[str, Any]:
    """What a bank says of itself; empty where it cannot be read."""
    return _json(folder / ABOUT)


def held_in(folder: Path) -> list[Held]:
    """The shards of a bank."""
    usage, found = _usage(folder), []
    for path in _listing(folder):
        with suppress(OSError):
            status = path.stat()
            cost, used = usage.get(path.name, (None, status.st_mtime))
            bytes_ = max(1, status.st_size)
            found.append(Held(path, bytes_, UNKNOWN_COST * bytes_ if cost is None else cost, used))
    return found


def _listing(folder: Path, form: str = "") -> list[Path]:
    """The shards in a folder, sorted by name."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [
        folder / name
        for name in names
        if name.startswith(f"{form}-" if form else ("frames-", "mean-")) and name.endswith(SUFFIX)
    ]


def _usage(folder: Path) -> dict[str, tuple[float | None, float]]:
    """Shard -> cost and last use. Never essential: what is broken in it is left out."""
    found = {}
    for name, entry in _json(folder / USAGE).items():
        with suppress(TypeError, ValueError):
            cost, used = entry
            found[name] = (None if cost is None else float(cost), float(used))
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
