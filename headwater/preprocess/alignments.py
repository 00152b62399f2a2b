"""Alignments with times (Montreal text, .lab, TextGrid) -> labels every 10 ms in CPC's form, which `-o data.labels=FILE` reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from headwater.data.corpus import Utterance
from headwater.data.labels import FrameLabels, labels_of_files
from headwater.data.measure import measure
from headwater.data.text import lines
from headwater.errors import DataError, UsageError
from headwater.preprocess.acoustic import SAMPLE_RATE
from headwater.results.files import write_bytes

SUFFIXES = (".txt", ".lab", ".textgrid")
_UNALIGNED = "unaligned"  # S3PRL's list of utterances whose alignment failed


def read_alignments(
    folder: Path, *, splits: Sequence[str] = (), num_samples: Mapping[str, int] | None = None, tier: str = "phones"
) -> FrameLabels:
    """Labels of all alignments below a folder, or below the sub-folders that `splits` names. The name of a file is the utterance's id.

    What an `unaligned.txt` lists is left out, with a note. num_samples: lengths at 16 kHz, which labels then fill; without, the last time in a file is its end.

    Raises UsageError for a folder that is not there, DataError for what cannot be read, with file and line.
    """
    places = [folder / split for split in splits] or [folder]
    for place in places:
        if not place.is_dir():
            raise UsageError(f"there is no folder {place} of alignments")
    found = [file for place in places for file in sorted(place.rglob("*"))]
    files = [file for file in found if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]
    failed = {line.split()[0] for file in files if file.stem == _UNALIGNED for _, line in lines(file)}
    used = [file for file in files if file.stem != _UNALIGNED and file.stem not in failed]
    if not used:
        raise DataError(f"{folder} holds no alignments ({', '.join(SUFFIXES)})")
    labels = labels_of_files(used, num_samples or {}, tier=tier)
    notes = (f"{len(failed)} utterances are listed as unaligned and left out",) if failed else ()
    return FrameLabels(labels.labels, labels.classes, notes=notes)


def lengths_of(utterances: Sequence[Utterance]) -> dict[str, int]:
    """Samples at 16 kHz by utterance id, from the headers."""
    known, samples, _ = measure(list(utterances), sample_rate=SAMPLE_RATE, resample=True, channel="mean")
    return {utterance.id: int(count) for utterance, count in zip(known, samples, strict=True)}


def write_labels(labels: FrameLabels, folder: Path) -> Path:
    """`phones.txt` (CPC's form) and `phone_classes.txt`; returns the first. Utterances too short for a label are left out."""
    rows = [f"{name} {' '.join(map(str, values))}\n" for name, values in sorted(labels.labels.items()) if len(values)]
    file = folder / "phones.txt"
    write_bytes(file, "".join(rows).encode())
    classes = [f"{index} {name}\n" for index, name in enumerate(labels.classes or ())]
    write_bytes(folder / "phone_classes.txt", "".join(classes).encode())
    return file
