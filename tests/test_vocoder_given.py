"""NII's raw files and F0 that is given: written from audio, resynthesised, trained on; and what does not go together."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import Answer
from headwater.downstream.vocoder import nsf
from headwater.downstream.vocoder.nsf import NsfConfig, NsfVocoder
from headwater.downstream.vocoder.scoring import Resyntheses
from torch import Tensor
from voices import RATE, done, result, voice, words

from headwater.audio.frontends.melspec import NiiMel
from headwater.config import DataConfig
from headwater.errors import DataError, UsageError
from headwater.nn.upstream import UpstreamSpec
from headwater.results.files import read_rows
from headwater.vocoder.f0 import Tracking, extract_f0
from headwater.vocoder.pairing import fitted
from headwater.vocoder.raw import read_f0, read_mel, write_f0

pytest.importorskip("pyworld", reason="F0 and WORLD need pyworld")

Command = Callable[..., Answer]
SAMPLES = 4000  # of 50 frames; sounds of a few samples less have as many


@pytest.fixture(autouse=True)
def undrawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these runs."""
    monkeypatch.setenv("HEADWATER_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(Resyntheses, "pictures", lambda self: {})
    monkeypatch.setattr("headwater.results.report.draw", lambda *arguments, **settings: {})


@pytest.fixture()
def corpus(tmp_path: Path) -> Path:
    """A table of three speakers with a column of F0 files, which are those of another tracker; the last voice is silent."""
    (tmp_path / "audio").mkdir()
    with (tmp_path / "list.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "speaker", "split", "pitch"])
        for number, split in enumerate(["train", "train", "dev", "test", "test"]):
            wav = voice(0.25, 110 + 20 * number, number)[: SAMPLES - 1 - number] * (number != 4)
            soundfile.write(tmp_path / "audio" / f"{number}.wav", wav, RATE)
            write_f0(tmp_path / "f0" / f"{number}.f0", extract_f0(torch.from_numpy(wav), RATE, Tracking("harvest")))
            writer.writerow([f"audio/{number}.wav", f"s{number}", split, f"f0/{number}.f0"])
    return tmp_path / "list.csv"


# raw files


def test_raw_files_hold_the_published_f0_byte_for_byte_and_the_published_mel(
    shared: Path, tmp_path: Path, command: Command
) -> None:
    parity = shared / "parity" / "nii_nsf"
    case, world = np.load(parity / "mfbsp_arctic_a0002.npz"), np.load(parity / "world_arctic_a0002.npz")
    soundfile.write(tmp_path / "a0002.wav", case["wav_int16"], RATE)
    done(command("raw", "a0002.wav", "--out", "raw", "--n-fft", 512))
    assert Path("raw/a0002.f0").read_bytes() == world["f0_dio_stonemask"].astype("<f4").tobytes()
    theirs = case["mfbsp_fft512"]
    np.testing.assert_allclose(read_mel("raw/a0002.mfbsp").numpy()[: len(theirs)], theirs, atol=1e-3)


def test_raw_files_are_what_the_front_end_and_the_tracker_say(tmp_path: Path, command: Command) -> None:
    (tmp_path / "in" / "b").mkdir(parents=True)
    wavs = {"in/a.wav": voice(0.2, 120), "in/b/a.wav": np.zeros(1000), "in/b/c.wav": voice(0.1, 200)}
    for name, wav in wavs.items():
        soundfile.write(tmp_path / name, wav, RATE, "FLOAT")
    assert "3 .mfbsp" in done(command("raw", "in", "--out", "out", "--tracker", "harvest", "--floor-hz", 60)).out
    for stem, wav in zip(("a", "a_2", "c"), wavs.values(), strict=True):
        heard = torch.from_numpy(wav).float()
        mel, f0 = NiiMel()([heard])[0][0], extract_f0(heard, RATE, Tracking("harvest", floor_hz=60))
        assert Path(f"out/{stem}.mfbsp").read_bytes() == mel.numpy().astype("<f4").tobytes()
        assert torch.equal(read_f0(f"out/{stem}.f0"), f0) and len(mel) == len(f0) == len(wav) // 80 + 1
    again = command("raw", "in/a.wav", "--out", "out")
    assert again.code == 2 and "a.mfbsp is there already" in again.err
    assert command("raw", "in/a.wav", "--out", "out", "--force").code == 0


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (["nowhere.wav", "--out", "out"], 3, "nowhere.wav"),
        (["low.wav", "--out", "out"], 3, "8000 Hz"),
        (["a.wav", "--out", "out", "--tracker", "yin"], 2, "'yin'"),
        (["a.wav", "--out", "out", "--floor-hz", "900"], 2, "between 900 and 800"),
        (["a.wav", "--out", "out", "--floor-hz", "0.0001"], 2, "10 Hz or more"),
        (["a.wav", "--out", "out", "--n-fft", "100"], 2, "FFT of 100"),
        (["a.wav", "broken.wav", "--out", "out"], 3, "broken.wav"),
        (["a.wav", "--out", "a.wav"], 2, "a.wav is no folder"),
    ],
)
def test_what_cannot_become_raw_files_is_named(line: list[str], code: int, said: str, command: Command) -> None:
    soundfile.write("low.wav", np.zeros(800), 8000)
    soundfile.write("a.wav", np.zeros(800), RATE)
    soundfile.write("broken.wav", np.full(800, np.nan), RATE, "FLOAT")
    answer = command("raw", *line)
    assert answer.code == code and said in answer.err and not Path("out").exists()


def test_raw_files_are_resynthesised_to_what_their_audio_is(corpus: Path, command: Command) -> None:
    done(command(*words(corpus, "vocoder_nsf"), "run"))
    done(command("raw", "audio", "--out", "raw"))
    done(command("run", "-m", "predict", "-e", "run", "raw", "--out", "framed"))
    done(command("run", "-m", "predict", "-e", "run", "audio", "raw/1.mfbsp", "--out", "both"))
    rows = read_rows(Path("both/answers.jsonl"))
    assert [Path(row["id"]).suffix for row in rows] == 5 * [".wav"] + [".mfbsp"]
    for number in range(5):
        framed, heard = (soundfile.read(f"{place}/{number}-resynthesis.wav")[0] for place in ("framed", "both"))
        assert len(framed) == SAMPLES and len(heard) == SAMPLES - 1 - number and heard.any()
        # Sums of products in a batch may differ in the last bit.
        np.testing.assert_allclose(framed[: len(heard)], heard, atol=1e-4)


def test_a_raw_file_without_f0_or_with_that_of_another_is_refused(corpus: Path, command: Command) -> None:
    done(command(*words(corpus, "vocoder_nsf"), "run"))
    done(command("raw", "audio", "--out", "raw"))
    Path("raw/1.f0").unlink()
    write_f0(Path("raw/2.f0"), torch.full((10,), 100.0))
    write_f0(Path("raw/3.f0"), torch.full((50,), 9000.0))
    Path("raw/0.mfbsp").write_bytes(b"\0" * 321)
    for number, said in enumerate(
        ("321 bytes", "no 1.f0 beside it", "mel has 50 frames, F0 has 10", "half the sample rate")
    ):
        answer = command("run", "-m", "predict", "-e", "run", f"raw/{number}.mfbsp", "--out", "out")
        assert answer.code == 3 and f"{number}.mfbsp" in answer.err and said in answer.err
    assert not list(Path().glob("out/*"))


def test_frames_of_another_front_end_are_refused(tmp_path: Path) -> None:
    task = NsfVocoder(NsfConfig(), DataConfig(), 0)
    task.head(UpstreamSpec("mine", RATE, 80, 0.0, 80, (80,), ("features",)))
    with pytest.raises(UsageError, match="frames of nii_mel, and this run is on mine"):
        task.frames(tmp_path / "a.mfbsp")


# given F0


@pytest.fixture()
def given(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What the heads of source-filter vocoders get as F0; extracting it is an error."""
    got: list[Tensor] = []
    forward = nsf.Head.forward

    def heard(self: Any, frames: Tensor, lengths: Tensor, inputs: Any) -> Any:
        got.append(inputs["f0"])
        return forward(self, frames, lengths, inputs)

    monkeypatch.setattr(nsf.Head, "forward", heard)
    monkeypatch.setattr(nsf, "extract_f0", None)
    return got


@pytest.mark.parametrize("way", ["task.f0_folder=f0", "task.f0_column=pitch"])
def test_given_f0_is_used_and_nothing_is_extracted(
    way: str, corpus: Path, command: Command, given: list[Tensor]
) -> None:
    done(command(*words(corpus, "vocoder_nsf", way), "run"))
    expected = [
        fitted(read_f0(f"f0/{number}.f0"), SAMPLES - 1 - number, "", hop=80, sample_rate=RATE) for number in (3, 4)
    ]
    assert all(any(torch.equal(row, f0) for rows in given for row in rows) for f0 in expected)
    before = result("run")
    assert before["metrics"]["test"]["mel_l1"]["n"] == 2
    # The folder may lie elsewhere, what it holds may not change.
    Path("f0").rename("moved")
    Path("f0").symlink_to("moved")
    done(command(*words(corpus, "vocoder_nsf", way), "run"))
    write_f0(Path("moved/0.f0"), 2 * read_f0("moved/0.f0"))
    changed = command(*words(corpus, "vocoder_nsf", way), "run")
    assert changed.code == 2 and "data.sha256" in changed.err


def test_a_finished_run_finds_its_f0_from_another_folder(
    corpus: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[Tensor]
) -> None:
    done(command(*words(corpus, "vocoder_nsf", "task.f0_folder=f0"), "run"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    done(command("run", "-m", "evaluate", "-e", tmp_path / "run"))
    (tmp_path / "f0").rename(tmp_path / "there")
    assert command("run", "-m", "evaluate", "-e", tmp_path / "run").code == 2
    done(command("run", "-m", "evaluate", "-e", tmp_path / "run", "-o", "task.f0_folder=../there"))


def spoil(corpus: Path, kind: str) -> None:
    folder = corpus.parent
    if kind == "missing":
        (folder / "f0" / "3.f0").unlink()
    elif kind == "short":
        write_f0(folder / "f0" / "3.f0", torch.full((20,), 100.0))
    elif kind == "shared":
        text = corpus.read_text()
        corpus.write_text(text.replace("f0/4.f0", "f0/3.f0"))
    elif kind == "part":
        rows = corpus.read_text().splitlines()
        corpus.write_text("\n".join([f"{rows[0]},end", *(f"{row},0.2" for row in rows[1:])]) + "\n")


@pytest.mark.parametrize(
    ("kind", "way", "code", "said"),
    [
        ("missing", "task.f0_folder=f0", 3, "no .f0 file for 1 of 5 utterances, the first is '3'"),
        ("missing", "task.f0_column=pitch", 3, "the column pitch: no .f0 file for 1 of 5"),
        ("short", "task.f0_folder=f0", 3, "3.f0: F0 has 20 frames, 3996 samples are 49 frames of 80 samples"),
        ("shared", "task.f0_column=pitch", 3, "3.f0 would be the F0 of '3' and of '4'"),
        ("part", "task.f0_folder=f0", 3, "parts of files"),
        ("", "task.f0_folder=nowhere", 2, "task.f0_folder=nowhere: no such folder"),
        ("", "task.f0_column=tone", 2, "task.f0_column=tone: the data has pitch"),
        ("", "task.f0_column=pitch,,task.f0_folder=f0", 2, "give one of them"),
    ],
)
def test_f0_that_does_not_go_with_the_audio_is_named_before_training(
    kind: str, way: str, code: int, said: str, corpus: Path, command: Command
) -> None:
    spoil(corpus, kind)
    answer = command(*words(corpus, "vocoder_nsf", way), "run")
    assert answer.code == code and said in answer.err and not Path("run").exists()


@pytest.mark.parametrize(("frames", "samples"), [(49, 4000), (50, 4000), (52, 4000), (49, 4079)])
def test_a_given_track_gets_a_value_for_every_frame(frames: int, samples: int) -> None:
    f0 = torch.arange(1.0, frames + 1)
    found = fitted(f0, samples, "a", hop=80, sample_rate=RATE)
    assert len(found) == samples // 80 + 1 and torch.equal(found[:49], f0[:49])
    assert torch.equal(found[frames:], f0[-1].expand(max(0, len(found) - frames)))


def test_a_given_track_of_another_stride_is_refused() -> None:
    with pytest.raises(DataError, match="a: F0 has 25 frames, 4000 samples are 50 frames of 80 samples"):
        fitted(torch.full((25,), 100.0), 4000, "a", hop=80, sample_rate=RATE)


# nothing voiced


@pytest.mark.parametrize("system", ["vocoder_nsf", "vocoder"])
def test_silence_and_whispers_are_scored_as_far_as_they_can_be_and_the_rest_is_said(
    system: str, tmp_path: Path, command: Command
) -> None:
    generator = np.random.default_rng(0)
    with (tmp_path / "list.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "speaker", "split"])
        for number, split in enumerate(["train", "train", "dev", "test", "test"]):
            wav = 0.01 * generator.standard_normal(3000) * (number != 4)
            soundfile.write(tmp_path / f"{number}.wav", wav, RATE)
            writer.writerow([f"{number}.wav", f"s{number}", split])
    done(command(*words(tmp_path / "list.csv", system), "run"))
    test = result("run")["metrics"]["test"]
    assert test["mel_l1"]["n"] == test["vuv_error"]["n"] == 2 and test["mcd"]["n"] == 1
    assert "f0_rmse" not in test and "f0_correlation" not in test
    # PESQ and STOI need more speech than this, where they are installed.
    assert re.search(r"no f0_rmse, f0_correlation[\w, ]*: defined for none of 2 utterances", test["mel_l1"]["note"])
    assert "no f0_rmse, f0_correlation" in Path("run/report.html").read_text(encoding="utf-8")
    assert read_rows(Path("run/scores/test.jsonl"))[1]["mcd"] is None
