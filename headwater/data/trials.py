"""Verification trials: pairs of utterances, and whether one speaker says both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from headwater.data.corpus import Corpus, Utterance, check_unique, relative
from headwater.data.text import find_root, lines, read_text
from headwater.data.trees import librispeech_name, voxceleb_name
from headwater.errors import DataError

if TYPE_CHECKING:
    import numpy as np

_LABELS = {"0": 0, "1": 1, "nontarget": 0, "target": 1}
_CHUNK = 200_000  # lines at a time: the fields of four million would take gigabytes
_MARK = "\0"  # no path holds it
_FORMS = "`1|0 PATH PATH` (VoxCeleb) or `ID ID target|nontarget` (Kaldi)"


@dataclass(frozen=True)
class Trials:
    """Trial i compares `utterances[enrol[i]]` with `utterances[test[i]]`; `labels[i]` is 1 when the speaker is the
    same.

    labels: uint8 (N,); enrol, test: int32 (N,). Each utterance is there once, in the order of first mention.
    """

    labels: np.ndarray
    enrol: np.ndarray
    test: np.ndarray
    utterances: tuple[Utterance, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)


def read_trials(path: Path | str, corpus_root: Path | str | None = None, corpus: Corpus | None = None) -> Trials:
    """A list of trials, four million of them in seconds.

    Parameters
    ----------
    path: lines `LABEL PATH PATH`, LABEL being 1, 0, target or nontarget; or `ID ID target|nontarget` (also 1|0). The
        first line decides.
    corpus_root: where the paths start; by default the list's folder or the nearest of its parents that holds the first
        file.
    corpus: the utterances that are meant, by id or by path below the corpus' root. Without it names are paths, and an
        utterance's speaker is known only for files named as in LibriSpeech or VoxCeleb.

    Raises
    ------
    DataError: file and line of a malformed line, or of the first mention of a missing file or an unknown utterance.
    """
    path = Path(path).expanduser()
    labels, enrol, test, names = _parse(path)
    where = _line_finder(path)
    if corpus is not None:
        utterances, notes = (
            _of_corpus(names, corpus, where),
            (f"trials of {path.name} name utterances of {corpus.name}",),
        )
    else:
        root = find_root(path, list(names), corpus_root)
        utterances = _of_files(names, root, where)
        check_unique(utterances, list(names), "give them other file names")
        notes = (f"trials of {path.name}: paths are relative to {root}",)
    return Trials(labels, enrol, test, utterances, notes)


def _line_finder(path: Path) -> Callable[[str], str]:
    """Finds the line of a name's first mention; reads the list again, which only errors do."""

    def where(name: str) -> str:
        number = next(number for number, line in lines(path) if name in line.split())
        return f"{path}:{number}"

    return where


def _parse(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, int]]:
    """labels, enrol, test and the names with their numbers."""
    import numpy as np

    text = read_text(path).split("\n")
    first = next((line.split() for line in text if line.strip()), None)
    if first is None:
        raise DataError(f"{path} is empty; a line is {_FORMS}")
    label_at = next((place for place in (0, 2) if len(first) == 3 and first[place] in _LABELS), None)
    if label_at is None:
        raise DataError(f"{path}: the first line {' '.join(first)!r} is no trial; a line is {_FORMS}")
    names: defaultdict[str, int] = defaultdict(count().__next__)
    labels, pairs = [], []
    for start in range(0, len(text), _CHUNK):
        rows = [line for line in text[start : start + _CHUNK] if line and not line.isspace()]
        # One split for the whole chunk is ten times as fast as one a line; the marks show that each line had three
        # fields.
        fields = f" {_MARK} ".join([*rows, ""]).split()
        if (
            fields[3::4].count(_MARK) != len(rows)
            or len(fields) != 4 * len(rows)
            or not _LABELS.keys() >= set(fields[label_at::4])
        ):
            _refuse(path, text, label_at)
        labels.append(np.fromiter(map(_LABELS.__getitem__, fields[label_at::4]), dtype=np.uint8, count=len(rows)))
        del fields[3::4]
        del fields[label_at::3]
        pairs.append(np.fromiter(map(names.__getitem__, fields), dtype=np.int32, count=len(fields)).reshape(-1, 2))
    enrol, test = np.ascontiguousarray(np.concatenate(pairs).T)
    return np.concatenate(labels), enrol, test, dict(names)


def _refuse(path: Path, text: list[str], label_at: int) -> NoReturn:
    for number, line in enumerate(text, start=1):
        fields = line.split()
        if fields and len(fields) != 3:
            raise DataError(
                f"{path}:{number}: {len(fields)} fields where a trial has three (paths hold no spaces); a line is {_FORMS}"
            )
        if fields and fields[label_at] not in _LABELS:
            raise DataError(f"{path}:{number}: the label {fields[label_at]!r} is none of {', '.join(_LABELS)}")
    raise DataError(f"{path} holds zero bytes; it is no text file")


def _of_corpus(names: dict[str, int], corpus: Corpus, where: Callable[[str], str]) -> tuple[Utterance, ...]:
    known = {relative(utterance.path, corpus.root): utterance for utterance in corpus.utterances}
    known.update({utterance.id: utterance for utterance in corpus.utterances})
    # VoxCeleb's lists name `id10270/x6uYqmx31kE/00001.wav`, wherever the tree has it.
    found = {name: known.get(name) or known.get(Path(name).with_suffix("").as_posix()) for name in names}
    for name, utterance in found.items():
        if utterance is None:
            examples = (
                f"{corpus.utterances[0].id} or {relative(corpus.utterances[0].path, corpus.root)}"
                if corpus.utterances
                else "none"
            )
            raise DataError(f"{where(name)}: {name} is no utterance of {corpus.name} (they look like {examples})")
    return tuple(utterance for utterance in found.values() if utterance is not None)


def _of_files(names: dict[str, int], root: Path, where: Callable[[str], str]) -> tuple[Utterance, ...]:
    utterances = []
    for name in names:
        file = root / name
        if not file.is_file():
            raise DataError(
                f"{where(name)}: {file} does not exist; say with -o data.root=FOLDER where the paths of this list start"
            )
        known = librispeech_name(file) or voxceleb_name(file)
        utterances.append(
            Utterance(known[0], file, speaker=known[1])
            if known
            else Utterance(Path(name).with_suffix("").as_posix(), file)
        )
    return tuple(utterances)
