"""Anti-spoofing corpora: every layout gives the same utterances, and what is wrong in one is named with its file and line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from spoof_corpora import WITH_TRAIN, SpoofClip, make_2019, make_2021, make_protocols, spoof_clips, write_lines

from headwater.data.protocols import find_asv_scores
from headwater.data.readers import read_corpus
from headwater.errors import DataError

CLIPS = spoof_clips(1)
CSV_SPLITS = {"train": "train", "dev": "dev", "eval": "test"}


def told(clips: list[SpoofClip]) -> set[tuple[str, str, str, str, str]]:
    return {(clip.name, CSV_SPLITS[clip.split], clip.speaker, clip.label, clip.attack) for clip in clips}


@pytest.mark.parametrize("layout", WITH_TRAIN)
def test_every_layout_is_recognised_and_tells_split_speaker_label_and_attack(layout: str, tmp_path: Path) -> None:
    corpus = read_corpus(WITH_TRAIN[layout](tmp_path / "corpus", CLIPS))
    assert told(CLIPS) == {
        (one.id, one.split, one.speaker, one.labels["label"], one.labels["attack"]) for one in corpus.utterances
    }
    assert all(one.path.is_file() for one in corpus.utterances)


def test_conditions_of_asvspoof_5_are_labels(tmp_path: Path) -> None:
    corpus = read_corpus(WITH_TRAIN["5"](tmp_path, CLIPS))
    assert {one.labels["codec"] for one in corpus.split("test")} == {"C01"}
    assert {one.labels["codec"] for one in corpus.split("train")} == {"none"}


@pytest.mark.parametrize("track", ["LA", "DF"])
def test_keys_of_2021_are_evaluation_sets_whose_hidden_part_is_left_out(track: str, tmp_path: Path) -> None:
    corpus = read_corpus(make_2021(tmp_path, CLIPS, track))
    speakers = sorted({clip.speaker for clip in CLIPS})
    assert {one.speaker for one in corpus.split("dev")} == {speakers[0]}
    assert {one.speaker for one in corpus.split("test")} == set(speakers[2:])
    assert {one.labels["attack"] for one in corpus.utterances if one.labels["label"] == "bonafide"} == {"-"}
    assert {one.labels["codec"] for one in corpus.utterances} == {"alaw" if track == "LA" else "low_mp3"}
    assert "2 utterances that are neither" in " ".join(corpus.notes)


def test_a_single_protocol_is_read_with_its_audio_elsewhere(tmp_path: Path) -> None:
    make_protocols(tmp_path / "corpus", CLIPS)
    lines = (tmp_path / "corpus" / "protocol.eval.txt").read_text().splitlines()
    write_lines(tmp_path / "lists" / "mine.txt", lines)
    corpus = read_corpus(tmp_path / "lists" / "mine.txt", root=tmp_path / "corpus" / "flac")
    assert {one.id for one in corpus.utterances} == {clip.name for clip in CLIPS if clip.split == "eval"}
    assert corpus.splits() == ()  # neither the name nor the lines say one
    assert "are left out" in " ".join(corpus.notes)


def test_asv_scores_of_2019_are_found_by_split(tmp_path: Path) -> None:
    assert find_asv_scores(tmp_path) == {}
    files = [
        tmp_path / "ASVspoof2019_LA_asv_scores" / f"ASVspoof2019.LA.asv.{part}.gi.trl.scores.txt"
        for part in ("dev", "eval")
    ]
    for file in files:
        write_lines(file, ["bonafide target 1.0"])
    assert find_asv_scores(tmp_path) == dict(zip(("dev", "test"), files, strict=True))


KEY = "ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.dev.trl.txt"
FIRST = next(clip for clip in CLIPS if clip.split == "dev")
LINE = f"{FIRST.speaker} {FIRST.name} - {FIRST.attack} {FIRST.label}"


def edit(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / KEY).read_text()
        assert old in text
        (folder / KEY).write_text(text.replace(old, new, 1))

    return change


def second_key(folder: Path) -> None:
    write_lines(folder / "ASVspoof2019.PA.cm.dev.trl.txt", [LINE])


def second_file(folder: Path) -> None:
    FIRST.write(folder / "copies" / f"{FIRST.name}.flac")


def no_audio(folder: Path) -> None:
    for file in folder.rglob("*.flac"):
        file.rename(file.with_stem(f"other-{file.stem}"))


FAULTS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "a column too few": (edit(f"{LINE}\n", f"{LINE.replace(' - ', ' ', 1)}\n"), (f"{KEY}:1", "4 columns")),
    "a column too many later": (edit(LINE + "\n", f"{LINE}\nLA_0003 LA_D_9 - - bonafide x\n"), (f"{KEY}:2", "6 columns", "has 5")),
    "unknown label": (edit(LINE, LINE.replace("bonafide", "genuine")), (f"{KEY}:1", "'genuine'", "neither bonafide nor spoof")),
    "a name that leads elsewhere": (edit(LINE, LINE.replace(FIRST.name, f"../{FIRST.name}")), (f"{KEY}:1", f"'../{FIRST.name}'", "no name of an utterance")),
    "an utterance twice": (edit(LINE, f"{LINE}\n{LINE}"), (f"{KEY}:2", FIRST.name, "twice", "line 1")),
    "an utterance in two keys": (edit(LINE, f"{LINE}\nLA_0000 {CLIPS[0].name} - - bonafide"), ("two utterances have the id", CLIPS[0].name, f"{KEY}:2")),
    "empty key": (lambda folder: (folder / KEY).write_text("") and None, (KEY, "is empty")),
    "two corpora": (second_key, ("two keys of one set", "ASVspoof2019.PA", "ASVspoof2019.LA")),
    "two files of one name": (second_file, (f"{KEY}:1", FIRST.name, "two files")),
    "audio of another corpus": (no_audio, ("none of the 16 utterances", "files look like other-", "data.root=FOLDER")),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_in_a_key_is_named_with_file_and_line(fault: str, tmp_path: Path) -> None:
    change, words = FAULTS[fault]
    folder = make_2019(tmp_path / "LA", CLIPS)
    change(folder)
    with pytest.raises(DataError) as caught:
        read_corpus(folder)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_folder_without_keys_says_what_keys_are(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no key of countermeasures"):
        read_corpus(tmp_path / "empty", reader="protocol")
