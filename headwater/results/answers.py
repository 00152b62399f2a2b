"""Answers that are sound: WAV files below one folder, and a table that names them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.audio.write import Signal, WavWriter
from headwater.errors import HeadwaterError, UsageError
from headwater.results.files import all_or_none, write_bytes
from headwater.results.names import safe, unique

if TYPE_CHECKING:
    from torch import Tensor

TABLE = "answers.jsonl"


class Answers:
    """A folder of answers for some files: `STEM-NAME.wav` for each signal, STEM being the name of the file answered for, and `answers.jsonl`.

    It is written inside a `with`, at whose end all of them are there, or none where something was raised.

    inputs: those files, by the id of their row. notes: sentences for the user, of what would have clipped.

    Raises `UsageError` where one of the inputs lies in the folder itself, so that none can be overwritten.
    """

    def __init__(self, folder: Path, inputs: Mapping[str, Path]) -> None:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"--out {folder}: is a file; this task answers with sound, which goes into a folder")
        here = next((file for file in inputs.values() if _inside(file, folder)), None)
        if here is not None:
            raise UsageError(f"--out {folder}: {here} lies there; give the answers a folder of their own")
        self.folder, self.notes = folder, list[str]()
        self._stems = dict(zip(inputs, unique(safe(file.stem) for file in inputs.values()), strict=True))

    def __enter__(self) -> Answers:
        self._files = all_or_none(self.folder)
        self._place = self._files.__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._files.__exit__(kind, error, trace)

    def write(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Write the signals of a row. Returns the row with the names of their files in their place."""
        paths = {}
        for key, signal in signals_of(row).items():
            with self._writer(row["id"], key, signal.sample_rate) as writer:
                writer.write(signal.samples())
            self._note(writer)
            paths[key] = writer.path
        rest = {key: value for key, value in row.items() if not signals_of({key: value})}
        return {**rest, **{key: path.name for key, path in paths.items()}}

    def write_stretches(
        self, name: str, stretches: Iterable[Mapping[str, Tensor]], rate: int, samples: int
    ) -> dict[str, Any]:
        """Write signals of so many samples that come in stretches, at `rate` Hz. Returns the row, whose id is `name`.

        Raises `HeadwaterError` where the stretches do not add up to that.
        """
        writers: dict[str, WavWriter] = {}
        with ExitStack() as stack:
            for stretch in stretches:
                for key, signal in stretch.items():
                    if key not in writers:
                        writers[key] = stack.enter_context(self._writer(name, key, rate))
                    writers[key].write(Signal(signal, rate).samples())
            if wrong := [key for key, writer in writers.items() if writer.samples != samples]:
                raise HeadwaterError(
                    f"{name}: the answer {wrong[0]!r} has {writers[wrong[0]].samples} samples, and the file has {samples}"
                )
        for writer in writers.values():
            self._note(writer)
        return {"id": name, **{key: writer.path.name for key, writer in writers.items()}}

    def table(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the rows; the names of files in them are relative to the folder."""
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        write_bytes(self._place / TABLE, "".join(lines).encode())

    def _note(self, writer: WavWriter) -> None:
        if writer.note:
            self.notes.append(writer.note)

    def _writer(self, name: str, key: str, rate: int) -> WavWriter:
        # The last dash parts stem and name, so that no two of them make one file.
        file = f"{self._stems[name]}-{safe(key).replace('-', '_')}.wav"
        return WavWriter(self._place / file, rate, self.folder / file)


def signals_of(row: Mapping[str, Any]) -> dict[str, Signal]:
    """The signals of a row by the names that their files get; those of a list are numbered from 1."""
    found: dict[str, Signal] = {}
    for key, value in row.items():
        if isinstance(value, Signal):
            found[key] = value
        elif isinstance(value, (list, tuple)):
            found.update({f"{key}{n}": one for n, one in enumerate(value, start=1) if isinstance(one, Signal)})
    return found


def _inside(file: Path, folder: Path) -> bool:
    """Whether a file, or what a link of this name leads to, lies in a folder."""
    return folder.resolve() in (file.parent.resolve(), file.resolve().parent)
