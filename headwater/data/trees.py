"""Corpora as folder trees: LibriSpeech, VoxCeleb, a folder for each speaker, or just audio files."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from headwater.data.corpus import Corpus, Utterance, check_unique, relative, split_name
from headwater.data.text import lines, some
from headwater.errors import DataError, UsageError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
_FOREIGN_SUFFIXES = (".m4a", ".aac", ".mp4", ".wma", ".sph", ".amr", ".webm")
_LIBRISPEECH_STEM = re.compile(r"(\w+)-(\w+)-\w+")
_VOXCELEB_SPEAKER = re.compile(r"id\d{5}")
_SPLIT_FILES = ("iden_split.txt", "veri_test_class.txt")
_SPLIT_NUMBERS = {"1": "train", "2": "dev", "3": "test"}
LAYOUTS = """known layouts:
  a CSV or TSV file with a column path (and split, speaker, ...)
  SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-UTTERANCE.flac (LibriSpeech)
  wav/idNNNNN/VIDEO/NNNNN.wav (VoxCeleb)
  wavs/LJNNN-NNNN.wav and metadata.csv (LJSpeech)
  wav48*/pNNN/pNNN_NNN*.flac (VCTK)
  cmu_us_SPEAKER_arctic/wav/arctic_[ab]NNNN.wav (CMU ARCTIC)
  a folder with wav.scp (Kaldi)
  ASVspoof2019.LA.cm.*.txt, CM/trial_metadata.txt, ASVspoof5.*.tsv or protocol.train|dev|eval.txt, and audio (ASVspoof)
  mixture,source1,source2 or path1,path2,gain1,gain2 (CSV), libri2mix_*.csv, {tr,cv,tt}/{mix,s1,s2}/*.wav (mixtures)
  a folder with features.json and .npy files (precomputed features)
  SPEAKER/*.wav, or train/SPEAKER/*.wav, dev/..., test/...
  any audio files, without speakers: -o data.reader=files"""


def find_audio(folder: Path) -> list[Path]:
    """All audio files below `folder`, sorted by path. Hidden files and folders are passed over, linked folders are
    followed (once each).

    Raises
    ------
    DataError: there is none; what was found is said, and which layouts are known.
    """
    found, others, visited = [], Counter[str](), set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in files:
            suffix = os.path.splitext(file)[1].lower()
            if file.startswith("."):
                continue
            if suffix in AUDIO_SUFFIXES:
                found.append(Path(place, file))
            else:
                others[suffix or "no suffix"] += 1
    if not found:
        seen = some([f"{count} x {suffix}" for suffix, count in others.most_common()]) if others else "no files"
        foreign = [suffix for suffix in _FOREIGN_SUFFIXES if others[suffix]]
        advice = f"; convert {', '.join(foreign)} to WAV or FLAC first" if foreign else ""
        if others[".npy"]:
            advice += "; .npy files are data where a features.json beside them says what they are (docs/preprocess.md)"
        raise DataError(f"{folder} holds no audio ({', '.join(AUDIO_SUFFIXES)}); it holds {seen}{advice}\n{LAYOUTS}")
    return sorted(found)


def librispeech_name(path: Path) -> tuple[str, str, str] | None:
    """(utterance id, speaker, chapter) of SPEAKER/CHAPTER/SPEAKER-CHAPTER-UTTERANCE.*, None for any other path."""
    match = _LIBRISPEECH_STEM.fullmatch(path.stem)
    if match is None or len(path.parts) < 3 or (match[1], match[2]) != (path.parts[-3], path.parts[-2]):
        return None
    return path.stem, match[1], match[2]


def voxceleb_name(path: Path) -> tuple[str, str, str] | None:
    """(utterance id, speaker, video) of idNNNNN/VIDEO/CLIP.*, None for any other path. The id is
    `idNNNNN/VIDEO/CLIP`."""
    if len(path.parts) < 3 or not _VOXCELEB_SPEAKER.fullmatch(path.parts[-3]):
        return None
    return f"{path.parts[-3]}/{path.parts[-2]}/{path.stem}", path.parts[-3], path.parts[-2]


def read_librispeech(folder: Path, files: Sequence[Path], name: str | None = None) -> Corpus:
    """A LibriSpeech tree, its subsets or one of them. Speaker and `chapter` come from the folders, `gender` (F, M) from
    the SPEAKERS.TXT beside the subsets, where there is one; splits from the names of the subsets when there are train-*
    and test-* subsets, otherwise they are left open.

    Raises
    ------
    DataError: no file has such a name, an utterance is there twice (two formats), or SPEAKERS.TXT is malformed.
    """
    utterances, strangers = [], []
    places = (place / "SPEAKERS.TXT" for place in (folder, *folder.absolute().parents[:2]))
    speakers = next((file for file in places if file.is_file()), None)
    genders = _genders(speakers) if speakers is not None else {}
    for path in files:
        named = librispeech_name(path)
        if named is None:
            strangers.append(path)
            continue
        subset = path.parts[-4] if len(path.parts) > 3 else ""
        utterances.append(
            Utterance(
                named[0],
                path,
                split=_subset_split(subset),
                speaker=named[1],
                labels={
                    "chapter": named[2],
                    "subset": subset,
                    **({"gender": genders[named[1]]} if named[1] in genders else {}),
                },
            )
        )
    if not utterances:
        raise DataError(
            f"{folder} holds {len(files)} audio files, none as SPEAKER/CHAPTER/SPEAKER-CHAPTER-UTTERANCE; the first is {files[0]}\n{LAYOUTS}"
        )
    check_unique(utterances, [str(utterance.path) for utterance in utterances], "keep one of the two")
    subsets = Counter(utterance.labels["subset"] for utterance in utterances)
    counts = ", ".join(f"{subset}: {count}" for subset, count in sorted(subsets.items()))
    notes = [
        f"read as LibriSpeech tree ({counts} utterances)",
        *_left_out(strangers),
        *([f"genders are taken from {speakers}"] if speakers is not None else []),
    ]
    splits = {utterance.split for utterance in utterances}
    if {"train", "test"} <= splits and None not in splits:
        notes.append("splits are taken from the names of the subsets")
    else:
        utterances = [replace(utterance, split=None) for utterance in utterances]
    return Corpus(name or folder.name, "librispeech", folder, tuple(utterances), tuple(notes))


def _genders(file: Path) -> dict[str, str]:
    """Of `SPEAKER | F or M | SUBSET | ...`; lines that begin with ; are comments."""
    found = {}
    for number, line in lines(file):
        if line.startswith(";"):
            continue
        speaker, gender = (field.strip() for field in [*line.split("|"), ""][:2])
        if gender not in ("F", "M"):
            raise DataError(f"{file}:{number}: {line.strip()!r} is not `SPEAKER | F or M | SUBSET | ...`")
        found[speaker] = gender
    return found


def _subset_split(subset: str) -> str | None:
    head, dash, _ = subset.partition("-")
    return head if dash and head in ("train", "dev", "test") else None


def read_voxceleb(
    folder: Path, files: Sequence[Path], split_file: Path | str | None = None, name: str | None = None
) -> Corpus:
    """A VoxCeleb tree, with `wav/` level or without, also as `dev/wav` and `test/wav`; speaker and `video` come from
    the folders.

    Splits come from `split_file`, or from `iden_split.txt` (or `veri_test_class.txt`) in the folder, one of its parents
    up to two levels or its sub-folders dev and test; lines `1|2|3 idNNNNN/VIDEO/NNNNN.wav` mean train, dev and test.
    Utterances that it does not list are left out. Without one they are open.

    Raises
    ------
    DataError: no such names, a malformed line, or a listed utterance that is not there.
    """
    utterances, strangers = [], []
    for path in files:
        named = voxceleb_name(path)
        if named is None:
            strangers.append(path)
        else:
            utterances.append(Utterance(named[0], path, speaker=named[1], labels={"video": named[2]}))
    if not utterances:
        raise DataError(
            f"{folder} holds {len(files)} audio files, none as idNNNNN/VIDEO/CLIP; the first is {files[0]}\n{LAYOUTS}"
        )
    check_unique(utterances, [str(utterance.path) for utterance in utterances], "keep one of the two")
    corpus = Corpus(
        name or folder.name,
        "voxceleb",
        folder,
        tuple(utterances),
        ("read as VoxCeleb tree (idNNNNN/VIDEO/CLIP)", *_left_out(strangers)),
    )
    if split_file is None:
        places = [folder, *folder.absolute().parents[:2], folder / "dev", folder / "test"]
        split_file = next((place / file for place in places for file in _SPLIT_FILES if (place / file).is_file()), None)
        if split_file is None:
            return corpus.with_utterances(corpus.utterances, f"no {_SPLIT_FILES[0]} was found beside the tree")
    return _split_voxceleb(corpus, Path(split_file).expanduser())


def _split_voxceleb(corpus: Corpus, split_file: Path) -> Corpus:
    splits: dict[str, str] = {}
    for number, line in lines(split_file):
        fields = line.split()
        named = voxceleb_name(Path(fields[1])) if len(fields) == 2 else None
        if named is None or fields[0] not in _SPLIT_NUMBERS:
            raise DataError(f"{split_file}:{number}: {line.strip()!r} is not `1|2|3 idNNNNN/VIDEO/NNNNN.wav`")
        splits[named[0]] = _SPLIT_NUMBERS[fields[0]]
    here = {utterance.id for utterance in corpus.utterances}
    if missing := [key for key in splits if key not in here]:
        raise DataError(
            f"{len(missing)} of the {len(splits)} utterances of {split_file} are not in {corpus.root}: {some(missing)}; complete the tree or shorten the list"
        )
    kept = [replace(utterance, split=splits[utterance.id]) for utterance in corpus.utterances if utterance.id in splits]
    notes = [f"splits are taken from {split_file}"]
    if len(kept) < len(here):
        notes.append(f"{len(here) - len(kept)} utterances that it does not list are left out")
    return corpus.with_utterances(kept, *notes)


def read_speaker_folders(folder: Path, files: Sequence[Path], name: str | None = None) -> Corpus:
    """A folder for each speaker, or train/SPEAKER, dev/SPEAKER and test/SPEAKER (valid, val and validation are dev).
    The id is the path without suffix.

    Raises
    ------
    DataError: the audio lies in the folder itself, so that no speaker is named.
    """
    first_levels = {path.relative_to(folder).parts[0] for path in files if len(path.relative_to(folder).parts) > 1}
    with_splits = bool(first_levels) and all(split_name(level) for level in first_levels)
    utterances, strangers = [], []
    for path in files:
        parts = path.relative_to(folder).parts
        split, parts = (split_name(parts[0]), parts[1:]) if with_splits and len(parts) > 1 else (None, parts)
        if len(parts) < 2:
            strangers.append(path)
        else:
            utterances.append(Utterance(relative(path.with_suffix(""), folder), path, split=split, speaker=parts[0]))
    if not utterances:
        raise DataError(
            f"{folder} holds {len(files)} audio files and no folder for each speaker (the first is {files[0]})\n{LAYOUTS}"
        )
    check_unique(utterances, [str(utterance.path) for utterance in utterances], "keep one of the two, or rename it")
    layout = "SPLIT/SPEAKER/FILE" if with_splits else "SPEAKER/FILE"
    return Corpus(
        name or folder.name,
        "folder",
        folder,
        tuple(utterances),
        (f"read as a folder for each speaker ({layout})", *_left_out(strangers)),
    )


def read_files(folder: Path, files: Sequence[Path], name: str | None = None) -> Corpus:
    """Every audio file below a folder, without speakers or splits. The id is the path without suffix."""
    utterances = tuple(Utterance(relative(path.with_suffix(""), folder), path) for path in files)
    check_unique(utterances, [str(path) for path in files], "keep one of the two, or rename it")
    return Corpus(name or folder.name, "files", folder, utterances, ("read as audio files without speakers",))


def _left_out(strangers: Sequence[Path]) -> list[str]:
    return (
        [f"{len(strangers)} audio files have another place or name and are left out: {some(strangers, 3)}"]
        if strangers
        else []
    )


def read_tree(
    folder: Path, *, reader: str = "auto", split_file: Path | str | None = None, name: str | None = None
) -> Corpus:
    """A folder tree, by the reader of that name or by the first that knows a file's name.

    Raises
    ------
    UsageError: a split file for another tree than VoxCeleb's.
    DataError: no audio, or none where the layout has it.
    """
    from headwater.data import voices

    files = find_audio(folder)
    if reader == "auto":
        known = (("librispeech", librispeech_name), ("voxceleb", voxceleb_name), *voices.NAMES.items())
        reader = next((layout for layout, identify in known if any(identify(path) for path in files)), "folder")
    if split_file is not None and reader != "voxceleb":
        raise UsageError(
            f"a split file belongs to a VoxCeleb tree, and {folder} is read as {reader}; lists of utterance ids serve every reader (data.train_list, ...)"
        )
    if reader == "librispeech":
        return read_librispeech(folder, files, name)
    if reader == "voxceleb":
        return read_voxceleb(folder, files, split_file, name)
    if reader in voices.NAMES:
        return voices.read_voices(folder, files, reader, name)
    return read_speaker_folders(folder, files, name) if reader == "folder" else read_files(folder, files, name)
