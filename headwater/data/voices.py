"""Corpora of read voices as they are published: LJSpeech, VCTK, CMU ARCTIC. None states splits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from headwater.data.corpus import Corpus, Utterance, check_unique, relative
from headwater.data.text import lines, some
from headwater.data.trees import LAYOUTS
from headwater.errors import DataError

_LJ = re.compile(r"LJ\d{3}-\d{4}")
_VCTK = re.compile(r"((?:[ps]\d+|s5))_\d{3}(?:_(mic[12]))?")
_ARCTIC_FOLDER = re.compile(r"(?:cmu_us_)?([a-z]+)_arctic")
_ARCTIC = re.compile(r"arctic_[ab]\d{4}")


def ljspeech_name(path: Path) -> tuple[str, str] | None:
    """(utterance id, speaker) of wavs/LJNNN-NNNN.*; None for any other path."""
    return (path.stem, "LJ") if _LJ.fullmatch(path.stem) and path.parent.name == "wavs" else None


def vctk_name(path: Path) -> tuple[str, str] | None:
    """(utterance id, speaker) of pNNN/pNNN_NNN.*, or pNNN_NNN_mic1.* (0.92); None for any other path, the second microphone among them."""
    match = _VCTK.fullmatch(path.stem)
    if match is None or path.parent.name != match[1] or match[2] == "mic2":
        return None
    return path.stem, match[1]


def arctic_name(path: Path) -> tuple[str, str] | None:
    """(utterance id, speaker) of cmu_us_SPEAKER_arctic/wav/arctic_[ab]NNNN.*, whose id is `SPEAKER_arctic_aNNNN`; None for any other path."""
    if len(path.parts) < 3 or not _ARCTIC.fullmatch(path.stem) or path.parent.name not in ("wav", "orig"):
        return None
    match = _ARCTIC_FOLDER.fullmatch(path.parts[-3])
    return None if match is None else (f"{match[1]}_{path.stem}", match[1])


NAMES: Mapping[str, Callable[[Path], tuple[str, str] | None]] = {
    "ljspeech": ljspeech_name,
    "vctk": vctk_name,
    "arctic": arctic_name,
}


def read_voices(folder: Path, files: Sequence[Path], layout: str, name: str | None = None) -> Corpus:
    """A corpus in one of these layouts, with speakers, and `text` where LJSpeech's metadata.csv has it. Of ARCTIC, `wav/` goes before the originals.

    Raises
    ------
    DataError: no file has such a name, an utterance is there twice, or a line of metadata.csv is broken.
    """
    identify = NAMES[layout]
    named = {path: found for path in files if (found := identify(path)) is not None}
    if not named:
        raise DataError(
            f"{folder} holds {len(files)} audio files, none of which lies as in {layout}; the first is {files[0]}\n{LAYOUTS}"
        )
    if layout == "arctic":
        named = {path: found for path, found in named.items() if path.parent.name == "wav"} or named
    texts = _texts(folder) if layout == "ljspeech" else {}
    utterances = [
        Utterance(key, path, speaker=speaker, labels={"text": texts[key]} if key in texts else {})
        for path, (key, speaker) in named.items()
    ]
    check_unique(utterances, [str(utterance.path) for utterance in utterances], "keep one of the two")
    strangers = [relative(path, folder) for path in files if path not in named]
    notes = [f"read as {layout} ({len(utterances)} utterances)"]
    if strangers:
        notes.append(f"{len(strangers)} audio files are left out, such as {some(strangers, 3)}")
    return Corpus(name or folder.name, layout, folder, tuple(utterances), tuple(notes))


def _texts(folder: Path) -> dict[str, str]:
    """LJSpeech's `ID|as written|as read`, by id; none without the file."""
    file = folder / "metadata.csv"
    if not file.is_file():
        return {}
    found = {}
    for number, line in lines(file):
        fields = line.rstrip("\n").split("|")
        if len(fields) not in (2, 3) or not _LJ.fullmatch(fields[0]):
            raise DataError(f"{file}:{number}: {line.strip()!r} is not `ID|text|text as it is read`")
        found[fields[0]] = fields[-1]
    return found
