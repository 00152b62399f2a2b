"""Anti-spoofing corpora: keys (`keys.read_key`) that say which utterance is bona fide, and a folder of audio.

Layouts are those of the ASVspoof challenges (2019, 2021 LA and DF, ASVspoof 5 track 1); `protocol.train.txt`, `protocol.dev.txt` and `protocol.eval.txt` beside
a folder of audio is the small form of the first.
"""

from __future__ import annotations

import re
from pathlib import Path

from headwater.data.corpus import Corpus, Utterance, check_unique
from headwater.data.keys import CSV, FORMS, Key, read_key
from headwater.data.text import lines
from headwater.data.trees import find_audio
from headwater.errors import DataError

# What the names of keys say of the split. Those of 2021 say it line by line.
_NAMED = {
    "ASVspoof2019.*.cm.*.tr[nl].txt": re.compile(r"ASVspoof2019\.\w+\.cm\.(train|dev|eval)\.tr[nl]\.txt"),
    "ASVspoof5.*.tsv": re.compile(r"ASVspoof5\.(train|dev|eval)(?:\.track_1)?\.tsv"),
    "protocol.*.txt": re.compile(r"protocol\.(train|dev|eval|test)\.txt"),
}
_KEYS_2021 = ("CM/trial_metadata.txt", "*/CM/trial_metadata.txt", "*/*/CM/trial_metadata.txt", "*/*/*/CM/trial_metadata.txt")  # fmt: skip
_PLACES = ("{}", "*/{}")  # where a corpus' folder holds its keys
_SPLITS = {"train": "train", "dev": "dev", "eval": "test", "test": "test"}
# Systems are compared on eval; progress was what participants of 2021 could look at.
_SUBSETS = {"eval": "test", "progress": "dev"}
_ASV_SCORES = {"dev": "ASVspoof2019.*.asv.dev.*.scores.txt", "test": "ASVspoof2019.*.asv.eval.*.scores.txt"}


def find_keys(folder: Path) -> dict[Path, str | None]:
    """The countermeasure keys of a folder and the split that each is of; None where its lines say it. Empty where there are none.

    Raises
    ------
    DataError: two keys of one split, so that the folder holds more than one corpus.
    """
    found: dict[Path, str | None] = {}
    for pattern in _NAMED:
        for place in _PLACES:
            files = sorted(folder.glob(place.format(pattern)))
            found.update((file, split) for file in files if (split := _split_of(file)) is not None)
    if not found:
        found = {file: None for pattern in _KEYS_2021 for file in sorted(folder.glob(pattern))}
    first: dict[str | None, Path] = {}
    for file, split in found.items():
        if (other := first.setdefault(split, file)) != file:
            raise DataError(
                f"{folder} holds two keys of one set, {other} and {file}; give the folder of one corpus, or one key and -o data.root=FOLDER for its audio"
            )
    return found


def is_key(file: Path) -> bool:
    """Whether a list is a key of ASVspoof: its first line has as many columns, and a label where they have it."""
    if file.suffix not in (".txt", ".tsv"):
        return False
    _, first = next(lines(file), (0, ""))
    form = FORMS.get(len(first.split()))
    return form is not None and "speaker" in form.columns and first.split()[form.label] in ("bonafide", "spoof")


def read_protocols(path: Path, *, root: Path | str | None = None, name: str | None = None) -> Corpus:
    """The corpus of the keys at `path`: those of a folder, or one, whose utterances have no split where neither its name nor its lines say it.

    Labels of an utterance: `label` (bonafide or spoof), `attack` (`-` of bona fide speech), and what else the key says (codec ...). One without audio is there,
    and refused or passed over as broken audio is.

    Parameters
    ----------
    root: the folder of audio, searched wholly; by default the folder itself, or the one that holds the key.

    Raises
    ------
    DataError: no key, or what is wrong in one, with its line; an utterance that is there twice, or has two files; no utterance has audio.
    """
    folder = path if path.is_dir() else path.parent
    keys = find_keys(path) if path.is_dir() else {path: _split_of(path)}
    if not keys:
        raise DataError(
            f"{path} holds no key of countermeasures; known are ASVspoof2019.LA.cm.*.txt, CM/trial_metadata.txt (2021), ASVspoof5.*.tsv "
            "and protocol.train|dev|eval.txt"
        )
    audio = folder if root is None else Path(root).expanduser().absolute()
    files: dict[str, Path] = {}
    doubles: dict[str, Path] = {}
    for file in find_audio(audio):
        if files.setdefault(file.stem, file) is not file:
            doubles[file.stem] = file
    utterances: list[Utterance] = []
    places: list[str] = []
    left_out = 0
    for file, split in keys.items():
        key = read_key(file)
        if key.form == CSV:
            raise DataError(
                f"{file} is a table with a header, and its folder is read by keys of ASVspoof; give the file itself as --data"
            )
        for trial, where in key.trials.items():
            if where.subset is not None and where.subset not in _SUBSETS:
                left_out += 1
                continue
            if "/" in trial:
                raise DataError(
                    f"{key.place(trial)}: {trial!r} is no name of an utterance; audio is found by the name of its file alone"
                )
            if trial in doubles:
                raise DataError(
                    f"{key.place(trial)}: {trial} has two files, {files[trial]} and {doubles[trial]}; keep one of the two"
                )
            utterances.append(_utterance(key, trial, split, files.get(trial, audio / f"{trial}.flac")))
            places.append(key.place(trial))
    check_unique(utterances, places, "an utterance has one line")
    known = [utterance for utterance in utterances if utterance.id in files]
    if not known:
        raise DataError(
            f"{places[0] if places else path}: none of the {len(utterances)} utterances has audio below {audio}, where files look like "
            f"{next(iter(files))}; say with -o data.root=FOLDER where it is"
        )
    notes = [f"read as anti-spoofing corpus ({', '.join(file.name for file in keys)}); audio is below {audio}"]
    if left_out:
        notes.append(f"{left_out} utterances that are neither of the subset eval nor of progress are left out")
    if strangers := len(files) - len(known):
        notes.append(f"{strangers} audio files that no key names are left out")
    return Corpus(name or folder.name, "protocol", audio, tuple(utterances), tuple(notes))


def _utterance(key: Key, trial: str, split: str | None, file: Path) -> Utterance:
    about = key.trials[trial]
    facts = {name: word for name, word in about.facts.items() if name != "speaker"}
    return Utterance(
        trial,
        file,
        split=split if about.subset is None else _SUBSETS[about.subset],
        speaker=about.facts.get("speaker"),
        labels={"label": about.label, **facts},
    )


def _split_of(file: Path) -> str | None:
    match = next((found for name in _NAMED.values() if (found := name.fullmatch(file.name))), None)
    return None if match is None else _SPLITS[match[1]]


def find_asv_scores(folder: Path) -> dict[str, Path]:
    """ASVspoof 2019's files of ASV scores in a corpus' folder, by split (dev, test). A split that has none, or several, is not there."""
    found = {}
    for split, pattern in _ASV_SCORES.items():
        files = [file for place in _PLACES for file in sorted(folder.glob(place.format(pattern)))]
        if len(files) == 1:
            found[split] = files[0]
    return found


__all__ = ["find_asv_scores", "find_keys", "is_key", "read_protocols"]
