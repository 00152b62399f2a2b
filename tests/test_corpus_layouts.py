"""Layouts of corpora: each is recognised, gives the same speech, has its own splits and ids, and says what is wrong with it."""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import replace

import pytest
import soundfile
from corpora import LAYOUTS, make_corpus, touch, write

from headwater.data.measure import measure
from headwater.data.readers import read_corpus
from headwater.errors import DataError, UsageError

READER_OF = {"split_folder": "folder"}


# Every layout


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_recognised_and_gives_the_same_speech(layout, tmp_path):
    corpus = read_corpus(make_corpus(tmp_path, layout, speakers=2, utterances=5))
    assert corpus.reader == READER_OF.get(layout, layout)
    assert len(corpus.utterances) == 10
    assert len(corpus.speakers()) == 2
    assert len({utterance.id for utterance in corpus.utterances}) == 10
    assert Counter(utterance.speaker for utterance in corpus.utterances) == dict.fromkeys(corpus.speakers(), 5)
    assert all(utterance.path.is_file() for utterance in corpus.utterances)
    assert corpus.notes[0].startswith("read as ")
    if layout in ("csv", "voxceleb", "split_folder"):
        assert [len(corpus.split(split)) for split in ("train", "dev", "test")] == [6, 2, 2]
    else:
        assert corpus.splits() == ()
    _, lengths, skipped = measure(corpus.utterances)
    assert not skipped
    assert lengths.tolist() == [soundfile.info(utterance.path).frames for utterance in corpus.utterances]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hash_ignores_place_and_order_and_sees_every_field(layout, tmp_path):
    one = read_corpus(make_corpus(tmp_path / "a", layout, utterances=3))
    two = read_corpus(make_corpus(tmp_path / "b", layout, utterances=3))
    assert one.sha256() == two.sha256()
    shuffled = replace(one, utterances=one.utterances[::-1])
    assert shuffled.sha256() == one.sha256()
    first, rest = one.utterances[0], one.utterances[1:]
    changes = (
        {"id": "other"},
        {"path": one.root / "y.wav"},
        {"start": 0.1},
        {"end": 0.2},
        {"split": "x"},
        {"speaker": "x"},
        {"labels": {"a": "b"}},
    )
    hashes = {replace(one, utterances=(replace(first, **change), *rest)).sha256() for change in changes}
    assert len(hashes) == len(changes)
    assert one.sha256() not in hashes


def test_hidden_and_foreign_files_are_passed_over(tmp_path):
    path = make_corpus(tmp_path, "folder", speakers=2, utterances=2)
    before = read_corpus(path).sha256()
    touch(path, ".hidden.wav", "spk00/._00.wav", ".cache/spk00/x.wav", "spk00/notes.txt")
    assert read_corpus(path).sha256() == before


def test_linked_folders_are_followed_but_not_in_circles(tmp_path):
    path = make_corpus(tmp_path, "folder", speakers=2, utterances=2)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "all").symlink_to(path)
    (path / "spk00" / "again").symlink_to(path)
    assert len(read_corpus(tmp_path / "linked" / "all", reader="files").utterances) == 4


def test_reading_needs_no_working_folder(tmp_path, monkeypatch):
    make_corpus(tmp_path, "csv", speakers=1, utterances=2)
    monkeypatch.chdir(tmp_path)
    here = read_corpus("corpus.csv")
    monkeypatch.chdir(os.sep)
    assert all(utterance.path.is_absolute() and utterance.path.is_file() for utterance in here.utterances)


# LibriSpeech


def test_librispeech_reads_a_subset_or_all_and_knows_speaker_and_chapter(tmp_path):
    path = make_corpus(tmp_path, "librispeech", speakers=2, utterances=4)
    whole, subset = read_corpus(path), read_corpus(path / "train-clean-100")
    assert [utterance.id for utterance in whole.utterances] == [utterance.id for utterance in subset.utterances]
    for utterance in whole.utterances:
        speaker, chapter, _ = utterance.id.split("-")
        assert (utterance.speaker, utterance.labels["chapter"]) == (speaker, chapter)


def test_librispeech_knows_the_genders_of_a_list_beside_its_subsets(tmp_path):
    touch(tmp_path, "train-clean-100/19/2/19-2-0001.flac", "dev-clean/3/4/3-4-0001.flac", "dev-clean/5/4/5-4-0001.flac")
    head = ";ID  |SEX| SUBSET           |MINUTES| NAME\n"
    write(
        tmp_path / "SPEAKERS.TXT", f"{head}19   | F | train-clean-100  | 25.1 | |A| B\n3    | M | dev-clean | 8 | C\n"
    )
    for folder, expected in (
        (tmp_path, {"19": "F", "3": "M", "5": None}),
        (tmp_path / "dev-clean", {"3": "M", "5": None}),
    ):
        corpus = read_corpus(folder)
        assert {one.speaker: one.labels.get("gender") for one in corpus.utterances} == expected
        assert any("SPEAKERS.TXT" in note for note in corpus.notes)
    write(tmp_path / "SPEAKERS.TXT", f"{head}19 | female\n")
    with pytest.raises(DataError, match=r"SPEAKERS.TXT:2: '19 \| female' is not"):
        read_corpus(tmp_path)


def test_librispeech_subsets_are_splits_when_train_and_test_are_there(tmp_path):
    touch(tmp_path, "train-clean-100/1/2/1-2-0001.flac", "dev-clean/3/4/3-4-0001.flac", "test-clean/5/6/5-6-0001.wav")
    corpus = read_corpus(tmp_path)
    assert {utterance.id: utterance.split for utterance in corpus.utterances} == {
        "1-2-0001": "train",
        "3-4-0001": "dev",
        "5-6-0001": "test",
    }
    assert read_corpus(tmp_path, splits="make").splits() == ()
    touch(tmp_path, "train-other-500/notes.wav")
    assert any("notes.wav" in note for note in read_corpus(tmp_path).notes)


def test_an_utterance_in_two_formats_is_refused(tmp_path):
    touch(tmp_path, "train/1/2/1-2-0001.flac", "train/1/2/1-2-0001.wav")
    with pytest.raises(DataError, match=r"1-2-0001.flac and .*1-2-0001.wav"):
        read_corpus(tmp_path)


def test_lists_follow_s3prl_dev_is_the_last_tenth_of_the_shuffled_train_list(tmp_path):
    names = [f"1-2-{number:04d}" for number in range(50)]
    touch(tmp_path, *(f"train-clean-100/1/2/{name}.flac" for name in names))
    train, test = names[3:44][::-1], names[:3]
    lists = {
        "train_list": write(tmp_path / "train.txt", "\n".join(train)),
        "test_list": write(tmp_path / "test.txt", "\n".join(test) + "\n"),
    }
    corpus = read_corpus(tmp_path, **lists)
    expected = list(train)
    state = random.getstate()
    random.seed(1337)
    random.shuffle(expected)  # as S3PRL does, on the global generator
    random.setstate(state)
    kept = int(len(expected) * 0.9)
    assert {utterance.id for utterance in corpus.split("train")} == set(expected[:kept])
    assert {utterance.id for utterance in corpus.split("dev")} == set(expected[kept:])
    assert {utterance.id for utterance in corpus.split("test")} == set(test)
    assert "6 utterances in no list" in corpus.notes[-1]
    dev = write(tmp_path / "dev.txt", names[45])
    assert [utterance.id for utterance in read_corpus(tmp_path, **lists, dev_list=dev).split("dev")] == [names[45]]


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        ("1-2-0001\n1-2-0009\n", "1-2-0002", ["1 of the 3", "1-2-0009"]),
        ("1-2-0001\n", "1-2-0001\n1-2-0002", ["1-2-0001", "two lists"]),
        ("1-2-0001\n1-2-0001\n", "1-2-0002", ["twice", "1-2-0001"]),
        ("1-2-0001 x\n", "1-2-0002", ["train.txt:1"]),
        ("\n", "1-2-0002", ["train.txt", "empty"]),
    ],
)
def test_lists_that_do_not_fit_the_tree_are_refused(train, test, words, tmp_path):
    touch(tmp_path, "train/1/2/1-2-0001.flac", "train/1/2/1-2-0002.flac")
    with pytest.raises(DataError) as caught:
        read_corpus(
            tmp_path, train_list=write(tmp_path / "train.txt", train), test_list=write(tmp_path / "test.txt", test)
        )
    assert all(word in str(caught.value) for word in words)


# VoxCeleb


@pytest.mark.parametrize("level", ["", "wav/", "dev/wav/"])
def test_voxceleb_has_the_same_ids_at_every_level(level, tmp_path):
    touch(
        tmp_path,
        f"{level}id10001/vid-A_1/00001.wav",
        f"{level}id10001/vid-A_1/00002.wav",
        f"{level}id10002/vidB/00001.wav",
    )
    write(tmp_path / "iden_split.txt", "1 id10001/vid-A_1/00001.wav\n3 id10002/vidB/00001.wav\n")
    corpus = read_corpus(tmp_path)
    assert {utterance.id: (utterance.speaker, utterance.split) for utterance in corpus.utterances} == {
        "id10001/vid-A_1/00001": ("id10001", "train"),
        "id10002/vidB/00001": ("id10002", "test"),
    }
    assert "1 utterances that it does not list" in corpus.notes[-1]


def test_voxceleb_split_list_is_found_beside_or_given_and_checked(tmp_path):
    path = make_corpus(tmp_path, "voxceleb")
    assert read_corpus(path / "wav").splits() == ("train", "dev", "test")
    other = write(tmp_path / "lists" / "mine.txt", "3 id10001/video000000/00001.wav\n")
    assert read_corpus(path, split_file=other).splits() == ("test",)
    with pytest.raises(DataError, match=r"mine.txt:1: .*1\|2\|3"):
        read_corpus(path, split_file=write(other, "4 id10001/video000000/00001.wav\n"))
    with pytest.raises(DataError, match=r"1 of the 1 .*video000009"):
        read_corpus(path, split_file=write(other, "1 id10001/video000009/00001.wav\n"))


# Kaldi


def test_kaldi_segments_cut_recordings(tmp_path):
    path = make_corpus(tmp_path, "kaldi", speakers=1, utterances=2)
    write(path / "segments", "a spk00-00 0.1 0.3\nb spk00-00 0.3 -1\n")
    write(path / "utt2spk", "a x\nb y\n")
    one, two = read_corpus(path).utterances
    assert (one.id, one.start, one.end, one.speaker) == ("a", 0.1, 0.3, "x")
    assert (two.id, two.start, two.end, two.speaker) == ("b", 0.3, None, "y")


def test_a_command_pipe_is_refused_by_name_and_never_run(tmp_path):
    canary = tmp_path / "ran"
    write(tmp_path / "data" / "wav.scp", f"utt1 touch {canary} |\n")
    with pytest.raises(DataError, match=r"wav.scp:1: utt1 is a command pipe .*never run"):
        read_corpus(tmp_path / "data")
    assert not canary.exists()


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("wav.scp", "utt1\n", ["wav.scp:1"]),
        ("wav.scp", "a audio/spk00-00.wav\na audio/spk00-00.wav\n", ["'a'", "line 1", "line 2"]),
        ("wav.scp", "a x.ark:10\n", ["archive"]),
        ("wav.scp", "\n", ["empty"]),
        ("utt2spk", "spk00-00 x y\n", ["utt2spk:1"]),
        ("utt2spk", "spk00-00 x\n", ["1 of 2", "spk00-01"]),
        ("segments", "a nobody 0 1\n", ["segments:1", "nobody"]),
        ("segments", "a spk00-00 1 0.5\n", ["segments:1", "0.5 s"]),
        ("segments", "a spk00-00 zero 1\n", ["segments:1", "'zero'"]),
        ("segments", "a spk00-00 0 1\na spk00-00 1 2\n", ["segments:2", "'a'"]),
    ],
)
def test_a_bad_kaldi_directory_is_refused_with_its_line(file, text, words, tmp_path):
    path = make_corpus(tmp_path, "kaldi", speakers=1, utterances=2)
    write(path / file, text)
    with pytest.raises(DataError) as caught:
        read_corpus(path)
    assert all(word in str(caught.value) for word in words)


# What cannot be read


def test_missing_empty_and_speakerless_places_say_what_is_known(tmp_path):
    touch(tmp_path, "corpus.csv")
    with pytest.raises(UsageError, match=r"no data at .*corpu.csv.*corpus.csv[\s\S]*LibriSpeech"):
        read_corpus(tmp_path / "corpu.csv")
    with pytest.raises(DataError, match=r"holds no audio.*no files[\s\S]*VoxCeleb"):
        read_corpus(touch(tmp_path / "empty", ".keep"))
    with pytest.raises(DataError, match=r"2 x \.m4a.*convert \.m4a"):
        read_corpus(touch(tmp_path / "m4a", "a.m4a", "b.m4a"))
    flat = touch(tmp_path / "flat", "a.wav", "b.wav")
    with pytest.raises(DataError, match=r"2 audio files and no folder for each speaker[\s\S]*data.reader=files"):
        read_corpus(flat)
    assert [utterance.id for utterance in read_corpus(flat, reader="files").utterances] == ["a", "b"]


def test_options_that_do_not_apply_are_refused(tmp_path):
    path = make_corpus(tmp_path, "folder", speakers=1, utterances=2)
    for options, word in [
        ({"reader": "librispeach"}, "librispeech"),
        ({"reader": "csv"}, "folder"),
        ({"root": tmp_path}, "data.root"),
        ({"split_file": tmp_path}, "VoxCeleb"),
        ({"train_list": tmp_path}, "test_list"),
        ({"splits": "no"}, "make"),
    ]:
        with pytest.raises(UsageError, match=word):
            read_corpus(path, **options)
    with pytest.raises(DataError, match=r"none as idNNNNN/VIDEO/CLIP"):
        read_corpus(path, reader="voxceleb")
