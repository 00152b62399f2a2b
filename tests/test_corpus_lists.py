"""Lists of utterances and of trials: columns, paths, labels, and the line of what is wrong; lists and trees of real speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from corpora import make_corpus, make_trials, touch, write

from headwater.data.measure import measure
from headwater.data.readers import read_corpus
from headwater.data.splits import ensure_splits, make_splits
from headwater.data.trials import read_trials
from headwater.errors import DataError

SPEECH = SHARED / "data"
needs_speech = pytest.mark.skipif(not SPEECH.is_dir(), reason=f"real speech is not at {SPEECH}")


# Utterances


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


# Real speech


@needs_speech
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
    corpus = read_corpus(SPEECH / "lists" / f"{name}.csv")
    assert corpus.root == SPEECH
    assert len(corpus.speakers()) == speakers
    assert corpus.splits() == ("train", "dev", "test")
    assert ensure_splits(corpus, 0) is corpus
    if shares:
        assert [len(corpus.split(split)) for split in ("train", "dev", "test")] == shares
    assert measure(corpus.utterances)[1].min() > 16000


@needs_speech
@pytest.mark.parametrize("name", ["librispeech_speakers"])
def test_real_lists_of_another_kind_are_refused_by_their_columns(name):
    with pytest.raises(DataError, match=r"no column `path`"):
        read_corpus(SPEECH / "lists" / f"{name}.csv")


@needs_speech
@pytest.mark.parametrize(
    ("name", "count", "targets"),
    [("", 3056, 1456), ("_crosschapter", 1174, 587), ("_large", 8000, 4000), ("_unseen", 524, 422)],
)
def test_real_trials_are_read_and_their_labels_agree_with_the_speakers(name, count, targets):
    trials = read_trials(SPEECH / "lists" / f"librispeech_trials{name}.txt")
    assert len(trials) == count
    assert trials.labels.sum() == targets
    speakers = np.array([utterance.speaker for utterance in trials.utterances])
    assert np.array_equal(speakers[trials.enrol] == speakers[trials.test], trials.labels == 1)


@needs_speech
def test_real_trees_are_read():
    tree = read_corpus(SPEECH / "LibriSpeech")
    assert tree.reader == "librispeech"
    assert len(tree.utterances) == 301
    assert len(tree.speakers()) == 30
    subset = read_corpus(SPEECH / "LibriSpeech" / "test-clean")
    made = make_splits(subset, 0)
    assert len(subset.utterances) == 299
    assert made.splits() == ("train", "dev", "test")
    assert len(read_corpus(SPEECH / "LibriSpeech_opus").utterances) == 606
    pretrain = read_corpus(SPEECH / "pretrain" / "pretrain.tsv")
    assert len(pretrain.utterances) == 654
    lengths = measure(pretrain.utterances)[1]
    assert lengths.tolist() == [int(utterance.labels["num_samples"]) for utterance in pretrain.utterances]
