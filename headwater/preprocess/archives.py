"""Kaldi archives (.ark, .scp) of features: into a folder of .npy files, and back."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from headwater.data.corpus import Utterance, check_unique
from headwater.data.features import read_features, read_features_folder, split_of
from headwater.data.tables import read_utt2spk
from headwater.data.text import find_root, lines, some
from headwater.errors import DataError, HeadwaterError, UsageError, nearest
from headwater.preprocess.folder import FeatureFolder, Made, write_array
from headwater.progress import progress
from headwater.results.files import write_bytes

if TYPE_CHECKING:
    import numpy as np

# kaldiio also reads pickles, sound and pipes; of an archive of features nothing but these is taken.
_MATRICES = (b"\0BFM ", b"\0BDM ", b"\0BCM ", b"\0BCM2", b"\0BCM3")
_LONGEST_KEY = 4096


def find_splits(folder: Path, splits: Sequence[str] = ()) -> dict[str, list[Path]]:
    """Archives by split: those of each sub-folder, or of the folder itself. A `feats.scp` goes before the archives beside it.

    Raises UsageError for a split that is not there, DataError where nothing is.
    """
    if not folder.is_dir():
        raise UsageError(f"--data_path: there is no folder {folder}")
    found = {child.name: files for child in sorted(folder.iterdir()) if child.is_dir() and (files := _archives(child))}
    if not found and (files := _archives(folder)):
        found = {folder.name: files}
    if not found:
        raise DataError(f"{folder} holds no feats.scp and no .ark file, nor do its sub-folders")
    if missing := [name for name in splits if name not in found]:
        raise UsageError(
            f"--splits {missing[0]}: {folder} has {some(list(found), 12)}.{nearest(missing[0], list(found))}"
        )
    return {name: files for name, files in found.items() if not splits or name in splits}


def _archives(folder: Path) -> list[Path]:
    listed = folder / "feats.scp"
    return [listed] if listed.is_file() else sorted(folder.rglob("*.ark"))


def read_archive(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(key, matrix (T, D) float32) of each entry of a binary .ark file, or of a .scp list of `KEY FILE.ark:OFFSET`.

    Raises DataError for anything that is not a binary Kaldi matrix; a pipe is never run, a pickle never opened.
    """
    if file.suffix != ".scp":
        yield from _read_ark(file)
        return
    entries = []
    for number, line in lines(file):
        key, _, place = line.strip().partition(" ")
        archive, _, offset = place.strip().rpartition(":")
        if "|" in place or not archive or not offset.isdecimal():
            raise DataError(f"{file}:{number}: {line.strip()!r} is not `KEY FILE.ark:OFFSET`; commands are never run")
        entries.append((key, archive, int(offset)))
    if not entries:
        raise DataError(f"{file} is empty")
    root = find_root(file, [archive for _, archive, _ in entries], None)
    for key, archive, start in entries:
        with _open(root / archive) as stream:
            try:
                stream.seek(start)
            except (ValueError, OverflowError, OSError):
                raise DataError(f"{file}: {key!r} begins at byte {start}, which no file has") from None
            yield key, _read_matrix(stream, root / archive, key)


def _read_ark(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    with _open(file) as stream:
        while key := _read_key(stream, file):
            yield key, _read_matrix(stream, file, key)


def _open(file: Path) -> IO[bytes]:
    try:
        return open(file, "rb")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None


def _read_key(stream: IO[bytes], file: Path) -> str:
    """The key of the next entry; empty at the end of the file."""
    start, found = stream.tell(), b""
    while not found.endswith(b" ") and len(found) < _LONGEST_KEY and (byte := stream.read(1)):
        found += byte
    if not found:
        return ""
    try:
        key = found.decode()
    except UnicodeDecodeError:
        key = ""
    if not key.endswith(" ") or not key.strip():
        raise DataError(f"{file}: no key stands at byte {start}; it is no Kaldi archive, or cut off")
    return key.strip()


def _read_matrix(stream: IO[bytes], file: Path, key: str) -> np.ndarray:
    import numpy as np
    from kaldiio.matio import read_matrix_or_vector

    start = stream.tell()
    form = stream.read(5)
    if form not in _MATRICES:
        raise DataError(
            f"{file}: {key!r} is no binary Kaldi matrix (it begins with {form!r}); write one with copy-feats"
        )
    stream.seek(start)
    try:
        matrix = read_matrix_or_vector(stream)
    except (AssertionError, ValueError, TypeError, struct.error, MemoryError, OverflowError) as error:
        raise DataError(f"{file}: {key!r} at byte {start} is damaged or cut off ({error})") from None
    if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
        raise DataError(f"{file}: {key!r} is empty or holds NaN or infinity")
    return np.asarray(matrix, dtype=np.float32)


def convert(
    splits: dict[str, list[Path]], folder: Callable[[int], FeatureFolder], speaker_of: Callable[[str], str]
) -> tuple[FeatureFolder, int]:
    """Archives -> a folder of features, a group for each split (`_` becomes `-`, as in S3PRL). Returns the folder and how many matrices there are.

    folder: from the number of dims, which the first matrix says. speaker_of: of an utterance's id, where no `utt2spk` beside the archive says it.

    Raises DataError for what cannot be read, for matrices of another width, and for a key that is there twice.
    """
    out: FeatureFolder | None = None
    made: list[Made] = []
    places: list[str] = []
    for split, files in splits.items():
        group = split.replace("_", "-")
        for file in files:
            listed = file.with_name("utt2spk")
            speakers = read_utt2spk(listed) if listed.is_file() else {}
            for key, matrix in progress(read_archive(file), total=None, what=f"{split}/{file.name}", unit="utterance"):
                if out is None:
                    out = folder(matrix.shape[1])
                    out.begin()
                if matrix.shape[1] != out.features.dim:
                    raise DataError(f"{file}: {key!r} has {matrix.shape[1]} dims, those before it {out.features.dim}")
                target = out.file(group, key)
                utterance = Utterance(key, target, split=split_of(group), speaker=speakers.get(key) or speaker_of(key))
                if out.frames(group, key, file) != len(matrix):
                    write_array(target, matrix)
                made.append(Made(utterance, group, len(matrix)))
                places.append(f"{file}")
    if out is None:
        raise DataError(f"{some([str(file) for files in splits.values() for file in files])}: no matrices")
    check_unique([one.utterance for one in made], places, "keep one of the two")
    out.finish(made)
    return out, len(made)


def write_archives(source: Path, target: Path) -> int:
    """A folder of features -> `GROUP/feats.ark`, `feats.scp` and, where speakers are known, `utt2spk`, sorted by id as Kaldi wants it. Returns how many."""
    corpus = read_features_folder(source.absolute())
    groups: dict[str, list[Utterance]] = {}
    for utterance in sorted(corpus.utterances, key=lambda one: one.id.encode()):
        if any(letter.isspace() for letter in utterance.id):
            raise DataError(f"{source}: the id {utterance.id!r} holds a blank, which a Kaldi archive cannot have")
        inside = utterance.path.relative_to(corpus.root).parts
        groups.setdefault(inside[0] if len(inside) > 1 else source.name, []).append(utterance)
    for group, utterances in groups.items():
        _write_group(target / group, utterances)
    return len(corpus.utterances)


def _write_group(folder: Path, utterances: Sequence[Utterance]) -> None:
    from kaldiio.matio import write_array as write_matrix

    folder.mkdir(parents=True, exist_ok=True)
    archive, temporary = folder / "feats.ark", folder / f".feats.ark.{os.getpid()}.tmp"
    entries = []
    try:
        with open(temporary, "wb") as stream:
            for one in progress(utterances, total=len(utterances), what=folder.name, unit="utterance"):
                stream.write(f"{one.id} ".encode())
                entries.append(f"{one.id} {archive.absolute()}:{stream.tell()}\n")
                write_matrix(stream, read_features(one.path).numpy())
        os.replace(temporary, archive)
    except OSError as error:
        raise HeadwaterError(f"{archive}: cannot be written ({error.strerror})") from None
    finally:
        with suppress(OSError):
            temporary.unlink()
    write_bytes(folder / "feats.scp", "".join(entries).encode())
    if all(one.speaker for one in utterances):
        write_bytes(folder / "utt2spk", "".join(f"{one.id} {one.speaker}\n" for one in utterances).encode())
