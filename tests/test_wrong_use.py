"""Wrong use, task by reader by fault: the exit code, words that name the culprit, no traceback, and a folder that is what it was before."""
# ruff: noqa: E501 - a table: each fault stands in one line

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import pickle
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from corpora import make_corpus
from filelock import FileLock

from headwater.cli.main import main
from headwater.cli.shell import guarded
from headwater.data.labels import num_labels
from headwater.data.readers import read_corpus
from headwater.errors import HeadwaterError
from headwater.results.events import Events

ROOT = Path(__file__).resolve().parent.parent
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


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every corpus with labels and trials of its own, and three runs on the CSV: of a speaker, a phone and a verification task."""
    place = tmp_path_factory.mktemp("made")
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


@pytest.fixture()
def place(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch, fresh_registry: None) -> Callable[..., None]:
    """Copies parts of `made` into an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python's own habit beside a plugin

    def bring(*parts: str) -> None:
        for part in parts:
            shutil.copytree(made / part, part)
        for file in Path().glob("run-*/config.yaml"):
            # A run says in full where its corpus lies; here that is the copy.
            file.write_text(file.read_text().replace(str(made), str(tmp_path)))

    return bring


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


def audio_rows() -> Iterator[Row]:
    """Every task, every reader, every way in which a file can be broken."""
    for task, reader, (name, (fault, words)) in product(TASKS, DATA, AUDIO.items()):
        file = FIRST[reader]
        yield Row(
            f"{task}, {reader}, {name}", train(task, reader), WRONG_DATA, (Path(file).name, *words),
            lambda fault=fault, file=file: fault(file), (reader,),
        )  # fmt: skip


READER_ROWS = [
    Row(f"{task}, {reader}: {name}", train(task, reader, *more), code, words, fault, (reader,))
    for task, reader, name, code, words, fault, *more in (
        # the folder itself
        ("speaker", "csv", "missing", USAGE, ("there is no data", "corpus.csv"), remove("csv/corpus.csv")),
        ("phone", "csv", "name misspelt", USAGE, ("corpsu.csv", "Did you mean 'corpus.csv'"), nothing, "--data", "csv/corpsu.csv"),
        ("speaker", "csv", "name of 300 letters", OTHER, ("File name too long",), nothing, "--data", "x" * 300),
        ("speaker_frame", "librispeech", "missing", USAGE, ("there is no data", "LibriSpeech"), remove(DATA["librispeech"])),
        ("speaker_sid", "voxceleb", "missing", USAGE, ("there is no data", "voxceleb"), remove("voxceleb")),
        ("phone", "kaldi", "missing", USAGE, ("there is no data", "data"), remove("kaldi/data")),
        ("classify", "folder", "missing", USAGE, ("there is no data", "speakers"), remove("folder/speakers")),
        ("speaker_verification", "folder", "missing", USAGE, ("there is no data", "speakers"), remove("folder/speakers")),
        ("speaker", "folder", "empty", WRONG_DATA, ("speakers holds no audio", "no files", "known layouts"), both(remove("folder/speakers"), lambda: Path("folder/speakers").mkdir())),
        ("phone", "librispeech", "empty", WRONG_DATA, ("LibriSpeech holds no audio",), both(remove(DATA["librispeech"]), lambda: Path(DATA["librispeech"]).mkdir())),
        ("speaker", "folder", "other files only", WRONG_DATA, ("holds no audio", "1 x .txt"), both(remove("folder/speakers"), write("folder/speakers/a/a.txt", ""))),
        ("speaker", "folder", "audio of another kind", WRONG_DATA, ("convert .m4a to WAV or FLAC",), both(remove("folder/speakers"), write("folder/speakers/a/a.m4a", ""))),
        ("speaker", "folder", "files without speakers", WRONG_DATA, ("no folder for each speaker",), lambda: None, "--data", "folder/speakers/spk00"),
        ("speaker", "folder", "files reader without speakers", WRONG_DATA, ("have no speaker",), nothing, "-o", "data.reader=files"),
        ("speaker", "librispeech", "read as VoxCeleb", WRONG_DATA, ("none as idNNNNN/VIDEO/CLIP",), nothing, "-o", "data.reader=voxceleb"),
        ("speaker", "voxceleb", "read as LibriSpeech", WRONG_DATA, ("none as SPEAKER/CHAPTER",), nothing, "-o", "data.reader=librispeech"),
        ("speaker", "csv", "read as a folder", USAGE, ("data.reader=folder", "is a file"), nothing, "-o", "data.reader=folder"),
        ("speaker", "folder", "read as a table", USAGE, ("data.reader=csv", "is a folder"), nothing, "-o", "data.reader=csv"),
        ("speaker", "csv", "unknown reader", USAGE, ("'voxcelb'", "Did you mean 'voxceleb'"), nothing, "-o", "data.reader=voxcelb"),
        ("speaker", "kaldi", "wav.scp instead of its folder", USAGE, ("give the folder",), nothing, "--data", "kaldi/data/wav.scp"),
        # files that are listed and not there
        ("speaker", "csv", "missing file", WRONG_DATA, ("spk00-00.wav is missing", "--skip-bad-audio"), remove(FIRST["csv"])),
        ("phone", "kaldi", "missing file", WRONG_DATA, ("spk00-00.wav is missing",), remove(FIRST["kaldi"])),
        ("speaker_sid", "voxceleb", "missing file", WRONG_DATA, ("iden_split.txt", "id10001/video000000/00001"), remove(FIRST["voxceleb"])),
        ("speaker_verification", "csv", "missing file", WRONG_DATA, ("spk00-00.wav is missing",), remove(FIRST["csv"])),
        ("speaker_verification", "folder", "trial of a missing file", WRONG_DATA, ("trials.txt:1", "spk00/00 is no utterance"), remove(FIRST["folder"])),
        ("phone", "folder", "link to nowhere", WRONG_DATA, ("dir.wav", "--skip-bad-audio"), lambda: Path("folder/speakers/spk00/dir.wav").symlink_to("nowhere"),),
        # CSV
        ("speaker", "csv", "empty list", WRONG_DATA, ("corpus.csv is empty", "header"), write("csv/corpus.csv", "")),
        ("speaker", "csv", "header only", WRONG_DATA, ("a header and no rows",), write("csv/corpus.csv", "path,speaker\n")),
        ("speaker", "csv", "column misspelt", WRONG_DATA, ("no column `path`", "Did you mean 'paht'"), replace("csv/corpus.csv", "path", "paht")),
        ("speaker", "csv", "column twice", WRONG_DATA, ("corpus.csv:1", "two columns are called 'speaker'"), replace("csv/corpus.csv", "split", "speaker")),
        ("speaker", "csv", "a cell too many", WRONG_DATA, ("corpus.csv:2", "5 columns where the header has 4"), replace("csv/corpus.csv", "sentence 0", "sentence 0,x")),
        ("speaker", "csv", "open quotation", WRONG_DATA, ("corpus.csv", "quote fields"), replace("csv/corpus.csv", "sentence 0", '"sentence 0')),
        ("speaker", "csv", "unknown split", WRONG_DATA, ("corpus.csv:2", "'trian'", "Did you mean 'train'"), replace("csv/corpus.csv", ",train,", ",trian,")),
        ("phone", "csv", "duplicate id", WRONG_DATA, ("two utterances have the id 'spk00-00'", "line 2", "line 3", "column `id`"), replace("csv/corpus.csv", "spk00-01.wav", "spk00-00.wav")),
        ("speaker", "csv", "no speaker in a row", WRONG_DATA, ("corpus.csv:2", "the speaker is empty"), replace("csv/corpus.csv", ",spk00,", ",,")),
        ("speaker", "csv", "no speakers at all", WRONG_DATA, ("have no speaker", "column `speaker`"), replace("csv/corpus.csv", "path,speaker", "path,person")),
        ("speaker", "csv", "Latin-1", WRONG_DATA, ("corpus.csv:2", "0xe9 is not UTF-8"), lambda: Path("csv/corpus.csv").write_bytes(Path("csv/corpus.csv").read_bytes().replace(b"sentence 0", b"caf\xe9", 1))),
        ("speaker", "csv", "end before start", WRONG_DATA, ("corpus.csv:2", "not after the start"), write("csv/corpus.csv", "path,speaker,start,end\nwav/spk00/spk00-00.wav,a,0.3,0.2\n")),
        ("speaker", "csv", "end beyond the file", WRONG_DATA, ("spk00-00", "lies outside"), write("csv/corpus.csv", "path,speaker,split,end\nwav/spk00/spk00-00.wav,a,train,9\nwav/spk01/spk01-00.wav,b,dev,0.1\nwav/spk02/spk02-00.wav,b,test,0.1\n")),
        ("speaker", "csv", "a time in words", WRONG_DATA, ("corpus.csv:2", "'soon' is not a time"), write("csv/corpus.csv", "path,speaker,start\nwav/spk00/spk00-00.wav,a,soon\n")),
        ("speaker", "csv", "paths from elsewhere", WRONG_DATA, ("wav/spk00/spk00-00.wav lies in none of", "data.root"), both(lambda: Path("lists").mkdir(), lambda: shutil.move("csv/corpus.csv", "lists/corpus.csv")), "--data", "lists/corpus.csv"),
        ("speaker", "csv", "no test split", WRONG_DATA, ("no test split",), replace("csv/corpus.csv", ",test,", ",dev,", 99)),
        ("speaker", "csv", "some rows without a split", WRONG_DATA, ("'' is not a split",), replace("csv/corpus.csv", ",train,", ",,")),
        ("speaker", "csv", "one speaker", WRONG_DATA, ("1 speaker", "at least two"), both(replace("csv/corpus.csv", ",spk01,", ",spk00,", 99), replace("csv/corpus.csv", ",spk02,", ",spk00,", 99))),
        ("speaker", "csv", "a dev speaker without training", WRONG_DATA, ("spk00-03.wav (dev)", "'stranger'", "training data"), replace("csv/corpus.csv", "spk00-03.wav,spk00", "spk00-03.wav,stranger")),
        ("speaker_sid", "csv", "a test speaker without training", WRONG_DATA, ("spk00-04.wav (test)", "'stranger'"), replace("csv/corpus.csv", "spk00-04.wav,spk00", "spk00-04.wav,stranger")),
        ("speaker", "csv", "nobody with enough utterances", WRONG_DATA, ("fewer than 100 utterances", "data.min_utterances"), nothing, "-o", "data.min_utterances=100"),
        ("classify", "csv", "column misspelt", WRONG_DATA, ("no column 'txet'", "Did you mean 'text'"), nothing, "-o", "data.label_column=txet"),
        ("classify", "csv", "class without training", WRONG_DATA, ("(dev)", "'sentence 3'"), nothing, "-o", "data.label_column=text"),
        ("classify", "csv", "empty label", WRONG_DATA, ("1 of 15 utterances have no class", "'spk00-00'", "fill the column 'text'"), replace("csv/corpus.csv", "sentence 0", ""), "-o", "data.label_column=text"),
        # speakers with one utterance
        ("speaker", "folder", "speaker with one utterance", WRONG_DATA, ("speakers have one utterance", "spk00", "data.min_utterances=2"), lambda: [file.unlink() for file in Path("folder/speakers/spk00").glob("0[1-4].wav")]),
        ("speaker_frame", "librispeech", "speaker with one utterance", WRONG_DATA, ("one utterance", "100"), lambda: [file.unlink() for file in Path(FIRST["librispeech"]).parent.parent.rglob("*-000[1-4].flac")]),
        ("speaker_sid", "kaldi", "speaker with one utterance", WRONG_DATA, ("one utterance", "lonely"), replace("kaldi/data/utt2spk", "spk00-00 spk00", "spk00-00 lonely")),
        # Kaldi
        ("speaker", "kaldi", "command pipe", WRONG_DATA, ("wav.scp:1", "never run", "touch owned"), replace("kaldi/data/wav.scp", "audio/spk00-00.wav", "touch owned |")),
        ("speaker", "kaldi", "archive", WRONG_DATA, ("wav.scp:1", "archive"), replace("kaldi/data/wav.scp", "audio/spk00-00.wav", "raw.ark:17")),
        ("speaker", "kaldi", "id twice", WRONG_DATA, ("two utterances have the id 'spk00-00'",), replace("kaldi/data/wav.scp", "spk00-01 ", "spk00-00 ")),
        ("phone", "kaldi", "no speaker", WRONG_DATA, ("utt2spk has no speaker for 1", "spk00-00"), drop_line("kaldi/data/utt2spk", 0)),
        ("speaker", "kaldi", "utt2spk with three words", WRONG_DATA, ("utt2spk:1", "not `UTTERANCE SPEAKER`"), replace("kaldi/data/utt2spk", "spk00-00 spk00", "spk00-00 spk00 x")),
        ("speaker", "kaldi", "segment of no recording", WRONG_DATA, ("segments:1", "spk00-9", "Did you mean"), write("kaldi/data/segments", "a spk00-9 0 0.1\n")),
        ("speaker", "kaldi", "segment that ends early", WRONG_DATA, ("segments:1", "not after the start"), write("kaldi/data/segments", "a spk00-00 0.2 0.1\n")),
        ("speaker", "kaldi", "empty wav.scp", WRONG_DATA, ("wav.scp is empty",), write("kaldi/data/wav.scp", "")),
        ("speaker", "kaldi", "no wav.scp", WRONG_DATA, ("wav.scp", "cannot be read"), remove("kaldi/data/wav.scp"), "-o", "data.reader=kaldi"),
        # VoxCeleb
        ("speaker", "voxceleb", "split of another form", WRONG_DATA, ("iden_split.txt:1", "1|2|3"), replace("voxceleb/iden_split.txt", "1 id10001", "7 id10001")),
        ("speaker", "librispeech", "split file of VoxCeleb", USAGE, ("belongs to a VoxCeleb tree", "read as librispeech"), write("split.txt", "1 id10001/a/1.wav\n"), "-o", "data.split_file=split.txt"),
        ("speaker", "librispeech", "train list alone", USAGE, ("train_list and test_list",), write("train.txt", "100-7000-0000\n"), "-o", "data.train_list=train.txt"),
        ("speaker", "librispeech", "list that does not exist", WRONG_DATA, ("nix.txt", "No such file"), write("train.txt", "100-7000-0000\n"), "-o", "data.train_list=train.txt,,data.test_list=nix.txt"),
        ("speaker", "librispeech", "list of others", WRONG_DATA, ("are not in", "200-1-1", "look like 100-7000-0000"), both(write("train.txt", "100-7000-0000\n"), write("test.txt", "200-1-1\n")), "-o", "data.train_list=train.txt,,data.test_list=test.txt"),
        # labels
        ("phone", "csv", "no labels", USAGE, ("the phone task needs labels", "data.labels"), nothing, "-o", "data.labels="),
        ("phone", "csv", "missing label file", USAGE, ("there are no labels at nix",), nothing, "-o", "data.labels=nix"),
        ("phone", "folder", "empty label folder", WRONG_DATA, ("no .lab and no .TextGrid",), lambda: Path("labels").mkdir(), "-o", "data.labels=labels"),
        ("phone", "csv", "utterance without labels", WRONG_DATA, ("phones.txt", "no labels for 1 of 15", "'spk00-00'"), drop_line("csv/phones.txt", 0)),
        ("phone", "librispeech", "utterance without labels", WRONG_DATA, ("no labels for 1 of 15", "'100-7000-0000'"), drop_line("librispeech/phones.txt", 0)),
        ("phone", "voxceleb", "utterance without labels", WRONG_DATA, ("no labels for 1 of 15", "id10001/video000000/00001"), drop_line("voxceleb/phones.txt", 0)),
        ("phone", "csv", "labels of another hop", WRONG_DATA, ("'spk00-00' has", "carry", "labels of another hop"), lambda: Path("csv/phones.txt").write_text("\n".join(" ".join([line.split()[0], *line.split()[1::2]]) for line in Path("csv/phones.txt").read_text().splitlines()))),
        ("phone", "csv", "label in letters", WRONG_DATA, ("phones.txt:1", "'AH' is not a class number"), replace("csv/phones.txt", " 0 1 ", " AH 1 ")),
        ("phone", "csv", "labels twice", WRONG_DATA, ("phones.txt:2", "earlier line"), replace("csv/phones.txt", "spk00-01 ", "spk00-00 ")),
        ("phone", "csv", "label beyond the classes", WRONG_DATA, ("phones.txt:1", "has the label 3", "0 to 2"), write("csv/phone_classes.txt", "0 a\n1 b\n2 c\n")),
        ("phone", "csv", "gap in the classes", WRONG_DATA, ("phone_classes.txt", "without a gap"), write("csv/phone_classes.txt", "0 a\n2 c\n")),
        ("phone", "csv", "utterance too short for a label", WRONG_DATA, ("'spk00-00' has", "its 320 samples carry 0"), lambda: sound(FIRST["csv"], np.ones(320))),
        # trials
        ("speaker_verification", "csv", "no trials", USAGE, ("needs a list of trials", "data.trials"), nothing, "-o", "data.trials="),
        ("speaker_verification", "csv", "missing trials", WRONG_DATA, ("nix.txt cannot be read",), nothing, "-o", "data.trials=nix.txt"),
        ("speaker_verification", "csv", "empty trials", WRONG_DATA, ("trials.txt is empty", "1|0 PATH PATH"), write("csv/trials.txt", "")),
        ("speaker_verification", "csv", "trial of a missing file", WRONG_DATA, ("trials.txt:3", "nobody-00 is no utterance"), lambda: drop_third("csv/trials.txt", "1 spk00-00 nobody-00\n")),
        ("speaker_verification", "voxceleb", "label of a trial", WRONG_DATA, ("trials.txt:3", "'maybe'"), lambda: drop_third("voxceleb/trials.txt", "maybe a b\n")),
        ("speaker_verification", "kaldi", "trial with two fields", WRONG_DATA, ("trials.txt:3", "2 fields"), lambda: drop_third("kaldi/trials.txt", "1 spk00-00\n")),
        ("speaker_verification", "csv", "trials of one class", WRONG_DATA, ("trials.txt", "same label"), lambda: Path("csv/trials.txt").write_text("1 spk00-00 spk00-01\n1 spk00-00 spk00-02\n")),
        ("speaker_verification", "csv", "audio as trials", WRONG_DATA, ("spk00-00.wav", "not UTF-8"), nothing, "-o", f"data.trials={FIRST['csv']}"),
        ("speaker_verification", "folder", "trained without splits", WRONG_DATA, ("one utterance", "lonely"), lambda: (Path("folder/speakers/lonely").mkdir(), shutil.copy(FIRST["folder"], "folder/speakers/lonely/9.wav")), "-o", "task.embedding=trained"),
        ("speaker_verification", "csv", "trained, dev speaker unseen", WRONG_DATA, ("dev has speakers that train has not", "stranger"), replace("csv/corpus.csv", "spk00-03.wav,spk00", "spk00-03.wav,stranger"), "-o", "task.embedding=trained"),
        # --skip-bad-audio has limits
        ("speaker", "folder", "skip: nothing is left", WRONG_DATA, ("utterances cannot be used", "00.wav"), lambda: [file.write_bytes(b"") for file in Path("folder/speakers").rglob("*.wav")], "--skip-bad-audio"),
        ("speaker", "csv", "skip: no test utterance is left", WRONG_DATA, ("no readable utterance is left", "'test'"), lambda: [with_nan(str(file)) for file in Path("csv").rglob("*-04.wav")], "--skip-bad-audio"),
    )
]  # fmt: skip


def drop_third(file: str, line: str) -> None:
    rows = Path(file).read_text().splitlines(keepends=True)
    Path(file).write_text("".join([*rows[:2], line, *rows[3:]]))


MODULE = """import torch
class Mine(torch.nn.Module):
    out_dim, frontend = 7, "fbank_no_cmvn"
    def forward(self, x):
        return x[:, :, :7]
"""
MINE = ("run", "--plugin", "mine.py", "-u", "Mine", "-d", "speaker", "--data", DATA["csv"], "-p", "result")


def plugin(name: str, code: int, words: tuple[str, ...], old: str, new: str) -> Row:
    """`MODULE` with one change."""
    assert old in MODULE
    return Row(f"plugin: {name}", MINE, code, words, write("mine.py", MODULE.replace(old, new)))


USE_ROWS = [
    # names
    Row("unknown upstream", csv("-u", "fbnak"), USAGE, ("unknown upstream 'fbnak'", "Did you mean 'fbank'")),
    Row("unknown task", csv("-d", "speeker"), USAGE, ("unknown downstream 'speeker'", "Did you mean 'speaker'")),
    Row("no task", ("run", "-u", "fbank"), USAGE, ("-d TASK", "speaker_verification")),
    Row("no upstream", ("run", "-d", "phone"), USAGE, ("-u UPSTREAM", "fbank")),
    Row("unknown flag", csv("--upstraem"), USAGE, ("--upstraem",)),
    Row("unknown mode", csv("-m", "tarin"), USAGE, ("'tarin'", "evaluate")),
    Row("unknown verb", ("rnu",), USAGE, ("no verb 'rnu'", "Did you mean 'run'")),
    Row("nothing to show", ("show", "fbnak"), USAGE, ("'fbnak'", "Did you mean 'fbank'")),
    Row("nothing to check", ("check", "upstream", "fbnak"), USAGE, ("Did you mean 'fbank'",)),
    Row("nothing to pretrain", ("pretrain", "-u", "teraa"), USAGE, ("teraa",)),
    Row("table of no run", ("table", "csv"), WRONG_DATA, ("csv holds no result.json",)),
    Row("comparison with no run", ("compare", "run-speaker", "nix"), WRONG_DATA, ("nix is not a folder",), uses=("run-speaker",)),
    Row("comparison of two tasks", ("compare", "run-speaker", "run-speaker_verification"), WRONG_DATA, ("run-speaker",), uses=("run-speaker", "run-speaker_verification")),
    # settings
    Row("unknown key", csv("-o", "runner.total_step=5"), USAGE, ("'runner.total_step'", "Did you mean 'total_steps'")),
    Row("unknown section", csv("-o", "optimiser.lr=1"), USAGE, ("'optimiser'", "Did you mean 'optimizer'")),
    Row("unknown key of the task", csv("-o", "task.levle=frame"), USAGE, ("'task.levle'", "Did you mean 'level'")),
    Row("unknown key of the front-end", csv("-o", "upstream.config.kaldi.fbank.num_mel_bin=7"), USAGE, ("num_mel_bin", "num_mel_bins")),
    Row("word for a number", csv("-o", "runner.total_steps=many"), USAGE, ("'runner.total_steps'", "integer", "'many'")),
    Row("negative steps", csv("-o", "runner.total_steps=-5"), USAGE, ("'runner.total_steps'", "greater than or equal to 1", "-5")),
    Row("no epochs", csv("-o", "runner.epochs=0"), USAGE, ("'runner.epochs'",)),
    Row("rate of nothing", csv("-o", "optimizer.lr=0"), USAGE, ("'optimizer.lr'", "greater than 0")),
    Row("infinite rate", csv("-o", "optimizer.lr=.inf"), USAGE, ("'optimizer.lr'", "finite")),
    Row("rate that is no number", csv("-o", "optimizer.lr=.nan"), USAGE, ("'optimizer.lr'", "finite")),
    Row("betas above one", csv("-o", "optimizer.betas=[2, 3]"), USAGE, ("'optimizer.betas.0'", "less than 1")),
    Row("unknown optimiser", csv("-o", "optimizer.name=Adagrad"), USAGE, ("'optimizer.name'", "'AdamW'", "Adagrad")),
    Row("list for a name", csv("-o", "scheduler.name=[1]"), USAGE, ("'scheduler.name'",)),
    Row("group for a name", csv("-o", "optimizer.name={a: 1}"), USAGE, ("'optimizer.name'",)),
    Row("value for a group", csv("-o", "optimizer=5"), USAGE, ("'optimizer' is a group", "5")),
    Row("list for a group", csv("-o", "runner=[1]"), USAGE, ("'runner' is a group",)),
    Row("value for the data", csv("-o", "data=5"), USAGE, ("'data' is a group",)),
    Row("value for S3PRL's group", csv("-o", "downstream_expert.datarc=3"), USAGE, ("'downstream_expert.datarc' is a group",)),
    Row("polynomial from below its end", csv("-o", "scheduler.name=polynomial,,optimizer.lr=1e-8"), USAGE, ("polynomial", "optimizer.lr")),
    Row("two warm-ups", csv("-o", "scheduler.name=linear,,scheduler.warmup_steps=2,,scheduler.warmup_ratio=0.1"), USAGE, ("not both",)),
    Row("channel in words", csv("-o", "data.channel=left"), USAGE, ("'data.channel'", "mean", "'left'")),
    Row("channel below zero", csv("-o", "data.channel=-1"), USAGE, ("'data.channel'", "from 0")),
    Row("channel that is not there", csv("-o", "data.channel=3"), WRONG_DATA, ("1 channel(s)", "no channel 3")),
    Row("even context", train("phone", "csv", "-o", "task.context=2"), USAGE, ("'task.context'", "odd")),
    Row("override without =", csv("-o", "runner.total_steps"), USAGE, ("'runner.total_steps'", "key=value")),
    Row("override without key", csv("-o", "=5"), USAGE, ("key=value",)),
    Row("value given twice over", csv("-o", "runner.total_steps=1", "-o", "runner.total_steps.x=1"), USAGE, ("was given a value before",)),
    Row("negative seed", csv("--seed", "-1"), USAGE, ("'seed'", "-1")),
    Row("limit of nothing", csv("--limit", "0"), USAGE, ("'data.limit'", "0")),
    Row("YAML: missing", csv("-c", "nix.yaml"), USAGE, ("nix.yaml: no such file",)),
    Row("YAML: syntax", csv("-c", "my.yaml"), USAGE, ("my.yaml: not YAML", "line 2"), write("my.yaml", "runner:\n  total_steps: [1\n")),
    Row("YAML: key twice", csv("-c", "my.yaml"), USAGE, ("my.yaml", "'lr' stands here twice", "line 1"), write("my.yaml", "optimizer: {lr: 1, lr: 2}\n")),
    Row("YAML: a list", csv("-c", "my.yaml"), USAGE, ("my.yaml: holds list",), write("my.yaml", "- a\n")),
    Row("YAML: number as key", csv("-c", "my.yaml"), USAGE, ("'1'",), write("my.yaml", "1: 2\n")),
    Row("YAML: bottomless", csv("-c", "my.yaml"), USAGE, ("my.yaml",), write("my.yaml", "a: " + "[" * 3000 + "]" * 3000)),
    Row("YAML: Python objects", csv("-c", "my.yaml"), USAGE, ("my.yaml: not YAML", "python/object"), write("my.yaml", "seed: !!python/object/apply:os.system ['touch owned']\n")),
    Row("YAML: bytes", csv("-c", "my.yaml"), USAGE, ("my.yaml: not readable",), write("my.yaml", b"\xff\x00\x81")),
    Row("unknown recipe", csv("-v", "nix"), USAGE, ("'nix' is neither a YAML file nor a recipe of 'speaker'",)),
    Row("-g missing", csv("-g", "nix.yaml"), USAGE, ("nix.yaml: no such file",)),
    Row("-g of another kind", csv("-g", "my.yaml"), USAGE, ("nonsense",), write("my.yaml", "nonsense: 1\n")),
    Row("-n and -p", csv("-n", "a"), USAGE, ("-n", "-p", "give one")),
    Row("-n out of the folder", ("run", "-u", "fbank", "-d", "speaker", "--data", DATA["csv"], "-n", "../../owned"), USAGE, ("../../owned", "-p")),
    Row("-l beyond the layers", csv("-l", "7"), USAGE, ("no layer 7", "numbered 0 to 0")),
    Row("-l in words", csv("-l", "last"), USAGE, ("'last'",)),
    Row("-s unknown", csv("-s", "last"), USAGE, ("'last'", "last_hidden_state")),
    Row("--weighted_sum and -l", csv("--weighted_sum", "-l", "0"), USAGE, ("--weighted_sum", "-l", "one of them")),
    Row("--upstream_lr without -f", csv("--upstream_lr", "1e-4"), USAGE, ("--upstream_lr", "-f")),
    Row("freeze without -f", csv("-o", "upstream.freeze=[a]"), USAGE, ("upstream.freeze", "-f")),
    Row("freeze of nothing", csv("-f", "-o", "upstream.freeze=[encoder]"), USAGE, ("starts with 'encoder'",)),
    Row("-k where nothing is read", csv("-k", "weights.pt"), USAGE, ("takes no weight file", "weights.pt")),
    Row("unknown device", csv("--device", "tpu"), USAGE, ("'tpu'", "cpu")),
    Row("files to train on", csv("a.wav"), USAGE, ("a.wav", "--data")),
    Row("-i missing", csv("-i", "nix"), WRONG_DATA, ("nix: no such file",)),
    Row("-i of another task", csv("-i", "run-phone"), USAGE, ("-i run-phone", "do not fit", "head."), uses=("csv", "run-phone")),
    Row("-e no run", csv("-e", "csv"), USAGE, ("-e csv", "no run there")),
    Row("-e with a broken config", ("run", "-e", "run-speaker"), USAGE, ("-u UPSTREAM",), write("run-speaker/config.yaml", "upstream: 5\n"), ("run-speaker",)),
    # the result folder
    Row("-p is a file", csv("-p", DATA["csv"]), USAGE, ("corpus.csv is a file",)),
    Row("-p below a file", csv("-p", DATA["csv"] + "/run"), USAGE, ("corpus.csv",)),
    Row("-p with others' files", csv("-p", "csv"), USAGE, ("csv holds other things", "corpus.csv")),
    Row("-p with others' files of our names", csv("-p", "theirs"), USAGE, ("theirs holds other things", "checkpoint"), write("theirs/checkpoint/last.pt", "theirs")),
    Row("-p with another's config.yaml", csv("-p", "theirs"), USAGE, ("theirs holds other things", "config.yaml"), write("theirs/config.yaml", "theirs: 1\n")),
    Row("--fresh in another's folder", csv("-p", "theirs", "--fresh"), USAGE, ("theirs holds other things",), write("theirs/checkpoint/last.pt", "theirs")),
    Row("resume with another config", csv("-p", "run-speaker", "-o", "optimizer.lr=0.5"), USAGE, ("other settings", "optimizer.lr", "0.5 now", "--fresh"), uses=("csv", "run-speaker")),
    Row("resume with another upstream", csv("-p", "run-speaker", "-u", "mfcc"), USAGE, ("upstream.name", "'mfcc' now"), uses=("csv", "run-speaker")),
    Row("resume with other data", csv("-p", "run-speaker"), USAGE, ("other settings", "data.sha256"), drop_line("csv/corpus.csv", 1), ("csv", "run-speaker")),
    Row("resume with a broken identity", csv("-p", "run-speaker"), WRONG_DATA, ("identity.json", "not readable as JSON"), write("run-speaker/identity.json", "{"), ("csv", "run-speaker")),
    Row("finished, result cut off", csv("-p", "run-speaker"), WRONG_DATA, ("result.json",), lambda: cut("run-speaker/result.json"), ("csv", "run-speaker")),
    Row("finished, result empty", csv("-p", "run-speaker"), WRONG_DATA, ("result.json",), write("run-speaker/result.json", "{}"), ("csv", "run-speaker")),
    Row("finished, metrics in words", csv("-p", "run-speaker"), WRONG_DATA, ("result.json", "test"), lambda: spoil_metrics("run-speaker/result.json"), ("csv", "run-speaker")),
    # evaluate
    Row("evaluate nothing", ("run", "-m", "evaluate"), USAGE, ("-m evaluate needs -e",)),
    Row("evaluate no run", ("run", "-m", "evaluate", "-e", "csv"), USAGE, ("-e csv", "config.yaml")),
    Row("evaluate an unfinished run", ("run", "-m", "evaluate", "-e", "run-speaker"), USAGE, ("no finished run", "result.json"), remove("run-speaker/result.json"), ("csv", "run-speaker")),
    *(
        Row(f"evaluate: {name}", ("run", "-m", "evaluate", "-e", "run-speaker", *more), code, words, fault, ("csv", "run-speaker", "run-phone"))
        for name, code, words, fault, *more in (
            ("model.json missing", WRONG_DATA, ("model.json",), remove("run-speaker/model.json")),
            ("model.json cut off", WRONG_DATA, ("model.json", "not readable as JSON"), lambda: cut("run-speaker/model.json")),
            ("model.json of another schema", WRONG_DATA, ("model.json", "schema 9"), write("run-speaker/model.json", '{"schema": 9}')),
            ("model.json of other kinds", WRONG_DATA, ("model.json", "'task'"), write("run-speaker/model.json", '{"schema": 1, "upstream": {}, "task": 5, "plugins": []}')),
            ("model.json without classes", WRONG_DATA, ("model.json", "classes"), write("run-speaker/model.json", '{"schema": 1, "upstream": {}, "task": {"level": "utterance"}, "plugins": []}')),
            ("plugin outside the run", WRONG_DATA, ("model.json", "../evil.py", "outside"), both(write("evil.py", "open('owned', 'w')"), replace("run-speaker/model.json", '"plugins": []', '"plugins": ["../evil.py"]'))),
            ("weights missing", WRONG_DATA, ("model.safetensors",), remove("run-speaker/model.safetensors")),
            ("weights cut off", WRONG_DATA, ("model.safetensors", "not a whole"), lambda: cut("run-speaker/model.safetensors")),
            ("weights that are a pickle", WRONG_DATA, ("model.safetensors",), lambda: Path("run-speaker/model.safetensors").write_bytes(pickle.dumps(Owned()))),
            ("weights of another run", WRONG_DATA, ("model.safetensors", "head."), lambda: shutil.copy("run-phone/model.safetensors", "run-speaker/model.safetensors")),
            ("config broken", USAGE, ("config.yaml",), write("run-speaker/config.yaml", "a: [\n")),
            ("config with an unknown key", USAGE, ("'downstraem'", "Did you mean 'downstream'"), replace("run-speaker/config.yaml", "downstream:", "downstraem:")),
            ("another upstream", USAGE, ("-u", "run folder"), nothing, "-u", "mfcc"),
            ("another setting", USAGE, ("optimizer.lr", "keeps its settings"), nothing, "-o", "optimizer.lr=1"),
            ("another layer", USAGE, ("upstream.layer", "keeps its settings"), nothing, "-l", "0"),
            ("another name", USAGE, ("-n",), nothing, "-n", "x"),
            ("a file", USAGE, ("a.wav", "-m predict"), nothing, "a.wav"),
            ("unknown split", USAGE, ("-t tset", "test"), nothing, "-t", "tset"),
            ("missing data", USAGE, ("there is no data at nix",), nothing, "--data", "nix"),
            ("its corpus is gone", USAGE, ("there is no data at", "corpus.csv"), remove("csv")),
            ("speakers of others", WRONG_DATA, ("'stranger'", "training data"), replace("csv/corpus.csv", "spk00-04.wav,spk00", "spk00-04.wav,stranger")),
            ("NaN in its corpus", WRONG_DATA, ("spk00-04.wav", "NaN"), lambda: with_nan("csv/wav/spk00/spk00-04.wav")),
            ("weights for an upstream without", USAGE, ("takes no weight file",), nothing, "-k", "weights.pt"),
        )
    ),
    # predict
    Row("predict with nothing", ("run", "-m", "predict", "a.wav"), USAGE, ("-m predict needs -e",)),
    *(
        Row(f"predict: {name}", ("run", "-m", "predict", "-e", run, *files), code, words, fault, ("csv", run))
        for name, run, code, words, fault, *files in (
            ("no files", "run-speaker", USAGE, ("needs audio files",), nothing),
            ("missing file", "run-speaker", WRONG_DATA, ("nix.wav: no such file",), nothing, FIRST["csv"], "nix.wav"),
            ("folder without audio", "run-phone", WRONG_DATA, ("empty: no audio files",), lambda: Path("empty").mkdir(), "empty"),
            ("text", "run-phone", WRONG_DATA, ("phones.txt cannot be read as audio",), nothing, "csv/phones.txt"),
            ("NaN", "run-speaker", WRONG_DATA, ("spk00-00.wav", "NaN", "--skip-bad-audio"), lambda: with_nan(FIRST["csv"]), "csv/wav"),
            ("cut off", "run-speaker_verification", WRONG_DATA, ("spk00-00.wav", "truncated"), lambda: cut(FIRST["csv"]), FIRST["csv"]),
            ("8 kHz", "run-speaker", WRONG_DATA, ("spk00-00.wav", "8000 Hz", "data.resample=true"), lambda: sound(FIRST["csv"], np.ones(99), 8000), FIRST["csv"]),
            ("output of another kind", "run-speaker", USAGE, ("--out answers.txt", ".jsonl or .csv"), nothing, FIRST["csv"], "--out", "answers.txt"),
            ("output below a file", "run-speaker", OTHER, ("answers.csv", "cannot be written"), nothing, FIRST["csv"], "--out", "csv/corpus.csv/answers.csv"),
            ("another setting", "run-speaker", USAGE, ("task.level", "keeps its settings"), nothing, FIRST["csv"], "-o", "task.level=frame"),
            ("another seed", "run-speaker", USAGE, ("seed", "keeps its settings"), nothing, FIRST["csv"], "--seed", "2"),
        )
    ),
    # plugins
    Row("plugin: missing", (*MINE, "--plugin", "nix.py"), USAGE, ("nix.py", "neither a Python file nor a folder"), write("mine.py", MODULE)),
    Row("plugin: folder without cards", ("run", "--plugin", "csv", *MINE[3:]), USAGE, ("csv", "no cards.yaml")),
    Row("plugin: card that is no card", ("run", "--plugin", "mine", *MINE[3:]), USAGE, ("cards.yaml", "'Mine'", "expert"), write("mine/cards.yaml", "Mine: {summary: a}\n")),
    Row("plugin: card without its module", ("run", "--plugin", "mine", *MINE[3:]), USAGE, ("expert.py is missing",), write("mine/cards.yaml", "Mine: {summary: a, expert: Mine}\n")),
    Row("plugin: card without its class", ("run", "--plugin", "mine", *MINE[3:]), USAGE, ("no class 'Mine'",), both(write("mine/cards.yaml", "Mine: {summary: a, expert: Mine}\n"), write("mine/expert.py", ""))),
    Row("plugin: zero bytes", MINE, USAGE, ("mine.py", "not a Python file"), write("mine.py", "a = 1\0")),
    Row("plugin: no class", MINE, USAGE, ("mine.py", "no class"), write("mine.py", "a = 1\n")),
    Row("plugin: near miss", (*MINE, "-u", "mine"), USAGE, ("Did you mean 'Mine'",), write("mine.py", MODULE)),
    Row("plugin: weights", (*MINE, "-k", "a.pt"), USAGE, ("takes no weight file",), write("mine.py", MODULE)),
    Row("plugin: unknown setting", (*MINE, "-o", "upstream.config.size=3"), USAGE, ("Mine(size) failed", "size"), write("mine.py", MODULE)),
    Row("plugin: upstream as a task", (*MINE, "-d", "Mine"), USAGE, ("unknown downstream 'Mine'",), write("mine.py", MODULE)),
    plugin("syntax", USAGE, ("mine.py", "not a Python file", "line 5"), "return x", "return return x"),
    plugin("exception at import", USAGE, ("mine.py:1", "ZeroDivisionError"), "import torch", "import torch; 1 / 0"),
    plugin("exit at import", USAGE, ("mine.py:1", "SystemExit"), "import torch", "import torch, sys; sys.exit(0)"),
    plugin("module that is not installed", USAGE, ("No module named 'nix'",), "import torch", "import torch, nix"),
    plugin("exception in the constructor", USAGE, ("Mine() failed", "ValueError: no luck", "mine.py:5"), "    def forward(self, x):\n", "    def __init__(self):\n        raise ValueError('no luck')\n    def forward(self, x):\n"),
    plugin("exception in forward", USAGE, ("Mine.forward failed", "ZeroDivisionError", "mine.py:5"), "return x[:, :, :7]", "1 / 0"),
    plugin("no out_dim", USAGE, ("Mine", "`out_dim`"), "out_dim, ", "width, "),
    plugin("out_dim in words", USAGE, ("Mine", "`out_dim`", "'7'"), "= 7, ", "= '7', "),
    plugin("wrong shape", USAGE, ("Mine.forward gave", "7)"), ":7]", ":6]"),
    plugin("fewer frames", USAGE, ("Mine.forward gave", "7)"), "x[:, :, :7]", "x[:, ::2, :7]"),
    plugin("a list instead of a tensor", USAGE, ("Mine.forward gave list",), "x[:, :, :7]", "[x]"),
    plugin("no front-end", USAGE, ("names no front-end", "frontend"), '= 7, "fbank_no_cmvn"', "= 7, None"),
    plugin("unknown front-end", USAGE, ("'fbnak'", "Did you mean 'fbank'"), "fbank_no_cmvn", "fbnak"),
    plugin("no module", USAGE, ("neither a headwater Upstream nor an nn.Module",), "(torch.nn.Module)", ""),
    plugin("a name that is taken", USAGE, ("'mfcc' is registered twice", "mine.py"), "class Mine", "class mfcc"),
    plugin("NaN features", OTHER, ("NaN",), "x[:, :, :7]", "x[:, :, :7] * float('nan')"),
]  # fmt: skip


class Owned:
    """A pickle that runs a command where somebody unpickles it."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch owned",)


def spoil_metrics(file: str) -> None:
    result = json.loads(Path(file).read_text())
    result["metrics"]["test"] = {"accuracy": "good"}
    Path(file).write_text(json.dumps(result))


ROWS = [*audio_rows(), *READER_ROWS, *USE_ROWS]


@pytest.mark.parametrize("row", ROWS, ids=[row.name.replace(" ", "-") for row in ROWS])
def test_wrong_use_ends_with_its_code_in_words_and_changes_nothing(row: Row, place: Callable[..., None]) -> None:
    place(*row.uses)
    row.fault()
    before = tree()
    said = command(*row.arguments)
    assert said.code == row.code, said
    assert [word for word in row.words if word not in said.err] == [], said.err
    assert "Traceback" not in said.out + said.err
    assert tree() == before


def test_every_row_has_a_name_of_its_own() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize(("task", "reader"), list(product(TASKS, DATA)))
def test_without_its_fault_each_command_is_right(task: str, reader: str, place: Callable[..., None]) -> None:
    place(reader)
    before = tree()
    said = command(*train(task, reader, "--dry-run"))
    assert said.code == 0, said.err
    assert tree() == before


@pytest.mark.parametrize(
    ("task", "reader", "fault"),
    [*((task, "csv", "NaN") for task in TASKS), *(("speaker", reader, "cut off") for reader in DATA)],
)
def test_skip_bad_audio_goes_on_and_the_result_says_how_many(
    task: str, reader: str, fault: str, place: Callable[..., None]
) -> None:
    place(reader)
    AUDIO[fault][0](FIRST[reader])
    said = command(*train(task, reader, "--skip-bad-audio"))
    if task == "speaker_verification":
        assert said.code == 3  # every trial is with that utterance
        Path(reader, "trials.txt").write_text("1 spk01-00 spk01-01\n0 spk01-00 spk00-01\n0 spk00-00 spk01-00\n")
        said = command(*train(task, reader, "--skip-bad-audio"))
    assert said.code == 0, said.err
    result = json.loads(Path("result/result.json").read_text())
    (skipped,) = result["data"]["skipped"]
    assert skipped["path"].endswith(FIRST[reader])
    assert skipped["reason"]
    assert any("1 broken file(s) skipped" in note for note in result["notes"])
    assert "1 broken file(s) skipped" in said.out


def test_predict_skips_a_broken_file_and_says_so(place: Callable[..., None]) -> None:
    place("csv", "run-speaker")
    with_nan(FIRST["csv"])
    said = command("run", "-m", "predict", "-e", "run-speaker", "--skip-bad-audio", "csv/wav")
    assert said.code == 0, said.err
    assert len(said.out.splitlines()) == 14
    assert f"skipped {FIRST['csv']}" in said.err


@pytest.mark.parametrize("task", TASKS)
def test_an_utterance_of_30_ms_works(task: str, place: Callable[..., None]) -> None:
    place("csv")
    sound(FIRST["csv"], 0.1 * np.sin(np.arange(480)))
    Path("csv/phones.txt").write_text(
        "".join(
            line if not line.startswith("spk00-00 ") else "spk00-00 1\n"
            for line in Path("csv/phones.txt").read_text().splitlines(keepends=True)
        )
    )
    said = command(*train(task))
    assert said.code == 0, said.err
    assert Path("result/result.json").is_file()


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("speaker_sid", "optimizer.name=SGD,,optimizer.lr=1e30"),
        ("speaker", "optimizer.name=SGD,,optimizer.lr=1e38"),
        ("phone", "optimizer.name=SGD,,optimizer.lr=1e38"),
        ("speaker_sid", "optimizer.name=SGD,,optimizer.lr=1e30,,runner.total_steps=1"),
    ],
)
def test_a_diverged_run_has_no_number(task: str, settings: str, place: Callable[..., None]) -> None:
    place("csv")
    said = command(*train(task, "csv", "-o", settings))
    assert said.code == OTHER, said
    assert "diverged" in said.err and "lower optimizer.lr" in said.err
    assert whole() and not Path("result/result.json").exists()


def test_nan_that_shows_in_training_leaves_a_folder_to_go_on_with(place: Callable[..., None]) -> None:
    place("csv")
    good = Path(FIRST["csv"]).read_bytes()
    with_nan(FIRST["csv"])
    said = command(*csv("--no-cache", "-o", "store.memory_gib=0"))
    assert said.code == WRONG_DATA and "spk00-00.wav" in said.err and "NaN" in said.err
    assert whole() and not Path("result/result.json").exists()
    Path(FIRST["csv"]).write_bytes(good)
    assert command(*csv("--no-cache", "-o", "store.memory_gib=0")).code == 0


@pytest.mark.parametrize("content", ["pickle", "text", "cut off"])
def test_a_broken_checkpoint_is_named_and_never_executed(content: str, place: Callable[..., None]) -> None:
    place("csv", "run-speaker")
    Path("run-speaker/result.json").unlink()
    last = Path("run-speaker/checkpoint/last.pt")
    if content == "pickle":
        torch.save({"standing": Owned()}, last)
    elif content == "text":
        last.write_text("no checkpoint")
    else:
        cut(str(last))
    said = command(*csv("-p", "run-speaker"))
    assert said.code == OTHER, said
    assert "last.pt" in said.err and "--fresh" in said.err and "Traceback" not in said.err
    assert not Path("owned").exists()
    assert whole("run-speaker")
    assert command(*csv("-p", "run-speaker", "--fresh")).code == 0


def test_two_processes_cannot_write_one_run(place: Callable[..., None]) -> None:
    place("csv")
    assert command(*csv()).code == 0
    Path("result/result.json").unlink()
    lock = FileLock("result/.lock")
    with lock:
        before = tree()
        said = command(*csv())
        assert said.code == USAGE and "another process" in said.err and "-n" in said.err
        assert tree() == before
    assert command(*csv()).code == 0


@contextlib.contextmanager
def powerless() -> Iterator[None]:
    """The rights of an ordinary user: root may write to read-only folders, so this thread lays its capabilities down."""
    if os.geteuid() != 0:
        yield
        return
    libc, header = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(0x20080522, 0)
    held, none = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, held) == 0
    none[:] = [0, *held[1:3], 0, *held[4:6]]  # (effective, permitted, inheritable) twice: only the effective ones go
    assert libc.capset(header, none) == 0
    try:
        yield
    finally:
        assert libc.capset(header, held) == 0


@pytest.mark.parametrize("where", ["locked", "locked/deep/run"])
def test_a_read_only_result_folder_is_refused(where: str, place: Callable[..., None]) -> None:
    place("csv")
    Path("locked").mkdir(mode=0o555)
    before = tree()
    with powerless():
        said = command(*csv("-p", where))
    assert said.code == USAGE, said
    assert "locked" in said.err and "-p" in said.err and "Traceback" not in said.err
    assert tree() == before


def numbers(folder: str = "result") -> object:
    result = json.loads(Path(folder, "result.json").read_text())
    return result["metrics"], [{key: point[key] for key in point} for point in result["history"]]


def test_a_disk_that_fills_at_any_write_leaves_nothing_half_written(
    place: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    place("csv", "run-speaker")
    sync = os.fsync
    for full_at in count(1):
        written = 0

        def fsync(number: int, full_at: int = full_at) -> None:
            nonlocal written
            written += 1
            if written >= full_at:
                raise OSError(28, "No space left on device")
            sync(number)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            said = command(*csv())
        if said.code == 0:
            break
        assert said.code == OTHER and "No space left" in said.err and "Traceback" not in said.err, said
        assert whole()
        if full_at == 1:
            assert not Path("result").exists()
        if full_at % 3 == 1:
            assert command(*csv()).code == 0
            assert numbers() == numbers("run-speaker")
            assert Path("result/report.html").is_file()
        shutil.rmtree("result", ignore_errors=True)
    assert full_at > 8


SCRIPT = """
import os, signal, sys
import matplotlib.figure, safetensors.torch, soundfile, soxr, torch  # once, not in every child
from transformers import get_scheduler
import headwater.results.plots, headwater.results.report, headwater.train.runner
import headwater.upstream.baseline.expert, headwater.downstream.speaker.expert
from headwater.cli.main import main
from headwater.cli.shell import guarded
arguments = sys.argv[2:]
for number in map(int, sys.argv[1].split(",")):
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        continue
    replace, left = os.replace, [number]
    def dying(source, target):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
    os.replace = dying
    os._exit(guarded(main, [*arguments, "-p", f"run-{number}"]))
"""


def process(*arguments: str, **more: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more
    )  # type: ignore[call-overload]


def test_a_process_killed_at_any_write_leaves_a_run_to_go_on_with(place: Callable[..., None]) -> None:
    place("csv", "run-speaker")
    writes = (1, 2, 3, 4, 6, 8)  # settings, identity, weights, checkpoint, scores, model
    _, err = (child := process("-c", SCRIPT, ",".join(map(str, writes)), *csv())).communicate(timeout=120)
    assert child.returncode == 0 and "Traceback" not in err, err
    for number in writes:
        run = f"run-{number}"
        assert not Path(run, "result.json").exists()
        said = command(*csv("-p", run))
        assert said.code == 0, (number, said)
        assert whole(run)
        assert numbers(run) == numbers("run-speaker")


def test_a_file_that_may_not_grow_ends_a_command_with_words(place: Callable[..., None]) -> None:
    place("csv")
    limit = 2500  # bytes: the settings fit, the weights of the head do not
    child = process(
        "-m", "headwater", *csv(), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit,) * 2)
    )
    out, err = child.communicate(timeout=120)
    assert child.returncode == OTHER, (out, err)
    assert "File too large" in err and "Traceback" not in err
    assert whole() and not Path("result/result.json").exists()
    assert command(*csv()).code == 0


def test_events_are_records_that_tensorboard_reads(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    events = Events(tmp_path)
    events.add_scalar("train/loss", 0.5, 7)
    events.close()
    content, found = events.path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        assert struct.unpack("<I", content[8:12])[0] == masked_crc32c(content[:8])
        record, content = content[12 : 12 + length], content[12 + length :]
        assert struct.unpack("<I", content[:4])[0] == masked_crc32c(record)
        content = content[4:]
        found.append(Event.FromString(record))
    assert found[0].file_version == "brain.Event:2"
    (value,) = found[1].summary.value
    assert (value.tag, value.simple_value, found[1].step) == ("train/loss", 0.5, 7)


def test_events_on_a_full_disk_end_a_run_with_words_and_do_not_hang(
    place: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    place("csv", "run-speaker")
    scalars = Events.add_scalar

    def add_scalar(events: Events, tag: str, value: float, step: int) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (events.path.stat().st_size, limits[1]))
        try:
            scalars(events, tag, value, step)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    with monkeypatch.context() as patch:
        patch.setattr(Events, "add_scalar", add_scalar)
        said = command(*csv())
    assert said.code == OTHER and "events" in said.err and "File too large" in said.err, said
    assert whole() and not Path("result/result.json").exists()
    assert command(*csv()).code == 0
    assert numbers() == numbers("run-speaker")


def test_sigterm_stops_between_steps_and_the_same_command_goes_on(place: Callable[..., None]) -> None:
    place("csv")
    long = csv("-o", "runner.total_steps=1000000,,runner.eval_step=1000000,,runner.save_step=20")
    child = process("-m", "headwater", *long)
    until = time.monotonic() + 60
    while not Path("result/checkpoint/last.pt").exists() and time.monotonic() < until:
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    out, err = child.communicate(timeout=60)
    assert child.returncode == OTHER, (out, err)
    assert "stopped at step" in err and "the same command" in err and "Traceback" not in err
    assert whole()


def test_the_errors_of_the_program_have_the_codes_of_the_commands() -> None:
    kinds = {kind.__name__: kind.exit_code for kind in (HeadwaterError, *HeadwaterError.__subclasses__())}
    assert kinds["HeadwaterError"] == OTHER
    assert kinds["UsageError"] == USAGE
    assert kinds["DataError"] == WRONG_DATA
