"""Wrong use, for tests: corpora and runs, what may be wrong with them, commands on them, and what is left in a folder."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from corpora import make_corpus

from headwater.cli.main import main
from headwater.cli.shell import guarded
from headwater.data.labels import num_labels
from headwater.data.readers import read_corpus

DATA = {
    "csv": "csv/corpus.csv",
    "librispeech": "librispeech/LibriSpeech",
    "voxceleb": "voxceleb",
    "kaldi": "kaldi/data",
    "folder": "folder/speakers",
}
FIRST = {  # the first utterance of the first speaker
    "csv": "csv/wav/spk00/spk00-00.wav",
    "librispeech": "librispeech/LibriSpeech/train-clean-100/100/7000/100-7000-0000.flac",
    "voxceleb": "voxceleb/wav/id10001/video000000/00001.wav",
    "kaldi": "kaldi/audio/spk00-00.wav",
    "folder": "folder/speakers/spk00/00.wav",
}
TASKS = {
    "speaker": "",
    "speaker_frame": "",
    "speaker_sid": "",
    "classify": ",,data.label_column=speaker",
    "phone": ",,data.labels={0}/phones.txt",
    "speaker_verification": ",,data.trials={0}/trials.txt",
}
USAGE, WRONG_DATA, OTHER = 2, 3, 1


def train(task: str = "speaker", reader: str = "csv", *more: str) -> tuple[str, ...]:
    """A short evaluation of a corpus below the working directory, written to `result`."""
    settings = "runner.total_steps=2,,runner.eval_step=2" + TASKS[task].format(reader)
    return (
        "run", "-u", "fbank_no_cmvn", "-d", task, "--data", DATA[reader], "--device", "cpu", "-p", "result", "-o", settings,
        *more,
    )  # fmt: skip


def csv(*more: str) -> tuple[str, ...]:
    return train("speaker", "csv", *more)


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


def command(*arguments: str) -> Said:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = guarded(main, arguments)
        except SystemExit as ended:  # argparse
            code = int(ended.code or 0)
    return Said(code, out.getvalue(), err.getvalue())


def make_all(place: Path) -> Path:
    """Every corpus with labels and trials of its own, and three runs on the CSV: of a speaker, a phone and a verification task."""
    with _chdir(place):
        for reader in DATA:
            make_corpus(Path(reader), reader)
            corpus = read_corpus(DATA[reader])
            lines = [
                f"{one.id} {' '.join(str(k % 4) for k in range(num_labels(soundfile.info(one.path).frames)))}\n"
                for one in corpus.utterances
            ]
            Path(reader, "phones.txt").write_text("".join(lines))
            first, others = corpus.utterances[0], corpus.utterances[1:]
            trials = [f"{int(first.speaker == other.speaker)} {first.id} {other.id}\n" for other in others]
            Path(reader, "trials.txt").write_text("".join(trials))
        for task in ("speaker", "phone", "speaker_verification"):
            said = command(*train(task, "csv", "-p", f"run-{task}"))
            assert said.code == 0, said.err
    return place


@contextlib.contextmanager
def _chdir(place: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(place)
    try:
        yield
    finally:
        os.chdir(before)


def tree(folder: str = ".") -> dict[str, bytes | None]:
    """All files below a folder with their content, and its folders."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(Path(folder).rglob("*"))}


def whole(folder: str = "result") -> bool:
    """Whether a folder holds nothing half-written: no temporary file, no lock, and JSON that parses."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text())
    return not any(path.name.startswith(".") for path in files)


# Faults: each changes the working directory, where the corpora and runs lie.


def write(file: str, text: str | bytes) -> Callable[[], object]:
    def fault() -> None:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_bytes(text if isinstance(text, bytes) else text.encode())

    return fault


def replace(file: str, old: str, new: str, times: int = 1) -> Callable[[], object]:
    def fault() -> None:
        text = Path(file).read_text()
        assert old in text
        Path(file).write_text(text.replace(old, new, times))

    return fault


def remove(file: str) -> Callable[[], object]:
    return lambda: shutil.rmtree(file) if Path(file).is_dir() else Path(file).unlink()


def drop_line(file: str, number: int) -> Callable[[], object]:
    def fault() -> None:
        rows = Path(file).read_text().splitlines(keepends=True)
        Path(file).write_text("".join(rows[:number] + rows[number + 1 :]))

    return fault


def both(*faults: Callable[[], object]) -> Callable[[], object]:
    return lambda: [fault() for fault in faults]


def sound(file: str, samples: np.ndarray, rate: int = 16000) -> None:
    """A WAV of 32-bit floats, whatever the file is called."""
    soundfile.write(file, samples, rate, format="WAV", subtype="FLOAT")


def with_nan(file: str) -> None:
    samples, _ = soundfile.read(file)
    samples[len(samples) // 2] = np.nan
    sound(file, samples)


def cut(file: str) -> None:
    content = Path(file).read_bytes()
    Path(file).write_bytes(content[: len(content) // 2])


def nothing() -> None:
    pass


class Owned:
    """A pickle that runs a command where somebody unpickles it."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch owned",)


AUDIO: dict[str, tuple[Callable[[str], object], tuple[str, ...]]] = {
    "zero bytes": (lambda file: Path(file).write_bytes(b""), ("cannot be read as audio", "--skip-bad-audio")),
    "no samples": (lambda file: sound(file, np.zeros(0)), ("holds no samples", "--skip-bad-audio")),
    "text": (lambda file: Path(file).write_text("no sound"), ("cannot be read as audio", "--skip-bad-audio")),
    "cut off": (cut, ("truncated", "--skip-bad-audio")),
    "8 kHz": (lambda file: sound(file, np.ones(4000), 8000), ("8000 Hz", "data.resample=true")),
    "stereo": (lambda file: sound(file, np.ones((8000, 2))), ("2 channels", "data.channel=mean|0|1")),
    "NaN": (with_nan, ("NaN", "--skip-bad-audio")),
}


@dataclass(frozen=True)
class Row:
    """A fault in the working directory, a command on it, and how that must end. uses: what of `made` lies there."""

    name: str
    arguments: tuple[str, ...]
    code: int
    words: tuple[str, ...]
    fault: Callable[[], object] = nothing
    uses: tuple[str, ...] = ("csv",)


def refused(row: Row, place: Callable[..., None]) -> None:
    """The command of a row ends with its code, in words, and changes nothing."""
    place(*row.uses)
    row.fault()
    before = tree()
    said = command(*row.arguments)
    assert said.code == row.code, said
    assert [word for word in row.words if word not in said.err] == [], said.err
    assert "Traceback" not in said.out + said.err, said
    assert (after := tree()) == before, sorted({path for path, _ in before.items() ^ after.items()})
