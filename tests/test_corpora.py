"""Corpus readers, splits, trials and lengths."""

from __future__ import annotations

import os
import random
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpora import LAYOUTS, make_corpus, make_trials
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.data.corpus import Corpus, Utterance, drop_small_speakers
from headwater.data.measure import measure
from headwater.data.readers import read_corpus
from headwater.data.splits import ensure_splits, make_splits
from headwater.data.trials import read_trials
from headwater.errors import DataError, UsageError

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"real speech is not at {SHARED}")
READER_OF = {"split_folder": "folder"}


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        write(folder / name, b"")
    return folder


def listed(counts: dict[str, int], **labels: str) -> Corpus:
    """A corpus without files: so many utterances of each speaker."""
    utterances = tuple(
        Utterance(f"{speaker}-{number}", Path("/x") / f"{speaker}-{number}.wav", speaker=speaker, labels=labels)
        for speaker, count in counts.items()
        for number in range(count)
    )
    return Corpus("listed", "csv", Path("/x"), utterances)


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


# CSV


def test_csv_keeps_times_ids_and_further_columns(tmp_path):
    touch(tmp_path, "a.wav")
    path = write(tmp_path / "list.csv", "path,id,start,end,emotion\na.wav,one,0,1.5,happy\na.wav,two,1.5,,sad\n")
    one, two = read_corpus(path).utterances
    assert (one.id, one.start, one.end, one.labels) == ("one", 0.0, 1.5, {"emotion": "happy"})
    assert (two.id, two.start, two.end) == ("two", 1.5, None)


def test_parts_of_one_file_have_ids_of_their_own(tmp_path):
    touch(tmp_path, "a.wav")
    path = write(tmp_path / "list.csv", "path,start,end\na.wav,0,1.5\na.wav,1.5,2.25\na.wav,2.25,\n")
    assert [utterance.id for utterance in read_corpus(path).utterances] == [
        "a-0000000-0001500",
        "a-0001500-0002250",
        "a-0002250-end",
    ]


def test_tsv_takes_quotation_marks_as_text_and_a_byte_order_mark_is_no_column(tmp_path):
    touch(tmp_path, "a.wav")
    path = write(tmp_path / "list.tsv", b'\xef\xbb\xbfpath\ttext\r\na.wav\t"He said\r\n')
    assert read_corpus(path).utterances[0].labels == {"text": '"He said'}


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_paths_are_found_from_the_list_upwards(depth, tmp_path):
    touch(tmp_path, "wav/a.wav")
    path = write(tmp_path.joinpath(*["deep"] * depth) / "list.csv", "path\nwav/a.wav\n")
    corpus = read_corpus(path)
    assert corpus.root == tmp_path
    assert str(tmp_path) in corpus.notes[0]


def test_root_given_wins_and_absolute_paths_need_none(tmp_path):
    touch(tmp_path, "a.wav", "other/a.wav")
    path = write(tmp_path / "list.csv", "path\na.wav\n")
    assert read_corpus(path, root=tmp_path / "other").utterances[0].path == tmp_path / "other" / "a.wav"
    absolute = write(tmp_path / "abs.csv", f"path\n{tmp_path}/other/a.wav\n")
    assert read_corpus(absolute).utterances[0].path == tmp_path / "other" / "a.wav"


@pytest.mark.parametrize("word", ["valid", "validation", "val", "Dev"])
def test_other_words_for_dev_are_dev_and_said_so(word, tmp_path):
    touch(tmp_path, "a.wav", "b.wav")
    corpus = read_corpus(write(tmp_path / "list.csv", f"path,split\na.wav,train\nb.wav,{word}\n"))
    assert [utterance.split for utterance in corpus.utterances] == ["train", "dev"]
    assert any(word in note and "dev" in note for note in corpus.notes[1:])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["list.csv", "empty"]),
        ("path,speaker\n", ["list.csv", "no rows"]),
        ("file,speaker\na.wav,x\n", [":1", "`path`", "file, speaker"]),
        ("paths,speaker\na.wav,x\n", [":1", "Did you mean 'paths'"]),
        ("path,path\na.wav,x\n", [":1", "two columns"]),
        ("path,speaker\na.wav,x\n\nb.wav\n", [":4", "1 columns", "path, speaker"]),
        ("path,start\na.wav,abc\n", [":2", "'abc'", "start"]),
        ("path,start\na.wav,nan\n", [":2", "'nan'"]),
        ("path,start\na.wav,-1\n", [":2", "'-1'"]),
        ("path,start,end\na.wav,2,1\n", [":2", "1 s", "2 s"]),
        ("path,end\na.wav,0\n", [":2", "end"]),
        ("path,split\na.wav,trian\n", [":2", "'trian'", "Did you mean 'train'"]),
        ("path,split\na.wav,\n", [":2", "split"]),
        ("path,speaker\na.wav,\n", [":2", "speaker is empty"]),
        ("path,id\na.wav,\n", [":2", "id is empty"]),
        ("path,speaker\n ,x\n", [":2", "path is empty"]),
        ('path,text\na.wav,"open\n', ["list.csv:", "quote"]),
        ("path\na.wav\nx/a.wav\n", ["'a'", "line 2", "line 3", "`id`"]),
        (b"path,text\na.wav,caf\xe9\n", [":2", "0xe9", "UTF-8"]),
        ("path\n".encode("utf-16"), ["UTF-16"]),
        ("path\nnowhere/z.wav\n", [":2", "nowhere/z.wav", "data.root"]),
    ],
)
def test_a_bad_list_is_refused_with_its_line_and_the_reason(text, words, tmp_path):
    touch(tmp_path, "a.wav", "b.wav")
    path = write(tmp_path / "list.csv", text)
    with pytest.raises(DataError) as caught:
        read_corpus(path)
    for word in words:
        assert word in str(caught.value)


# LibriSpeech


def test_librispeech_reads_a_subset_or_all_and_knows_speaker_and_chapter(tmp_path):
    path = make_corpus(tmp_path, "librispeech", speakers=2, utterances=4)
    whole, subset = read_corpus(path), read_corpus(path / "train-clean-100")
    assert [utterance.id for utterance in whole.utterances] == [utterance.id for utterance in subset.utterances]
    for utterance in whole.utterances:
        speaker, chapter, _ = utterance.id.split("-")
        assert (utterance.speaker, utterance.labels["chapter"]) == (speaker, chapter)


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


# Splits


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.integers(3, 40), min_size=1, max_size=8),
    st.integers(0, 5),
)
def test_made_splits_give_every_speaker_a_part_of_each(counts, seed):
    corpus = make_splits(listed(counts), seed)
    for speaker, count in counts.items():
        shares = Counter(utterance.split for utterance in corpus.utterances if utterance.speaker == speaker)
        assert set(shares) == {"train", "dev", "test"}
        assert sum(shares.values()) == count
        assert shares["train"] >= shares["test"]
        assert abs(shares["test"] - count / 10) <= 1


def test_made_splits_depend_on_seed_and_id_alone():
    one = listed({"a": 20, "b": 20})
    of = {utterance.id: utterance.split for utterance in make_splits(one, 7).utterances}
    turned = make_splits(replace(one, utterances=one.utterances[::-1]), 7)
    more = make_splits(listed({"a": 20, "b": 20, "c": 9}), 7)
    assert {utterance.id: utterance.split for utterance in turned.utterances} == of
    assert {utterance.id: utterance.split for utterance in more.utterances if utterance.speaker != "c"} == of
    assert {utterance.id: utterance.split for utterance in make_splits(one, 8).utterances} != of


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(2, 30), min_size=3, max_size=9), st.integers(0, 5))
def test_chapters_stay_whole_and_reach_every_split(sizes, seed):
    utterances = tuple(
        Utterance(f"1-{chapter}-{number}", Path("/x.flac"), speaker="1", labels={"chapter": str(chapter)})
        for chapter, size in enumerate(sizes)
        for number in range(size)
    )
    corpus = make_splits(Corpus("c", "librispeech", Path("/"), utterances), seed)
    splits = defaultdict(set)
    for utterance in corpus.utterances:
        splits[utterance.labels["chapter"]].add(utterance.split)
    assert all(len(found) == 1 for found in splits.values())
    assert corpus.splits() == ("train", "dev", "test")
    assert splits[str(sizes.index(max(sizes)))] == {"train"} or sizes.count(max(sizes)) > 1
    assert "sessions kept whole for 1 of 1" in corpus.notes[-1]


def test_splits_by_speaker_share_no_speaker():
    corpus = make_splits(listed({f"s{number}": 4 for number in range(20)}), 0, by="speaker")
    speakers = {split: {utterance.speaker for utterance in corpus.split(split)} for split in ("train", "dev", "test")}
    assert [len(found) for found in speakers.values()] == [16, 2, 2]
    assert len(set.union(*speakers.values())) == 20


def test_a_speaker_with_one_utterance_is_named_with_the_way_out():
    corpus = listed({"alone": 1, "pair": 2, "many": 9})
    with pytest.raises(DataError, match=r"1 of 3 speakers.*alone.*data.min_utterances=2"):
        make_splits(corpus, 0)
    kept = drop_small_speakers(corpus, 2)
    assert kept.speakers() == ("many", "pair")
    assert "1 of 3 speakers" in kept.notes[-1]
    made = make_splits(kept, 0)
    assert {utterance.split for utterance in made.utterances if utterance.speaker == "pair"} == {"train", "test"}
    with pytest.raises(DataError, match=r"lower -o data.min_utterances"):
        drop_small_speakers(corpus, 10)


def test_splits_refuse_what_they_cannot_do():
    with pytest.raises(UsageError, match=r"sum 1"):
        make_splits(listed({"a": 9}), 0, ratios=(0.8, 0.1, 0.2))
    with pytest.raises(DataError, match=r"three or more"):
        make_splits(listed({"a": 9, "b": 9}), 0, by="speaker")


def test_stated_splits_are_kept_and_a_missing_dev_is_cut_from_train():
    corpus = listed({"a": 30, "b": 30})
    stated = corpus.with_utterances(
        replace(u, split="test" if u.speaker == "b" else "train") for u in corpus.utterances
    )
    cut = ensure_splits(stated, 1)
    assert [len(cut.split(split)) for split in ("train", "dev", "test")] == [27, 3, 30]
    assert "3 of 30 train" in cut.notes[-1]
    assert "seed 1" in cut.notes[-1]
    assert ensure_splits(cut, 2) is cut
    assert ensure_splits(corpus, 1).sha256() == make_splits(corpus, 1).sha256()
    with pytest.raises(DataError, match=r"no test split"):
        ensure_splits(corpus.with_utterances(replace(u, split="train") for u in corpus.utterances), 1)
    with pytest.raises(DataError, match=r"30 of 60 utterances have no split"):
        ensure_splits(
            corpus.with_utterances(replace(u, split="train" if u.speaker == "a" else None) for u in corpus.utterances),
            1,
        )


# Trials


def test_trials_name_files_or_utterances_of_a_corpus(tmp_path):
    corpus = read_corpus(make_corpus(tmp_path, "csv"))
    path = make_trials(tmp_path)
    plain, known = read_trials(path), read_trials(path, corpus=corpus)
    assert len(plain) == len(known) == 36
    assert plain.labels.sum() == 12
    assert (plain.labels.dtype, plain.enrol.dtype, plain.test.dtype) == (np.uint8, np.int32, np.int32)
    assert [utterance.path for utterance in plain.utterances] == [utterance.path for utterance in known.utterances]
    assert len({utterance.id for utterance in known.utterances}) == 15
    for label, one, two in zip(known.labels, known.enrol, known.test, strict=True):
        assert label == (known.utterances[one].speaker == known.utterances[two].speaker)


def test_kaldi_trials_are_the_same_trials(tmp_path):
    corpus = read_corpus(make_corpus(tmp_path, "csv"))
    lines = [line.split() for line in make_trials(tmp_path).read_text().splitlines()]
    word = {"1": "target", "0": "nontarget"}
    kaldi = write(
        tmp_path / "kaldi.txt",
        "".join(f"{Path(one).stem} {Path(two).stem} {word[label]}\n" for label, one, two in lines),
    )
    one, two = read_trials(tmp_path / "trials.txt", corpus=corpus), read_trials(kaldi, corpus=corpus)
    assert np.array_equal(one.labels, two.labels)
    assert np.array_equal(one.enrol, two.enrol)
    assert np.array_equal(one.test, two.test)
    assert one.utterances == two.utterances


def test_voxceleb_trials_fit_a_tree_with_other_levels_and_know_speakers_without_one(tmp_path):
    tree = make_corpus(tmp_path, "voxceleb")
    path = write(
        tmp_path / "veri_test.txt",
        "1 id10001/video000000/00001.wav id10001/video000001/00001.wav\n0 id10001/video000000/00001.wav id10002/video000000/00001.wav\n",
    )
    trials = read_trials(path, corpus=read_corpus(tree))
    alone = read_trials(path, corpus_root=tree / "wav")
    assert [utterance.id for utterance in trials.utterances] == [utterance.id for utterance in alone.utterances]
    assert [utterance.speaker for utterance in alone.utterances] == ["id10001", "id10001", "id10002"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty"]),
        ("yes a.wav b.wav\n", ["first line"]),
        ("1 a.wav b.wav\n0 a.wav\n", [":2", "2 fields"]),
        ("1 a.wav b.wav\n\n2 a.wav b.wav\n", [":3", "'2'"]),
        ("1 a.wav b.wav\n0 a.wav c.wav\n", [":2", "c.wav", "data.root"]),
    ],
)
def test_bad_trials_are_refused_with_their_line(text, words, tmp_path):
    touch(tmp_path, "a.wav", "b.wav")
    with pytest.raises(DataError) as caught:
        read_trials(write(tmp_path / "trials.txt", text))
    assert all(word in str(caught.value) for word in ["trials.txt", *words])


def test_a_trial_of_an_utterance_that_the_corpus_lacks_is_refused(tmp_path):
    corpus = read_corpus(make_corpus(tmp_path, "csv"))
    with pytest.raises(DataError, match=r"t.txt:2: spk09-00 is no utterance of corpus \(they look like spk00-00"):
        read_trials(write(tmp_path / "t.txt", "spk00-00 spk00-01 target\nspk00-00 spk09-00 nontarget\n"), corpus=corpus)


# Lengths


def test_lengths_are_those_that_reading_gives(tmp_path):
    from headwater import audio

    path = make_corpus(tmp_path, "folder", speakers=1, utterances=3, seconds=0.3, sample_rate=22050)
    utterances = [
        replace(utterance, start=0.05, end=0.2 + 0.0001 * number)
        for number, utterance in enumerate(read_corpus(path).utterances)
    ]
    utterances += read_corpus(path).utterances
    _, lengths, _ = measure(utterances, resample=True)
    assert lengths.tolist() == [len(audio.read(u.path, start=u.start, end=u.end, resample=True)) for u in utterances]


def test_bad_files_are_named_five_at_most_or_left_out_on_demand(tmp_path):
    path = make_corpus(tmp_path, "folder", speakers=1, utterances=2)
    good = read_corpus(path).utterances
    for number in range(6):
        write(path / "spk00" / f"bad{number}.wav", b"no sound")
    soundfile.write(path / "spk00" / "stereo.wav", np.zeros((400, 2)), 16000)
    soundfile.write(path / "spk00" / "slow.wav", np.zeros(400), 8000)
    utterances = [
        *read_corpus(path).utterances,
        replace(good[0], id="late", start=9.0),
        replace(good[0], id="gone", path=path / "gone.wav"),
    ]
    with pytest.raises(DataError) as caught:
        measure(utterances)
    text = str(caught.value)
    assert "10 of 12 utterances" in text
    assert "bad4.wav" in text
    assert "and 5 more" in text
    assert "data.skip_bad_audio=true" in text
    usable, lengths, skipped = measure(utterances, skip_bad=True)
    assert [utterance.id for utterance in usable] == [utterance.id for utterance in good]
    assert len(lengths) == 2
    reasons = {name: reason for name, _, reason in skipped}
    assert "2 channels" in reasons["spk00/stereo"]
    assert "8000 Hz" in reasons["spk00/slow"]
    assert "outside" in reasons["late"]
    assert "missing" in reasons["gone"]
    assert len(measure(utterances, skip_bad=True, resample=True, channel="mean")[0]) == 4
    with pytest.raises(DataError, match=r"10 of 10"):
        measure([utterance for utterance in utterances if utterance not in good], skip_bad=True)


# Real lists


@needs_shared
@pytest.mark.parametrize(
    ("name", "speakers", "shares"),
    [
        ("librispeech_speaker_id", 28, [176, 56, 67]),
        ("librispeech_speaker_id_large", 20, [311, 101, 194]),
        ("librispeech_phone_seen", 28, [176, 56, 67]),
        ("librispeech_phone_unseen", 28, [168, 45, 86]),
        *((f"librispeech_phone_fold{fold}", 28, None) for fold in range(4)),
    ],
)
def test_real_lists_are_read_with_the_counts_of_their_notes(name, speakers, shares):
    corpus = read_corpus(SHARED / "lists" / f"{name}.csv")
    assert corpus.root == SHARED
    assert len(corpus.speakers()) == speakers
    assert corpus.splits() == ("train", "dev", "test")
    assert ensure_splits(corpus, 0) is corpus
    if shares:
        assert [len(corpus.split(split)) for split in ("train", "dev", "test")] == shares
    assert measure(corpus.utterances)[1].min() > 16000


@needs_shared
@pytest.mark.parametrize("name", ["librispeech_speakers"])
def test_real_lists_of_another_kind_are_refused_by_their_columns(name):
    with pytest.raises(DataError, match=r"no column `path`"):
        read_corpus(SHARED / "lists" / f"{name}.csv")


@needs_shared
@pytest.mark.parametrize(
    ("name", "count", "targets"),
    [("", 3056, 1456), ("_crosschapter", 1174, 587), ("_large", 8000, 4000), ("_unseen", 524, 422)],
)
def test_real_trials_are_read_and_their_labels_agree_with_the_speakers(name, count, targets):
    trials = read_trials(SHARED / "lists" / f"librispeech_trials{name}.txt")
    assert len(trials) == count
    assert trials.labels.sum() == targets
    speakers = np.array([utterance.speaker for utterance in trials.utterances])
    assert np.array_equal(speakers[trials.enrol] == speakers[trials.test], trials.labels == 1)


@needs_shared
def test_real_trees_are_read():
    tree = read_corpus(SHARED / "LibriSpeech")
    assert tree.reader == "librispeech"
    assert len(tree.utterances) == 301
    assert len(tree.speakers()) == 30
    subset = read_corpus(SHARED / "LibriSpeech" / "test-clean")
    made = make_splits(subset, 0)
    assert len(subset.utterances) == 299
    assert made.splits() == ("train", "dev", "test")
    assert len(read_corpus(SHARED / "LibriSpeech_opus").utterances) == 606
    pretrain = read_corpus(SHARED / "pretrain" / "pretrain.tsv")
    assert len(pretrain.utterances) == 654
    lengths = measure(pretrain.utterances)[1]
    assert lengths.tolist() == [int(utterance.labels["num_samples"]) for utterance in pretrain.utterances]


def test_reading_needs_no_working_folder(tmp_path, monkeypatch):
    make_corpus(tmp_path, "csv", speakers=1, utterances=2)
    monkeypatch.chdir(tmp_path)
    here = read_corpus("corpus.csv")
    monkeypatch.chdir(os.sep)
    assert all(utterance.path.is_absolute() and utterance.path.is_file() for utterance in here.utterances)
