"""Corpora as lists: CSV and TSV tables, and Kaldi data directories."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

from headwater.data.corpus import SPLITS, Corpus, Utterance, check_unique, split_name
from headwater.data.text import find_root, lines, read_text, some
from headwater.errors import DataError, nearest

_COLUMNS = ("path", "id", "split", "speaker", "start", "end")


@dataclass(frozen=True)
class Table:
    """What a CSV or TSV file with a header line holds: its columns, and its rows, each as many cells, with the lines they end on."""

    header: list[str]
    rows: list[tuple[int, list[str]]]
    tabs: bool


def read_table(path: Path) -> Table:
    """Columns are parted by tabs when the header holds one, by commas otherwise; blank lines are passed over.

    Raises
    ------
    DataError: file and line of what is wrong.
    """
    text = read_text(path)
    tabs = "\t" in text.partition("\n")[0]
    # In tab-separated files of speech corpora a quotation mark is text.
    table = csv.reader(
        io.StringIO(text, newline=""),
        delimiter="\t" if tabs else ",",
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
        strict=True,
    )
    rows: list[tuple[int, list[str]]] = []
    try:
        header = [column.strip() for column in next(table, [])]
        _check_header(path, header)
        for row in table:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{path}:{table.line_num}: {len(row)} columns where the header has {len(header)} ({', '.join(header)})"
                )
            rows.append((table.line_num, row))
    except csv.Error as error:
        raise DataError(f"{path}:{table.line_num}: {error}; quote fields that hold commas or quotation marks") from None
    if not rows:
        raise DataError(f"{path} has a header and no rows")
    return Table(header, rows, tabs)


def _check_header(path: Path, header: list[str]) -> None:
    if not header:
        raise DataError(f"{path} is empty; a corpus list has a header line such as path,speaker,split")
    for column in header:
        if header.count(column) > 1:
            raise DataError(f"{path}:1: two columns are called {column!r}")


def read_csv(path: Path, *, root: Path | str | None = None, name: str | None = None) -> Corpus:
    """A table with a header line: a column `path`, and `id`, `split`, `speaker`, `start`, `end` (seconds) if there are
    such; all others become labels.

    Columns are parted by tabs when the header holds one, by commas otherwise. The id is the stem of the file, with the
    times in milliseconds when the row is a part of it, unless there is a column `id`.

    Raises
    ------
    DataError: file and line of what is wrong.
    """
    table = read_table(path)
    header, rows = table.header, table.rows
    if "path" not in header:
        hint = nearest("path", header)
        raise DataError(f"{path}:1: there is no column `path`; the columns are {', '.join(header)}.{hint}")
    place = header.index("path")
    for number, row in rows:
        if not row[place].strip():
            raise DataError(f"{path}:{number}: the path is empty")
    base = find_root(path, [row[place].strip() for _, row in rows], root, f":{rows[0][0]}")
    utterances, renamed = [], set()
    for number, row in rows:
        cells = {column: cell.strip() for column, cell in zip(header, row, strict=True)}
        if "split" in cells and cells["split"] != split_name(cells["split"]):
            renamed.add(cells["split"])
        utterances.append(_utterance(f"{path}:{number}", cells, base))
    check_unique(
        utterances,
        [f"line {number} ({row[place]})" for number, row in rows],
        f"add a column `id` to {path} with a name of its own for each row",
    )
    used = [column for column in _COLUMNS if column in header]
    further = [column for column in header if column not in _COLUMNS]
    notes = [
        (
            f"read as {'TSV' if table.tabs else 'CSV'} ({', '.join(used)}{'; labels: ' + ', '.join(further) if further else ''}); paths are relative to {base}"
        )
    ]
    notes.extend(f"the split {word!r} is taken as {split_name(word)}" for word in sorted(renamed))
    return Corpus(name or path.stem, "csv", base, tuple(utterances), tuple(notes))


def _utterance(where: str, cells: dict[str, str], base: Path) -> Utterance:
    start, end = (_seconds(where, column, cells.get(column, "")) for column in ("start", "end"))
    if end is not None and end <= (start or 0.0):
        raise DataError(f"{where}: the end, {end:g} s, is not after the start, {start or 0.0:g} s")
    split = None
    if "split" in cells:
        split = split_name(cells["split"])
        if split is None:
            raise DataError(
                f"{where}: {cells['split']!r} is not a split; the splits are {', '.join(SPLITS)}.{nearest(cells['split'].lower(), list(SPLITS))}"
            )
    file = base / cells["path"]
    name = cells.get("id", "")
    if "id" in cells and not name:
        raise DataError(f"{where}: the id is empty")
    if not name:
        name = file.stem
        if start is not None or end is not None:
            name += f"-{round(1000 * (start or 0.0)):07d}-{'end' if end is None else f'{round(1000 * end):07d}'}"
    speaker = cells.get("speaker")
    if speaker == "":
        raise DataError(f"{where}: the speaker is empty")
    return Utterance(
        name,
        file,
        start,
        end,
        split,
        speaker,
        {column: cell for column, cell in cells.items() if column not in _COLUMNS},
    )


def _seconds(where: str, column: str, cell: str) -> float | None:
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise DataError(f"{where}: the {column} {cell!r} is not a time in seconds")
    return value


def read_kaldi(folder: Path, *, root: Path | str | None = None, name: str | None = None) -> Corpus:
    """A Kaldi data directory: `wav.scp` with plain paths, and `utt2spk` and `segments` if there are such.

    Raises
    ------
    DataError: a command pipe or an archive offset in `wav.scp` (neither is ever run or opened), or file and line of
        what is wrong.
    """
    scp = folder / "wav.scp"
    recordings: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for number, line in lines(scp):
        key, _, value = line.strip().partition(" ")
        value = value.strip()
        if value.endswith("|") or value.startswith("|"):
            raise DataError(
                f"{scp}:{number}: {key} is a command pipe ({value}); commands are never run: write the audio to files and list their paths"
            )
        if not value:
            raise DataError(f"{scp}:{number}: {line.strip()!r} is not `ID PATH`")
        if ".ark:" in value:
            raise DataError(
                f"{scp}:{number}: {key} lies in an archive ({value}); write the audio to files and list their paths"
            )
        if key in recordings:
            raise DataError(f"{scp}: two utterances have the id {key!r}: line {numbers[key]} and line {number}")
        recordings[key], numbers[key] = value, number
    if not recordings:
        raise DataError(f"{scp} is empty")
    base = find_root(scp, list(recordings.values()), root)
    parts = (
        _segments(folder / "segments", recordings)
        if (folder / "segments").is_file()
        else {key: (key, None, None) for key in recordings}
    )
    speakers = read_utt2spk(folder / "utt2spk") if (folder / "utt2spk").is_file() else None
    if speakers is not None and (missing := [key for key in parts if key not in speakers]):
        raise DataError(
            f"{folder / 'utt2spk'} has no speaker for {len(missing)} of {len(parts)} utterances: {some(missing)}"
        )
    utterances = tuple(
        Utterance(key, base / recordings[recording], start, end, speaker=None if speakers is None else speakers[key])
        for key, (recording, start, end) in parts.items()
    )
    files = [file for file in ("wav.scp", "utt2spk", "segments") if (folder / file).is_file()]
    return Corpus(
        name or folder.name,
        "kaldi",
        base,
        utterances,
        (f"read as Kaldi data directory ({', '.join(files)}); paths are relative to {base}",),
    )


def _segments(path: Path, recordings: dict[str, str]) -> dict[str, tuple[str, float | None, float | None]]:
    segments: dict[str, tuple[str, float | None, float | None]] = {}
    for number, line in lines(path):
        where = f"{path}:{number}"
        fields = line.split()
        if len(fields) != 4:
            raise DataError(f"{where}: {line.strip()!r} is not `UTTERANCE RECORDING START END`")
        key, recording = fields[:2]
        if recording not in recordings:
            raise DataError(
                f"{where}: the recording {recording!r} is not in wav.scp.{nearest(recording, list(recordings))}"
            )
        if key in segments:
            raise DataError(f"{where}: the id {key!r} has an earlier line already")
        start = _seconds(where, "start", fields[2])
        # Kaldi writes -1 for the end of the recording.
        end = None if fields[3] == "-1" else _seconds(where, "end", fields[3])
        if end is not None and end <= (start or 0.0):
            raise DataError(f"{where}: the end, {end:g} s, is not after the start, {start or 0.0:g} s")
        segments[key] = (recording, start, end)
    if not segments:
        raise DataError(f"{path} is empty")
    return segments


def read_utt2spk(path: Path) -> dict[str, str]:
    """Speakers by utterance, from lines `UTTERANCE SPEAKER`. `DataError` with file and line of another."""
    speakers = {}
    for number, line in lines(path):
        fields = line.split()
        if len(fields) != 2:
            raise DataError(f"{path}:{number}: {line.strip()!r} is not `UTTERANCE SPEAKER`")
        speakers[fields[0]] = fields[1]
    return speakers
