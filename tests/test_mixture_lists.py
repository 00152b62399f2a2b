"""Lists and folders of mixtures: what is read, what is refused and where; mixtures that are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from mixture_corpora import RATE, make_list, voice, write_rows, write_voices

from headwater.audio import read
from headwater.config import DataConfig
from headwater.data.corpus import Corpus, Utterance
from headwater.data.demo_mixtures import demo_speakers, demo_voices
from headwater.data.dynamic import Levels, Pool, fixed_mixtures, voice_of
from headwater.data.measure import measure
from headwater.data.mixtures import Mixture, Part
from headwater.data.readers import read_corpus
from headwater.errors import DataError
from headwater.metrics.rows import Table, same_data
from headwater.train.corpora import Reader


def parts(utterance: Utterance) -> tuple[Part, ...]:
    assert utterance.mixture is not None
    return utterance.mixture.parts


def test_a_list_says_files_gains_speakers_and_splits(tmp_path: Path) -> None:
    corpus = read_corpus(make_list(tmp_path))
    first = corpus.utterances[0]
    assert [len(corpus.split(split)) for split in ("train", "dev", "test")] == [6, 2, 3]
    assert [(part.path.name, part.speaker) for part in parts(first)] == [("s0-0.wav", "s0"), ("s2-1.wav", "s2")]
    assert parts(first)[1].gain == pytest.approx(1 / 1.3) and first.labels["genders"] == "FF"
    assert first.mixture is not None and first.mixture.where == f"{tmp_path / 'mix2.csv'}:2"
    assert not first.mixture.stored and first.speakers == ("s0", "s2")


def test_librimix_metadata_has_its_speakers_in_a_file_of_their_own_and_noise_that_is_no_source(tmp_path: Path) -> None:
    header = "mixture_ID,source_1_path,source_1_gain,source_2_path,source_2_gain,noise_path,noise_gain"
    for split in ("train-clean-100", "dev-clean", "test-clean"):
        row = [f"{split}-a", "a/1.wav", 0.5, "b/2.wav", 2, "n/3.wav", 0.1]
        write_rows(tmp_path / f"libri2mix_{split}.csv", header, [row])
        info = [f"{split}-a", "4077.0", "M", "5142.0", "F"]
        head = "mixture_ID,speaker_1_ID,speaker_1_sex,speaker_2_ID,speaker_2_sex"
        write_rows(tmp_path / f"libri2mix_{split}_info.csv", head, [info])
    corpus = read_corpus(tmp_path, root=tmp_path)
    assert [one.split for one in corpus.utterances] == ["dev", "test", "train"]
    one = corpus.utterances[0]
    assert [(part.speaker, part.gain, part.noise) for part in parts(one)] == [
        ("4077", 0.5, False),
        ("5142", 2.0, False),
        (None, 0.1, True),
    ]
    assert one.labels["genders"] == "MF"


@pytest.mark.parametrize(
    ("sets", "mix", "name", "speakers"),
    [
        (("tr", "cv", "tt"), "mix", "019o031a_0.27588_01vo030q_-0.27588", ("019", "01v")),
        (("train-100", "dev", "test"), "mix_clean", "4077-13754-0001_5142-33396-0065", ("4077", "5142")),
    ],
)
def test_folders_of_mixtures_are_read_with_who_speaks_in_them(
    sets: tuple[str, ...], mix: str, name: str, speakers: tuple[str, ...], tmp_path: Path
) -> None:
    for inside in sets:
        for place in (mix, "s1", "s2"):
            (tmp_path / inside / place).mkdir(parents=True)
            (tmp_path / inside / place / f"{inside}{name}.wav").touch()
            (tmp_path / inside / place / f"{inside}{name}.wav").rename(tmp_path / inside / place / f"{name}.wav")
            if inside != sets[0]:
                (tmp_path / inside / place / f"{name}.wav").unlink()
    corpus = read_corpus(tmp_path)
    one = corpus.utterances[0]
    assert (one.split, one.id, one.speakers) == ("train", name, speakers)
    assert one.mixture is not None and one.mixture.stored and len(corpus.utterances) == 1
    (tmp_path / sets[0] / "s2" / f"{name}.wav").unlink()
    with pytest.raises(DataError, match=r"s2.*is missing"):
        read_corpus(tmp_path)


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [
        ("path1,path2", ["a.wav", ""], r":2: 1 of 2 sources have a path"),
        ("path1,path2,path3", ["a.wav", "b.wav", "a.wav"], r":2: one file is two of its sources"),
        ("path1,path2,gain1,gain2", ["a.wav", "b.wav", "1", "loud"], r":2: the gain 'loud' is no number"),
        ("path1,path2,split", ["a.wav", "b.wav", "tast"], r":2: 'tast' is not a split.*test"),
        ("path1,speaker1", ["a.wav", "x"], r":1: there are columns of 1 source"),
        ("mixture,source1,source2,gain1", ["m.wav", "a.wav", "b.wav", "2"], r":2: a mixture that is a file"),
        ("path1,path2", ["a.wav"], r":2: 1 columns where the header has 2"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(header: str, row: list[str], said: str, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "mix.csv", header, [row])
    with pytest.raises(DataError, match=said) as caught:
        read_corpus(file, root=tmp_path)
    assert str(file) in str(caught.value)


def test_a_stored_mixture_whose_source_has_another_length_is_named_with_its_line(tmp_path: Path) -> None:
    for name, size in (("m", 800), ("a", 800), ("b", 790)):
        soundfile.write(tmp_path / f"{name}.wav", voice(1, 0, size), RATE)
    file = write_rows(tmp_path / "mix.csv", "mixture,source1,source2", [["m.wav", "a.wav", "b.wav"]])
    with pytest.raises(DataError, match=r"mix.csv:2: .*b.wav has 790 samples, and its mixture .*m.wav has 800"):
        measure(read_corpus(file).utterances, sample_rate=RATE)


def test_rows_of_two_and_of_three_sources_stand_in_one_list(tmp_path: Path) -> None:
    rows = [["a.wav", "b.wav", "c.wav"], ["a.wav", "c.wav", ""]]
    corpus = read_corpus(write_rows(tmp_path / "mix.csv", "path1,path2,path3", rows), root=tmp_path)
    assert [len(parts(one)) for one in corpus.utterances] == [3, 2]


def test_noise_decides_no_length_and_begins_anew_where_it_is_shorter(tmp_path: Path) -> None:
    wavs = {}
    for name, size in (("a", 500), ("b", 400), ("n", 150)):
        wavs[name] = torch.from_numpy(voice(1, size, size).astype(np.float32))
        soundfile.write(tmp_path / f"{name}.wav", wavs[name].numpy(), RATE, "FLOAT")
    named = {name: tmp_path / f"{name}.wav" for name in wavs}
    noisy = Mixture((Part(named["a"]), Part(named["b"]), Part(named["n"], noise=True)))
    utterance = Utterance("x", named["a"], mixture=noisy)
    made = Reader(DataConfig(), RATE).parts(utterance)
    assert made.shape == (3, 400) and measure([utterance], sample_rate=RATE)[1].tolist() == [400]
    torch.testing.assert_close(made[2], wavs["n"].repeat(3)[:400])
    later = Mixture((Part(named["a"], skip=100), Part(named["b"])))
    torch.testing.assert_close(
        Reader(DataConfig(), RATE).parts(Utterance("y", named["a"], mixture=later))[0], wavs["a"][100:]
    )


def pool(folder: Path, **levels: Any) -> Pool:
    paths = write_voices(folder)
    utterances = [Utterance(path.stem, path, speaker=path.parent.name, labels={"gender": "f"}) for path in paths]
    good, samples, _ = measure(utterances, sample_rate=RATE)
    return Pool([voice_of(one, int(size)) for one, size in zip(good, samples, strict=True)], Levels(**levels))


def test_a_drawn_mixture_is_a_function_of_its_generator_and_has_no_speaker_twice(tmp_path: Path) -> None:
    drawn = pool(tmp_path, speed=0.1)
    same = [drawn.draw(3, np.random.default_rng(5)) for _ in range(2)]
    assert same[0] == same[1] != drawn.draw(3, np.random.default_rng(6))
    skips, levels = set(), []
    for seed in range(60):
        voices = drawn.draw(3, np.random.default_rng(seed))
        assert len({one.part.speaker for one in voices}) == 3
        assert all(0.9 <= one.part.speed <= 1.1 and -45 <= (one.part.level or 0) <= 0 for one in voices)
        played = [int(one.samples / one.part.speed) - one.part.skip for one in voices]
        assert min(played) == min(int(one.samples / one.part.speed) for one in voices)
        skips.update(one.part.skip > 0 for one in voices)
        levels.append(float(voices[0].part.level or 0))
    assert skips == {True, False} and np.mean(levels) == pytest.approx(-27.43, abs=1.5)
    mixed = fixed_mixtures(drawn, "test", 12, [2], seed=1)[0]
    wavs = Reader(DataConfig(), RATE).parts(mixed)
    whole = read(parts(mixed)[0].path, sample_rate=RATE)
    assert wavs.shape[0] == 2 and wavs.shape[1] <= len(whole) * 1.2 and mixed.labels["genders"] == "FF"


def test_fixed_mixtures_are_the_same_each_time_and_use_every_file(tmp_path: Path) -> None:
    drawn = pool(tmp_path)
    made = fixed_mixtures(drawn, "test", 12, [2, 3], seed=1)
    assert (
        made == fixed_mixtures(drawn, "test", 12, [2, 3], seed=1) != fixed_mixtures(drawn, "test", 12, [2, 3], seed=2)
    )
    assert {one.path for one in made} == {one.part.path for one in drawn.voices}
    assert [len(parts(one)) for one in made[:4]] == [2, 3, 2, 3]
    with pytest.raises(DataError, match="6 speakers, too few for mixtures of 7"):
        drawn.draw(7, np.random.default_rng(0))
    nobody = [voice_of(Utterance("x", tmp_path / "x.wav"), 10)]
    with pytest.raises(DataError, match="nothing says who speaks"):
        Pool(nobody, Levels())


def test_demo_splits_share_no_voice_and_no_sentence(demo_cache: Path) -> None:
    corpus: Corpus = demo_voices(demo_cache)
    speakers = demo_speakers()
    assert [len(speakers[split]) for split in ("train", "dev", "test")] == [12, 4, 8]
    found = {split: {one.speaker for one in corpus.split(split)} for split in speakers}
    assert found == {split: set(names) for split, names in speakers.items()}
    sentences = [{one.labels["text"] for one in corpus.split(split)} for split in speakers]
    assert not sentences[0] & sentences[1] and not (sentences[0] | sentences[1]) & sentences[2]


def test_mixing_from_metadata_gives_the_stored_mixtures_within_a_step_of_16_bits(shared: Path) -> None:
    folder = shared / "separation_sb" if (shared / "separation_sb").is_dir() else shared / "data" / "separation_sb"
    if not folder.is_dir():
        pytest.skip("no separation_sb there")
    stored = {one.id: one for one in read_corpus(folder / "wav16k" / "min").utterances}
    listed = read_corpus(folder / "libri2mix_these_mixtures.csv", root=folder / "LibriSpeech")
    reader, compared = Reader(DataConfig(), 16000), 0
    for utterance in listed.utterances:
        sources = tuple(part for part in parts(utterance) if not part.noise)
        if all(part.path.is_file() for part in sources):
            mixed = Utterance(utterance.id, sources[0].path, mixture=Mixture(sources))
            made, kept = reader(mixed), reader(stored[utterance.id])
            assert len(made) == len(kept) and float((made - kept).abs().max()) < 1.01 / 32768
            compared += 1
    assert compared == 2


def test_rows_of_mixtures_are_resampled_by_all_their_speakers_whatever_their_order() -> None:
    names = [["a", "b", "c"], ["b", "c", "d"], ["c", "a"], ["d", "e", "a"], ["b"], ["e", "d", "e"]]
    drawn = np.random.default_rng(0).integers(0, 3, (50, 5))
    # A speaker's place among the drawn is that in the order of names; who is named twice in a row counts once.
    wanted = np.stack([np.prod([drawn[:, "abcde".index(name)] for name in {*row}], axis=0) for row in names], 1)
    for turn in range(3):
        turned = [row[turn % len(row) :] + row[: turn % len(row)] for row in names]
        rows = [
            {"id": str(n), "x": float(n), **{f"speaker{k}": name for k, name in enumerate(row, start=1)}}
            for n, row in enumerate(turned)
        ]
        table = Table(rows)
        assert table.clusters == 5 and table.two_sided
        assert (table.weights()(drawn) == wanted).all()
        assert (table.summed("x")(drawn) == wanted @ np.arange(6)).all()
        some = table.select(np.array([1, 3, 5]))
        assert some.clusters == 5 and (some.weights()(drawn) == wanted[:, [1, 3, 5]]).all()
    other = [{**row, "speaker3": "f"} for row in rows]
    with pytest.raises(DataError, match="speaker3"):
        same_data(Table(rows), Table(other))
