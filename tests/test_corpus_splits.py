"""Splits that are made, kept and refused, and the lengths of what is in them."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpora import make_corpus, write
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.data.corpus import Corpus, Utterance, drop_small_speakers
from headwater.data.measure import measure
from headwater.data.readers import read_corpus
from headwater.data.splits import ensure_splits, make_splits
from headwater.errors import DataError, UsageError


def listed(counts: dict[str, int], **labels: str) -> Corpus:
    """A corpus without files: so many utterances of each speaker."""
    utterances = tuple(
        Utterance(f"{speaker}-{number}", Path("/x") / f"{speaker}-{number}.wav", speaker=speaker, labels=labels)
        for speaker, count in counts.items()
        for number in range(count)
    )
    return Corpus("listed", "csv", Path("/x"), utterances)


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
