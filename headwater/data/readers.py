"""One door for corpora: finds out what lies at a path, reads it and says how."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

from headwater.data.corpus import Corpus
from headwater.data.features import ABOUT, read_features_folder
from headwater.data.mixture_lists import (
    is_mixture_list,
    is_mixture_tree,
    metadata_in,
    read_mixture_list,
    read_mixture_tree,
)
from headwater.data.protocols import find_keys, is_key, read_protocols
from headwater.data.tables import read_csv, read_kaldi
from headwater.data.text import lines, some
from headwater.data.trees import LAYOUTS, read_tree
from headwater.errors import DataError, UsageError, nearest

READERS = (
    *("auto", "csv", "protocol", "mixtures", "librispeech", "voxceleb"),
    *("kaldi", "features", "ljspeech", "vctk", "arctic", "folder", "files"),
)
_LIST_SEED = 1337  # S3PRL's, so that its dev split is ours
_FOLDER_READERS = READERS[4:]


def read_corpus(
    path: Path | str,
    *,
    root: Path | str | None = None,
    reader: str = "auto",
    splits: str = "auto",
    train_list: Path | str | None = None,
    dev_list: Path | str | None = None,
    test_list: Path | str | None = None,
    split_file: Path | str | None = None,
    name: str | None = None,
) -> Corpus:
    """The corpus at `path`; its notes say how it was read.

    Parameters
    ----------
    path: a CSV or TSV file, a list of mixtures, a key of ASVspoof, or a folder: LibriSpeech or VoxCeleb tree, Kaldi data
        directory, one with keys of ASVspoof, mixtures and their sources, precomputed features, or a folder for each speaker.
    root: where the relative paths of a CSV file or of `wav.scp` start; by default the list's folder, or the nearest of
        its parents that holds the first file. Of keys of ASVspoof, the folder that is searched for audio.
    reader: one of `READERS`; `auto` finds out. `files` takes any audio files, without speakers.
    splits: `auto` keeps the splits that the corpus states; `make` drops them, so that `splits.make_splits` makes
        others.
    train_list, dev_list, test_list: files of utterance ids, one a line: these are the splits then, and other utterances
        are left out. With a train and a test list alone, dev is the last tenth of the train list after
        `random.Random(1337).shuffle`: S3PRL's rule, utterance for utterance.
    split_file: VoxCeleb's `iden_split.txt`, where it does not lie beside the tree.
    name: the corpus' name in results; the file's or folder's when not given.

    Raises
    ------
    UsageError: the path does not exist; an unknown reader or option.
    DataError: what cannot be read, with file and line.

    >>> corpus = read_corpus("lists/speakers.csv")  # doctest: +SKIP
    >>> corpus.notes  # doctest: +SKIP
    ('read as CSV (path, split, speaker); paths are relative to /data',)
    """
    if reader not in READERS:
        raise UsageError(
            f"data.reader: there is no reader {reader!r}; the readers are {', '.join(READERS)}.{nearest(reader, list(READERS))}"
        )
    if splits not in ("auto", "make"):
        raise UsageError(f"splits: {splits!r} is neither auto nor make")
    path = Path(path).expanduser()
    if not path.exists():
        raise UsageError(f"there is no data at {path}{_neighbours(path)}\n{LAYOUTS}")
    corpus = _read(path.absolute(), root, reader, split_file, name)
    lists = {"train": train_list, "dev": dev_list, "test": test_list}
    if any(file is not None for file in lists.values()):
        corpus = _apply_lists(
            corpus, {split: Path(file).expanduser() for split, file in lists.items() if file is not None}
        )
    if splits == "make":
        corpus = corpus.with_utterances(
            (replace(utterance, split=None) for utterance in corpus.utterances),
            "the splits that the corpus states are not used",
        )
    return corpus


def _read(path: Path, root: Path | str | None, reader: str, split_file: Path | str | None, name: str | None) -> Corpus:
    if path.is_file():
        if reader in _FOLDER_READERS:
            raise UsageError(f"data.reader={reader} reads a folder, and {path} is a file")
        if path.name == "wav.scp":
            raise UsageError(f"{path} is part of a Kaldi data directory; give the folder {path.parent}")
        if split_file is not None:
            raise UsageError(
                f"a split file belongs to a VoxCeleb tree, and {path} is a table: put the splits in a column `split`"
            )
        if reader == "protocol" or (reader == "auto" and is_key(path)):
            return read_protocols(path, root=root, name=name)
        if reader == "mixtures" or (reader == "auto" and is_mixture_list(path)):
            return read_mixture_list(path, root=root, name=name)
        return read_csv(path, root=root, name=name)
    if reader == "csv":
        raise UsageError(f"data.reader=csv reads a file, and {path} is a folder")
    if reader == "kaldi" or (reader == "auto" and (path / "wav.scp").is_file()):
        return read_kaldi(path, root=root, name=name)
    if reader == "protocol" or (reader == "auto" and find_keys(path)):
        return read_protocols(path, root=root, name=name)
    if reader in ("auto", "mixtures") and metadata_in(path):
        return read_mixture_list(path, root=root, name=name)
    if root is not None:
        raise UsageError(
            f"data.root says where the paths of a list start, and {path} is a folder of audio; leave it out"
        )
    if reader == "mixtures" or (reader == "auto" and is_mixture_tree(path)):
        return read_mixture_tree(path, name)
    if reader == "features" or (reader == "auto" and (path / ABOUT).is_file()):
        return read_features_folder(path, name)
    return read_tree(path, reader=reader, split_file=split_file, name=name)


def _neighbours(path: Path) -> str:
    """` (did you mean ...)` from the names beside a path that does not exist."""
    try:
        names = [entry.name for entry in path.absolute().parent.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return ""
    return "." + hint if (hint := nearest(path.name, names)) else ""


def _apply_lists(corpus: Corpus, lists: dict[str, Path]) -> Corpus:
    if "train" not in lists or "test" not in lists:
        raise UsageError(
            f"lists of utterance ids need train_list and test_list (dev_list is optional); given: {', '.join(f'{split}_list' for split in lists)}"
        )
    ids = {split: _read_ids(path) for split, path in lists.items()}
    note = f"splits are taken from {', '.join(str(path) for path in lists.values())}"
    if "dev" not in ids:
        # The order of the list enters the draw, as in S3PRL.
        shuffled = list(ids["train"])
        random.Random(_LIST_SEED).shuffle(shuffled)
        kept = int(0.9 * len(shuffled))
        ids["train"], ids["dev"] = shuffled[:kept], shuffled[kept:]
        note += "; dev is the last tenth of the shuffled train list (S3PRL's rule)"
    split_of: dict[str, str] = {}
    for split, names in ids.items():
        for key in names:
            if split_of.setdefault(key, split) != split:
                raise DataError(f"the utterance {key!r} is in two lists: {split_of[key]} and {split}")
    here = {utterance.id for utterance in corpus.utterances}
    if missing := [key for key in split_of if key not in here]:
        raise DataError(
            f"{len(missing)} of the {len(split_of)} utterances in the lists are not in {corpus.root}: {some(missing)}; "
            f"ids there look like {some(sorted(here), 1)}. Complete the corpus or shorten the lists"
        )
    kept_utterances = [
        replace(utterance, split=split_of[utterance.id]) for utterance in corpus.utterances if utterance.id in split_of
    ]
    if len(kept_utterances) < len(here):
        note += f"; {len(here) - len(kept_utterances)} utterances in no list are left out"
    return corpus.with_utterances(kept_utterances, note)


def _read_ids(path: Path) -> list[str]:
    ids = []
    for number, line in lines(path):
        if len(line.split()) != 1:
            raise DataError(f"{path}:{number}: {line.strip()!r} is not one utterance id")
        ids.append(line.strip())
    if not ids:
        raise DataError(f"{path} is empty; it should hold an utterance id a line")
    if len(set(ids)) < len(ids):
        raise DataError(f"{path} names an utterance twice: {Counter(ids).most_common(1)[0][0]}")
    return ids


__all__ = ["READERS", "read_corpus"]
