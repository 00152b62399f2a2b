"""Plain files: an .npy or .safetensors file for each utterance, and what says what they are."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

import headwater
from headwater.config import FeatureSet
from headwater.data.corpus import Utterance
from headwater.data.features import ABOUT, MANIFEST, TENSOR
from headwater.errors import DataError, UsageError
from headwater.identity import fingerprint
from headwater.preprocess.folder import manifest_table
from headwater.store.atomic import TEMPORARY, sweep, write_atomically
from headwater.store.shards import Row
from headwater.train.task import Item
from headwater.weights import to_bytes

FORMATS = ("npy", "safetensors")
HISTORY = "extract.json"  # all about an extraction; `features.json` says of one layer what `-u features` must know
KEPT = ("error",)  # of an earlier command, where a later one had nothing to measure
PARTS = ".parts"  # markers of finished parts


@dataclass(frozen=True)
class OutFolder:
    """A folder of plain files in the making.

    One layer lies in the folder itself, several in a sub-folder each, and each of these is data of its own. `manifest.csv` and `features.json` are written when
    all parts are done, by whoever finishes last: a reader finds everything or no data.

    about: what is extracted, in plain JSON; another extraction is refused. layers: number, name and dims of each.
    """

    path: Path
    format: Literal["npy", "safetensors"]
    about: dict[str, Any]
    layers: tuple[tuple[int, str, int], ...]
    pooled: bool

    def check(self) -> bool:
        """Whether this extraction has begun here. `UsageError` where the folder holds another one, or anything else."""
        held = self.path / HISTORY
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file; --out is a folder")
        foreign = self.path.is_dir() and any(not entry.name.endswith(TEMPORARY) for entry in self.path.iterdir())
        if not held.is_file():  # asked after the look, as another worker may claim the folder just now
            if foreign:
                raise UsageError(f"{self.path} holds other things; choose another --out")
            return False
        before = _json(held)
        if differing := [key for key, value in self.about.items() if before.get(key) != value]:
            raise UsageError(
                f"{self.path} holds another extraction: {', '.join(differing)} differ(s) (see {HISTORY} there); choose another --out"
            )
        return True

    def begin(self) -> None:
        """Claim the folder."""
        if not self.check():
            write_atomically(self.path / HISTORY, _to_json({**self.about, "version": headwater.__version__}))

    def folder(self, layer: int) -> Path:
        """Where the files of a layer lie."""
        return self.path if len(self.layers) == 1 else self.path / f"layer{layer:02d}"

    def file(self, layer: int, name: str) -> Path:
        return self.folder(layer) / f"{name}.{self.format}"

    def write_part(
        self,
        planned: Sequence[Item],
        keys: Sequence[bytes],
        items: Sequence[Item],
        names: Sequence[str],
        rows: Iterator[Row],
        left_out: Sequence[tuple[str, str, str]],
    ) -> None:
        """Write the files of `items`, those of the planned ones that can be read, and then the part's marker."""
        frames = []
        for item, name, row in zip(items, names, rows, strict=True):
            for (layer, _, _), state in zip(self.layers, row, strict=True):
                write_atomically(self.file(layer, name), self._content(item.id, layer, state))
            frames.append([item.id, len(row[0])])
        said = {
            "of": self._identity(),
            "keys": _digest(keys),
            "frames": frames,
            "left_out": [list(one) for one in left_out],
        }
        write_atomically(self._marker(planned), _to_json(said))

    def frames(self, items: Sequence[Item]) -> dict[str, int] | None:
        """Frames by utterance of a part that is done; None where it is not."""
        said = _json(self._marker(items))
        try:
            found = {str(name): int(count) for name, count in said["frames"]}
            known = {item.id for item in items} == {*found, *(name for name, _, _ in said["left_out"])}
            return found if known and said["of"] == self._identity() else None
        except (KeyError, TypeError, ValueError):
            return None

    def done(self, items: Sequence[Item], keys: Sequence[bytes], names: Sequence[str], *, skip_bad: bool) -> bool:
        """Whether a part is finished and of the audio as it is now, and its files are there."""
        found = self.frames(items)
        if found is None or _json(self._marker(items)).get("keys") != _digest(keys):
            return False
        if len(found) < len(items) and not skip_bad:
            return False
        return all(
            self.file(layer, name).is_file()
            for item, name in zip(items, names, strict=True)
            if item.id in found
            for layer, _, _ in self.layers
        )

    def finish(self, parts: Iterable[Sequence[Item]], names: Mapping[str, str], facts: Mapping[str, Any]) -> bool:
        """Write what describes the folder. False, and nothing is written, while parts are missing."""
        made: list[tuple[Item, int]] = []
        for items in parts:
            found = self.frames(items)
            if found is None:
                return False
            made += [(item, found[item.id]) for item in items if item.id in found]
        if not made:
            raise DataError("no utterance could be read, so there is nothing to list")
        made.sort(key=lambda pair: pair[0].id)
        rows = [
            (f"{names[item.id]}.{self.format}", _listable(item.utterance, names), item.utterance.split, frames)
            for item, frames in made
        ]
        for layer, name, dim in self.layers:
            table = manifest_table(rows).encode("utf-8", "backslashreplace")
            write_atomically(self.folder(layer) / MANIFEST, table)
            if not self.pooled:  # one mean has no place in time, so it cannot stand for frames
                said = {**self._features(name, dim), "source": self.about["corpus"], "version": headwater.__version__}
                write_atomically(self.folder(layer) / ABOUT, _to_json(said))
        said = {key: value for key, value in _json(self.path / HISTORY).items() if key in KEPT}
        write_atomically(
            self.path / HISTORY, _to_json({**self.about, "version": headwater.__version__, **said, **facts})
        )
        for folder in {
            self.path / PARTS,
            *(self.file(layer, names[item.id]).parent for layer, _, _ in self.layers for item, _ in made),
        }:
            sweep(folder)
        return True

    def _features(self, layer: str, dim: int) -> dict[str, Any]:
        named = self.about["upstream"]
        kind = FeatureSet(
            kind=f"{named['name']} {layer}",
            dim=dim,
            sample_rate=self.about["sample_rate"],
            stride=self.about["stride"],
            offset=self.about["offset"],
        )
        return {**kind.model_dump(), "settings": {"layer": layer, **named}}

    def _content(self, name: str, layer: int, state: Tensor) -> bytes:
        if self.format == "safetensors":
            time = {key: self.about[key] for key in ("sample_rate", "stride", "offset")}
            said = name.encode("utf-8", "backslashreplace").decode()
            return to_bytes({TENSOR: state}, {"id": said, "layer": layer, **time})
        content = io.BytesIO()
        np.save(content, state.numpy(), allow_pickle=False)
        return content.getvalue()

    def _marker(self, items: Sequence[Item]) -> Path:
        ids = json.dumps([item.id for item in items])
        return self.path / PARTS / f"{hashlib.sha256(ids.encode()).hexdigest()[:32]}.json"

    def _identity(self) -> str:
        return fingerprint(self.about)


def _listable(utterance: Utterance, names: Mapping[str, str]) -> Utterance:
    """As a row of a list can say it: readers strip blanks, and a zero byte breaks a row. An id that is not plain is called as its file is."""
    name = utterance.id
    if name != name.strip() or not name.isprintable():
        name = names[name]
        while name in names:
            name += "%"
    return replace(utterance, id=name, labels={key: _plain(value) for key, value in utterance.labels.items()})


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _digest(keys: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(keys)).hexdigest()


def _to_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def _json(path: Path) -> dict[str, Any]:
    """What a file of ours says; nothing where it is missing or broken."""
    try:
        said = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
