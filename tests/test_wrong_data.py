"""Wrong data, task by reader by fault: the exit code, words that name the culprit, no traceback, and nothing changed; and what --skip-bad-audio skips."""
# ruff: noqa: E501 - a table: each fault stands in one line

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from faults import (
    AUDIO,
    DATA,
    FIRST,
    OTHER,
    TASKS,
    USAGE,
    WRONG_DATA,
    Row,
    both,
    command,
    drop_line,
    nothing,
    refused,
    remove,
    replace,
    sound,
    train,
    tree,
    with_nan,
    write,
)


def audio_rows() -> Iterator[Row]:
    """Every task, every reader, every way in which a file can be broken."""
    for task, reader, (name, (fault, words)) in product(TASKS, DATA, AUDIO.items()):
        file = FIRST[reader]
        yield Row(
            f"{task}, {reader}, {name}", train(task, reader), WRONG_DATA, (Path(file).name, *words),
            lambda fault=fault, file=file: fault(file), (reader,),
        )  # fmt: skip


def drop_third(file: str, line: str) -> None:
    rows = Path(file).read_text().splitlines(keepends=True)
    Path(file).write_text("".join([*rows[:2], line, *rows[3:]]))


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


ROWS = [*audio_rows(), *READER_ROWS]


@pytest.mark.parametrize("row", ROWS, ids=[row.name.replace(" ", "-") for row in ROWS])
def test_wrong_use_ends_with_its_code_in_words_and_changes_nothing(row: Row, place: Callable[..., None]) -> None:
    refused(row, place)


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
