"""F0 that is given: which file belongs to which utterance, and what it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from headwater.data.corpus import Corpus, Utterance, relative
from headwater.data.text import some
from headwater.errors import DataError, UsageError
from headwater.train.task import Item
from headwater.vocoder.pairing import fitted
from headwater.vocoder.raw import F0, read_f0

from .scoring import RATE


def f0_files(folder: str | None, column: str | None, corpus: Corpus, items: Iterable[Item]) -> dict[str, Path]:
    """Utterance id -> its `.f0`, by a folder or by a column of the table, whose paths begin where those of the audio do.

    folder: the files lie in it as the audio does below the corpus' root, or all side by side, called as the audio files.

    Raises `UsageError` where there is no such folder or column, `DataError` for utterances without a file, two that share one, and parts of a file.
    """
    utterances = [item.utterance for item in items]
    if parts := [one.id for one in utterances if one.start is not None or one.end is not None]:
        raise DataError(
            f"{len(parts)} utterances are parts of files, the first is {parts[0]!r}; F0 is given for whole files"
        )
    if column is not None:
        columns = sorted({name for utterance in corpus.utterances for name in utterance.labels})
        if column not in columns:
            raise UsageError(f"task.f0_column={column}: the data has {some(columns) or 'no such columns'}")
        found = {one.id: corpus.root / one.labels[column] if one.labels.get(column) else None for one in utterances}
    else:
        place = Path(str(folder)).expanduser()
        if not place.is_dir():
            raise UsageError(f"task.f0_folder={folder}: no such folder")
        found = {one.id: _in_folder(place, one, corpus.root) for one in utterances}
    files = {name: file for name, file in found.items() if file is not None and file.is_file()}
    if missing := [name for name in found if name not in files]:
        where = folder if column is None else f"the column {column}"
        raise DataError(
            f"{where}: no {F0} file for {len(missing)} of {len(found)} utterances, the first is {missing[0]!r}"
        )
    owners: dict[Path, str] = {}
    for name, file in files.items():
        if (other := owners.setdefault(file, name)) != name:
            raise DataError(
                f"{file} would be the F0 of {other!r} and of {name!r}; let the folder be as that of the audio, or name the files in a column"
            )
    return files


def read_fitted(file: Path, samples: int, hop: int) -> Tensor:
    """The F0 of an utterance of so many samples, (samples // hop + 1,) float32. `DataError` where it is that of another one."""
    return fitted(read_f0(file), samples, str(file), hop=hop, sample_rate=RATE)


def digest_of(files: Mapping[str, Path], items: Iterable[Item], hop: int) -> str:
    """sha256 of what is given, every file of it read and fitted: what is wrong shows itself before training."""
    digest = hashlib.sha256()
    for item in sorted(items, key=lambda item: item.id):
        digest.update(item.id.encode() + b"\0" + read_fitted(files[item.id], item.num_samples, hop).numpy().tobytes())
    return digest.hexdigest()


def _in_folder(folder: Path, utterance: Utterance, root: Path) -> Path | None:
    mirrored = Path(relative(utterance.path, root)).with_suffix(F0)
    names = [*([mirrored] if not mirrored.is_absolute() and ".." not in mirrored.parts else []), Path(mirrored.name)]
    return next((folder / name for name in names if (folder / name).is_file()), None)
