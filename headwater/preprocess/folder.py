"""Writing a folder of features: whole files, one after the other, and what describes them last."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import headwater
from headwater.config import FeatureSet
from headwater.data.corpus import Utterance, check_unique, relative
from headwater.data.features import ABOUT, MANIFEST, count_frames, read_about, split_of
from headwater.data.tables import read_csv
from headwater.errors import DataError, UsageError
from headwater.results.files import write_bytes, write_json

if TYPE_CHECKING:
    import numpy as np

_BEGUN = ".features.json"


@dataclass(frozen=True)
class Made:
    """An utterance whose features lie in the folder; `group` is the sub-folder, a subset or split of its corpus."""

    utterance: Utterance
    group: str
    frames: int


def place(group: str, name: str) -> str:
    """Where in the folder the features of an utterance lie. Some ids begin with the group already (train/SPEAKER/FILE)."""
    return f"{name}.npy" if name.startswith(f"{group}/") else f"{group}/{name}.npy"


class FeatureFolder:
    """A folder of features in the making: `GROUP/ID.npy`, then `GROUP.csv` (S3PRL's lists), `manifest.csv` and `features.json`.

    What describes the folder is written when all of it is there, so a reader finds what is listed whole, or nothing. The same settings go on where an earlier
    attempt stopped; others are refused.
    """

    def __init__(self, path: Path, about: FeatureSet, settings: dict[str, Any], source: str) -> None:
        self.path = path
        self.about: dict[str, Any] = {**about.model_dump(), "settings": settings, "source": source}
        self.features = about

    def begin(self) -> None:
        """Claim the folder.

        Raises UsageError where it holds features of other settings, or anything else.
        """
        held = next((file for name in (ABOUT, _BEGUN) if (file := self.path / name).is_file()), None)
        if held is None:
            if self.path.is_dir() and any(self.path.iterdir()):
                raise UsageError(
                    f"{self.path} holds other things than features; choose another --output_path or --name"
                )
            write_json(self.path / _BEGUN, self.about)
            return
        before = read_about(held)
        differing = [key for key, value in self.about.items() if before.get(key) != value]
        if differing:
            was, now = ({key: source.get(key) for key in differing} for source in (before, self.about))
            raise UsageError(
                f"{self.path} holds features of other settings: {was} there, {now} now; choose another --output_path or --name"
            )

    def file(self, group: str, name: str) -> Path:
        """Where the features of an utterance go. `DataError` for a name that leads elsewhere."""
        parts = PurePosixPath(place(group, name)).parts
        if name.startswith("/") or any(part in ("/", "..") or "\\" in part or "\0" in part for part in parts):
            raise DataError(f"the utterance {name!r} of {group!r} cannot be the name of a file; rename it")
        return self.path.joinpath(*parts)

    def frames(self, group: str, name: str, source: Path) -> int | None:
        """Frames of an utterance that is done, None where it is not, is damaged, or is older than its source."""
        file = self.file(group, name)
        try:
            if file.stat().st_mtime_ns < source.stat().st_mtime_ns:
                return None
            return count_frames(file, self.features)
        except (OSError, DataError):
            return None

    def finish(self, made: Iterable[Made]) -> None:
        """Write the lists and `features.json`. Groups of earlier runs that this one did not touch stay."""
        now = list(made)
        rows = sorted([*now, *self._others({one.group for one in now})], key=lambda one: (one.group, one.utterance.id))
        places = [place(one.group, one.utterance.id) for one in rows]
        check_unique(
            [one.utterance for one in rows], places, f"write one of the two to another folder than {self.path}"
        )
        groups = defaultdict(list)
        for one in now:
            groups[one.group].append((place(one.group, one.utterance.id), one.frames))
        for group, files in groups.items():
            write_bytes(self.path / f"{group}.csv", length_table(files).encode())
        write_bytes(self.path / MANIFEST, manifest(rows).encode())
        write_json(self.path / ABOUT, {**self.about, "version": headwater.__version__})
        (self.path / _BEGUN).unlink(missing_ok=True)

    def _others(self, groups: set[str]) -> list[Made]:
        """What the manifest lists of other groups than these."""
        if not (self.path / MANIFEST).is_file():
            return []
        corpus = read_csv(self.path / MANIFEST, root=self.path.absolute())
        named = [(utterance, relative(utterance.path, corpus.root).split("/")[0]) for utterance in corpus.utterances]
        return [
            Made(utterance, group, count_frames(utterance.path, self.features))
            for utterance, group in named
            if group not in groups
        ]


def write_array(file: Path, array: np.ndarray) -> None:
    """A float32 matrix as .npy, whole or not at all."""
    import numpy as np

    content = io.BytesIO()
    np.save(content, array.astype(np.float32, copy=False), allow_pickle=False)
    write_bytes(file, content.getvalue())


def length_table(files: Sequence[tuple[str, int]]) -> str:
    """S3PRL's list of (path, length): an unnamed index, `file_path`, `length` and an empty `label`, the longest first."""
    ordered = sorted(files, key=lambda row: (-row[1], row[0]))
    return _table(
        ["", "file_path", "length", "label"], [[str(i), name, str(n), ""] for i, (name, n) in enumerate(ordered)]
    )


def manifest(rows: Sequence[Made]) -> str:
    """The list of a folder, see `manifest_table`; a group that is called after a split says it."""
    return manifest_table(
        [
            (place(one.group, one.utterance.id), one.utterance, one.utterance.split or split_of(one.group), one.frames)
            for one in rows
        ]
    )


def manifest_table(rows: Sequence[tuple[str, Utterance, str | None, int]]) -> str:
    """The list that headwater reads, of (path, utterance, split, frames): speakers where all are known, and splits where train and test are there."""
    known = {"split": [split for _, _, split, _ in rows], "speaker": [one.speaker for _, one, _, _ in rows]}
    if not {"train", "test"} <= set(known["split"]):
        del known["split"]
    known = {name: column for name, column in known.items() if all(column)}
    labels = sorted({label for _, one, _, _ in rows for label in one.labels} - {"path", "id", "frames", *known})
    cells = [
        [
            path,
            one.id,
            *(str(column[number]) for column in known.values()),
            str(frames),
            *(one.labels.get(label, "") for label in labels),
        ]
        for number, (path, one, _, frames) in enumerate(rows)
    ]
    return _table(["path", "id", *known, "frames", *labels], cells)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
