"""Precomputed features as data: a folder with `features.json`, which says what they are, and an .npy or .safetensors file (T, D) for each utterance."""

from __future__ import annotations

import functools
import json
import os
import re
import threading
import tokenize
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.config import FeatureSet
from headwater.data.corpus import Corpus, Utterance, check_unique
from headwater.data.tables import read_csv
from headwater.data.text import read_text
from headwater.errors import DataError, UsageError
from headwater.settings import validate

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

ABOUT, MANIFEST = "features.json", "manifest.csv"
SUFFIXES = (".npy", ".safetensors")
TENSOR = "features"  # what the matrix in a safetensors file is called
# numpy reads headers with Python's parser, which up to 3.12 fails now and then where several threads call it (CPython issue 106905).
_PARSER = threading.Lock()
_FLOATS = {"F16": 2, "F32": 4, "F64": 8}  # bytes of the numbers that safetensors files hold
# What `features.json` may say besides: how the features were made. Nothing is computed from it.
_HISTORY = ("settings", "source", "version")
_FORM = '{"kind": "fmllr", "dim": 40, "sample_rate": 16000, "stride": 160, "offset": 200}'
_LIBRISPEECH = re.compile(r"(\d+)-\d+-\w+")


def is_features(path: Path) -> bool:
    """Whether a file of a corpus holds features in the place of sound."""
    return path.suffix.lower() in SUFFIXES


def open_features(folder: Path | str) -> FeatureSet:
    """What the features in a folder are.

    Raises
    ------
    DataError: there is no `features.json`, or it does not say what it must.
    """
    file = Path(folder) / ABOUT
    if not file.is_file():
        raise DataError(f"{folder} has no {ABOUT}, which says what its features are: write one such as {_FORM}")
    status = file.stat()
    return _read_about(file, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=256)
def _read_about(file: Path, changed: int, size: int) -> FeatureSet:
    """A corpus of many folders asks for the same file again and again."""
    about = read_about(file)
    try:
        return validate(FeatureSet, {key: value for key, value in about.items() if key not in _HISTORY})
    except UsageError as error:
        raise DataError(f"{file}: {error}; it should look like {_FORM}") from None


def read_about(file: Path) -> dict[str, Any]:
    """Everything in a `features.json`. `DataError` where it is no JSON object."""
    try:
        about = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON ({error}); it should look like {_FORM}") from None
    if not isinstance(about, dict):
        raise DataError(f"{file} is not a JSON object; it should look like {_FORM}")
    return about


def features_of_file(path: Path) -> FeatureSet:
    """What the features in a file are: the `features.json` in its folder or the nearest above. `DataError` where there is none."""
    for folder in path.absolute().parents:
        if (folder / ABOUT).is_file():
            return open_features(folder)
    raise DataError(
        f"{path} holds features, and neither its folder nor one above has a {ABOUT} that says which: write one such as {_FORM}"
    )


def common_features(paths: Iterable[Path]) -> FeatureSet | None:
    """What all the files of a corpus are, None for sound.

    Raises
    ------
    DataError: features of two kinds, or features and sound, with an example of both.
    """
    first: dict[str, Path] = {}
    found: dict[str, FeatureSet | None] = {}
    for path in paths:
        about = features_of_file(path) if is_features(path) else None
        key = "sound" if about is None else about.model_dump_json()
        first.setdefault(key, path)
        found[key] = about
    if len(found) > 1:
        both = " and ".join(f"{path} ({key})" for key, path in list(first.items())[:2])
        raise DataError(f"a corpus is of one kind, and this one holds {both}; make two of it")
    return next(iter(found.values()), None)


def num_samples(frames: int, about: FeatureSet) -> int:
    """Samples of the shortest sound that has so many frames: from half a window before the first centre to half a window after the last."""
    return (frames - 1) * about.stride + max(1, round(2 * about.offset))


def count_frames(path: Path, about: FeatureSet) -> int:
    """Frames in a file, from its header. `DataError` where it is damaged or its size is not what `features.json` says."""
    frames, dim = _load(path, mapped=True).shape
    if dim != about.dim:
        raise DataError(f"{path} has {dim} dims, and {ABOUT} says {about.dim} ({about.kind})")
    return frames


def read_features(path: Path) -> Tensor:
    """The features in a file: (T, D) float32. `DataError` names a file that holds no finite matrix of floats."""
    import numpy as np
    import torch

    array = _load(path)
    if not np.isfinite(array).all():
        raise DataError(f"{path} holds NaN or infinity; make it again from its source")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _load(path: Path, *, mapped: bool = False) -> np.ndarray:
    import numpy as np
    from safetensors import SafetensorError, safe_open

    try:
        if path.suffix.lower() == ".safetensors":
            with safe_open(str(path), framework="numpy") as file:
                # Of a mapped one nothing but its form is asked, which the header knows.
                form = file.get_slice(TENSOR) if mapped else None
                array = file.get_tensor(TENSOR) if form is None else _of_form(form.get_dtype(), form.get_shape())
        else:
            with _PARSER:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            array = array if mapped or not isinstance(array, np.ndarray) else np.array(array)
    except FileNotFoundError:
        raise DataError(f"{path} is missing; a file of features is needed here") from None
    # A header is parsed as a Python literal: what is wrong in it has many names.
    except (
        OSError,
        EOFError,
        ValueError,
        TypeError,
        SyntaxError,
        MemoryError,
        RecursionError,
        OverflowError,
        tokenize.TokenError,
        SafetensorError,
        KeyError,
    ) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path} cannot be read as features: {reason}. Make it again from its source") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{path} holds several arrays; features are one matrix (frames, dims)")
    if array.ndim != 2 or not array.size or array.dtype.kind != "f":
        raise DataError(
            f"{path} holds {array.dtype} of shape {array.shape}; features are a matrix of floats (frames, dims) that is not empty"
        )
    if array.dtype.itemsize > 8:
        raise DataError(f"{path} holds {array.dtype}; write float32")
    return array


def _of_form(kind: str, shape: list[int]) -> np.ndarray:
    """An array that says its form and holds nothing."""
    import numpy as np

    return np.broadcast_to(np.zeros((), f"f{_FLOATS[kind]}"), shape)


def read_features_folder(folder: Path, name: str | None = None) -> Corpus:
    """The utterances of a folder of features: those of its `manifest.csv`, or else all its files as SPLIT/ID.npy, S3PRL's form.

    Raises
    ------
    DataError: no `features.json`, no files, or what is wrong in the manifest.
    """
    about = open_features(folder)
    note = f"precomputed features: {about.kind}, {about.dim} dims every {1000 * about.stride / about.sample_rate:g} ms"
    if (folder / MANIFEST).is_file():
        corpus = read_csv(folder / MANIFEST, root=folder, name=name or folder.name)
        return replace(corpus, reader="features", notes=(note, *corpus.notes[1:]))
    files = sorted(
        Path(place, file)
        for place, _, found in os.walk(folder)
        for file in found
        if file.endswith(SUFFIXES) and not file.startswith(".")
    )
    if not files:
        raise DataError(f"{folder} holds no {' or '.join(SUFFIXES)} files")
    utterances = [_utterance(folder, file) for file in files]
    check_unique(utterances, [str(file) for file in files], "keep one of the two, or rename it")
    if None in (stated := {utterance.split for utterance in utterances}) or not {"train", "test"} <= stated:
        utterances = [replace(utterance, split=None) for utterance in utterances]
    if any(utterance.speaker is None for utterance in utterances):
        utterances = [replace(utterance, speaker=None) for utterance in utterances]
    return Corpus(name or folder.name, "features", folder, tuple(utterances), (note, "read as SPLIT/ID.npy"))


def _utterance(folder: Path, file: Path) -> Utterance:
    """SPLIT/ID.npy, where SPLIT begins with train, dev or test; LibriSpeech's ids name the speaker."""
    parts = file.relative_to(folder).with_suffix("").parts
    subset, rest = (parts[0], parts[1:]) if len(parts) > 1 else ("", parts)
    named = _LIBRISPEECH.fullmatch(parts[-1])
    return Utterance(
        "/".join(rest), file, split=split_of(subset), speaker=named[1] if named else None, labels={"subset": subset}
    )


def split_of(subset: str) -> str | None:
    """train, dev or test for a folder such as train, train-clean-100 or dev_clean; None for another."""
    word = re.split("[-_]", subset.lower())[0]
    return word if word in ("train", "dev", "test") else None
