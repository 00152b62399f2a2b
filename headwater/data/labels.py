"""Frame labels: a class every 10 ms, placed in time.

Label k belongs to the time 0.0125 + 0.010 k seconds, the centre of the k-th 25 ms window without padding; n samples at
16 kHz carry (n - 400) // 160 + 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headwater.data.intervals import SILENCE, Intervals, read_interval_file
from headwater.data.text import lines, some
from headwater.errors import DataError, UsageError, nearest

if TYPE_CHECKING:
    import numpy as np

HOP = 0.010  # seconds
ZERO_CENTRE = 0.0125  # seconds
SAMPLE_RATE = 16000
_HOP, _WINDOW = 160, 400  # the same in samples: all arithmetic on label times is done in integers
CLASS_FILES = ("phone_classes.txt", "classes.txt", "classes")
_INTERVAL_SUFFIXES = (".lab", ".textgrid")
_LARGEST_CLASS = 2**15 - 1


@dataclass(frozen=True)
class FrameLabels:
    """Labels by utterance id: int16 arrays (T,), class `labels[id][k]` at `centre + k * hop` seconds. `classes[c]`
    names class c, where names are known."""

    labels: Mapping[str, np.ndarray]
    classes: tuple[str, ...] | None = None
    hop: float = HOP
    centre: float = ZERO_CENTRE
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """As many as there are names, or one more than the largest label."""
        if self.classes is not None:
            return len(self.classes)
        return 1 + max((int(values.max()) for values in self.labels.values() if len(values)), default=-1)


def num_labels(num_samples: int) -> int:
    """Labels that `num_samples` at 16 kHz carry.

    >>> num_labels(16000), num_labels(400), num_labels(399)
    (98, 1, 0)
    """
    return max(0, (num_samples - _WINDOW) // _HOP + 1)


def label_centres(count: int) -> np.ndarray:
    """The first `count` label times in samples at 16 kHz: int64 (count,), 200, 360, 520, ..."""
    import numpy as np

    return _WINDOW // 2 + _HOP * np.arange(count, dtype=np.int64)


def read_frame_labels(
    path: Path | str,
    *,
    num_samples: Mapping[str, int] | None = None,
    classes: Path | str | Sequence[str] | None = None,
    tier: str = "phones",
    strip_stress: bool = True,
) -> FrameLabels:
    """Frame labels from `path`, in any of the known forms.

    Parameters
    ----------
    path: a file of lines `UTTERANCE l0 l1 l2 ...` (the CPC form); or a `.lab` file (lines `start end name`, see
        `intervals.read_lab`) or a Praat TextGrid, or a folder of these, searched wholly, where the name of a file
        without its suffix is the utterance's id.
    num_samples: length of the utterances at 16 kHz, for interval files: the labels then fill it. Otherwise xmax of a
        TextGrid or the last end of a `.lab` file.
    classes: names of the classes: a file of lines `INDEX NAME`, or the names in order. When not given: for the CPC form
        a file `phone_classes.txt`, `classes.txt` or `classes` beside it, if there is one; for interval files the names
        that occur, sorted, SIL first.
    tier: tier of a TextGrid.
    strip_stress: the 15 ARPAbet vowels lose the stress digit (`AH0` is `AH`); other names are never changed.

    Raises
    ------
    DataError: the file and line of what cannot be read.
    UsageError: the path does not exist.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UsageError(
            f"there are no labels at {path}: give a file in CPC form, a .lab or TextGrid file, or a folder of these (-o data.labels=...)"
        )
    named = _given_classes(classes)
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in _INTERVAL_SUFFIXES and not file.name.startswith(".")
        )
        if not files:
            raise DataError(f"{path} holds no .lab and no .TextGrid file")
        return labels_of_files(files, num_samples or {}, named, tier, strip_stress)
    if path.suffix.lower() in _INTERVAL_SUFFIXES:
        return labels_of_files([path], num_samples or {}, named, tier, strip_stress)
    return _read_cpc(path, named)


def _given_classes(classes: Path | str | Sequence[str] | None) -> tuple[str, ...] | None:
    if classes is None:
        return None
    if isinstance(classes, str | Path):
        return read_classes(Path(classes))
    return tuple(classes)


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names from lines `INDEX NAME` with the indices 0, 1, 2, ... in any order.

    Raises
    ------
    DataError: file and line of a malformed line, a repeated index or name, or a gap.
    """
    names: dict[int, str] = {}
    for number, line in lines(path):
        fields = line.split()
        if len(fields) != 2 or not fields[0].isdecimal():
            raise DataError(f"{path}:{number}: {line!r} is not INDEX NAME")
        index = int(fields[0])
        if index in names or fields[1] in names.values():
            raise DataError(f"{path}:{number}: {line!r} repeats an index or a name")
        names[index] = fields[1]
    if not names or sorted(names) != list(range(len(names))):
        raise DataError(f"{path}: the indices must be 0, 1, 2, ... without a gap; there are {some(sorted(names))}")
    return tuple(names[index] for index in range(len(names)))


def _read_cpc(path: Path, classes: tuple[str, ...] | None) -> FrameLabels:
    import numpy as np

    notes = []
    beside = next((path.parent / name for name in CLASS_FILES if (path.parent / name).is_file()), None)
    if classes is None and beside is not None and beside != path:
        classes = read_classes(beside)
        notes.append(f"class names of {path.name} come from {beside.name} beside it")
    limit = len(classes) if classes is not None else _LARGEST_CLASS + 1
    labels: dict[str, np.ndarray] = {}
    for number, line in lines(path):
        name, _, rest = line.strip().partition(" ")
        try:
            values = np.array(rest.split(), dtype=np.int64)
        except (ValueError, OverflowError):
            wrong = next(word for word in rest.split() if not word.isdecimal() or int(word) > _LARGEST_CLASS)
            raise DataError(
                f"{path}:{number}: {wrong!r} is not a class number; the form is UTTERANCE l0 l1 l2 ..."
            ) from None
        if not len(values):
            raise DataError(f"{path}:{number}: {name!r} has no labels; the form is UTTERANCE l0 l1 l2 ...")
        if values.min() < 0 or values.max() >= limit:
            wrong = values[(values < 0) | (values >= limit)][0]
            raise DataError(f"{path}:{number}: {name} has the label {wrong}, and classes are 0 to {limit - 1}")
        if name in labels:
            raise DataError(f"{path}:{number}: {name} has labels in an earlier line already")
        labels[name] = values.astype(np.int16)
    if not labels:
        raise DataError(f"{path} is empty; the form is UTTERANCE l0 l1 l2 ...")
    return FrameLabels(labels, classes, notes=tuple(notes))


def labels_of_files(
    files: Sequence[Path],
    num_samples: Mapping[str, int],
    classes: tuple[str, ...] | None = None,
    tier: str = "phones",
    strip_stress: bool = True,
) -> FrameLabels:
    """`read_frame_labels` for interval files whatever they are called; all but TextGrids are lines `start end name`."""
    read: dict[str, Intervals] = {}
    for file in files:
        intervals = read_interval_file(file, tier=tier, strip_stress=strip_stress)
        if file.stem in read:
            raise DataError(f"{file.stem} has two label files: {read[file.stem].path} and {file}")
        read[file.stem] = intervals
    found = {name for intervals in read.values() for name in intervals.names}
    if classes is None:
        classes = (SILENCE, *sorted(found - {SILENCE}))
    elif SILENCE not in classes:
        raise DataError(f"the given classes lack {SILENCE}, which stands for all time without a name")
    index = {name: number for number, name in enumerate(classes)}
    for intervals in read.values():
        for name, line in zip(intervals.names, intervals.lines, strict=True):
            if name not in index:
                raise DataError(
                    f"{intervals.path}:{line}: {name!r} is not one of the {len(classes)} classes.{nearest(name, list(classes))}"
                )
    labels = {name: _sample(intervals, index, num_samples.get(name)) for name, intervals in read.items()}
    return FrameLabels(labels, classes)


def _sample(intervals: Intervals, index: Mapping[str, int], num_samples: int | None) -> np.ndarray:
    """The class of the interval around each label time; silence where there is none."""
    import numpy as np

    if num_samples is None:
        num_samples = round(intervals.duration * SAMPLE_RATE)
    centres = label_centres(num_labels(num_samples))
    # Rounded to a thousandth of a sample: 0.1225 s * 16000 must be 1960, not a hair above it.
    starts = np.round(np.array([-1.0, *intervals.starts]) * SAMPLE_RATE, 3)
    ends = np.round(np.array([-1.0, *intervals.ends]) * SAMPLE_RATE, 3)
    numbers = np.array([index[SILENCE], *(index[name] for name in intervals.names)], dtype=np.int16)
    around = np.searchsorted(starts, centres, side="right") - 1
    return np.where(centres < ends[around], numbers[around], np.int16(index[SILENCE])).astype(np.int16)
