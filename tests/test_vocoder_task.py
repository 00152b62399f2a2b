"""Vocoders as a task: what a run measures and writes, resumes and predicts; published weights; data layouts; wrong use."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import Answer
from corpora import make_corpus
from headwater.downstream.vocoder import distances as crew_module
from headwater.downstream.vocoder.copying import CopyHead
from headwater.downstream.vocoder.distances import Crew, distances
from headwater.downstream.vocoder.nsf import Head as NsfHead
from headwater.downstream.vocoder.nsf import Statistics
from headwater.downstream.vocoder.probe import Head, ProbeConfig, Vocoder
from headwater.downstream.vocoder.resynthesis import samples_between_frames
from headwater.downstream.vocoder.scoring import Resyntheses
from safetensors.torch import save_file
from voices import RATE, done, result, voice, words

from headwater.config import DataConfig
from headwater.data.readers import read_corpus
from headwater.data.splits import parted_by
from headwater.errors import DataError
from headwater.metrics import Mean, evaluate, paired_difference
from headwater.nn.upstream import UpstreamSpec
from headwater.results.files import read_rows
from headwater.train.loop import Trainer
from headwater.train.windows import Windows
from headwater.vocoder.copy_synthesis import griffin_lim, mel_bound, world
from headwater.vocoder.distances import world_distances
from headwater.vocoder.f0 import Tracking
from headwater.vocoder.fourier import FourierSettings, FourierVocoder
from headwater.vocoder.mel import LogMel
from headwater.vocoder.nsf import NsfSettings, SourceFilter
from headwater.vocoder.nsf_weights import to_nii
from headwater.vocoder.tracks import kept_track

pytest.importorskip("pyworld", reason="F0 and WORLD need pyworld")

Command = Callable[..., Answer]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Voices of seven speakers, those of test in no other split; one of its utterances is silent."""
    folder = tmp_path_factory.mktemp("voices")
    splits = ["train"] * 4 + ["dev"] + ["test"] * 3
    with (folder / "list.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "speaker", "split"])
        for number, split in enumerate(splits):
            wav = voice(0.42 + 0.013 * number, 100 + 20 * number, number) * (number != 7)
            soundfile.write(folder / f"{number}.wav", wav, RATE)
            writer.writerow([f"{number}.wav", f"s{min(number, 6)}", split])
    return folder / "list.csv"


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_STORE", str(tmp_path / "store"))


@pytest.fixture()
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these runs."""
    monkeypatch.setattr(Resyntheses, "pictures", lambda self: {})
    monkeypatch.setattr("headwater.results.report.draw", lambda *arguments, **settings: {})


# runs


def test_a_run_says_what_survived_and_under_which_budget(corpus: Path, command: Command) -> None:
    done(command(*words(corpus, "vocoder"), "run"))
    found, rows = result("run"), read_rows(Path("run/scores/test.jsonl"))
    assert [row["speaker"] for row in rows] == ["s5", "s6", "s6"] and list(found["metrics"]["dev"]) == ["mel_l1"]
    assert (found["steps"], found["audio_s"]) == (4, pytest.approx(4 * 0.2 * 2)) and found["parameters"] > 1000
    test = found["metrics"]["test"]
    silent = next(row for row in rows if row["id"].startswith("7"))
    assert all(silent[column] is None for column in ("mcd", "f0_rmse", "f0_correlation", "stft_distance"))
    voiced = [row for row in rows if row is not silent]
    assert test["mcd"]["n"] == 2 and "not defined in 1 of 3 rows" in test["mcd"]["note"]
    assert test["mcd"]["value"] == pytest.approx(np.mean([row["mcd"] for row in voiced]))
    assert test["mel_l1"]["n"] == 3 and test["vuv_error"]["value"] <= 100
    assert {file.name for file in Path("run/plots").glob("f0_*")} == {"f0_test.png"}
    assert sorted(file.stem for file in Path("run/audio").rglob("*.flac")) == 3 * ["original"] + 3 * ["resynthesis"]
    missing = [column for column in ("pesq_wb", "stoi", "estoi") if column not in test]
    assert all(any(column in note for note in found["notes"]) for column in missing)
    again = done(command("run", "-m", "evaluate", "-e", "run", "-t", "test"))
    assert f"{test['mel_l1']['value']:.4f}" in again.out


@pytest.mark.parametrize("system", ["vocoder", "vocoder_nsf"])
def test_a_stopped_run_goes_on_to_the_bits_of_an_undisturbed_one(
    system: str, corpus: Path, command: Command, monkeypatch: pytest.MonkeyPatch, undrawn: None
) -> None:
    line = words(corpus, system)
    done(command(*line, "whole"))
    step = Trainer._step
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", lambda self, *one: step(self, *one) if self.standing.step != 3 else _stop())
        assert command(*line, "broken").code == 1
    done(command(*line, "broken"))
    for file in ("model.safetensors", "scores/test.jsonl"):
        assert Path("whole", file).read_bytes() == Path("broken", file).read_bytes()


def _stop() -> None:
    raise KeyboardInterrupt


def test_predictions_are_as_long_as_their_files(
    corpus: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None
) -> None:
    sizes = {"short": 1, "odd": 4021, "long": 20011}
    for name, size in sizes.items():
        soundfile.write(tmp_path / f"{name}.wav", voice(2, 120)[:size], RATE)
    files = [str(tmp_path / f"{name}.wav") for name in sizes]
    done(command(*words(corpus, "vocoder"), "probe"))
    done(command(*words(corpus, "vocoder_nsf"), "nsf"))
    done(command("run", "-d", "vocoder_copy", "-v", "mel-bound", "--data", str(corpus), "-p", "copy"))
    assert result("copy")["parameters"] == result("copy")["steps"] == 0
    monkeypatch.setattr(Vocoder, "windows", Windows(1.0, 0.8, RATE))
    for run in ("probe", "nsf", "copy"):
        done(command("run", "-m", "predict", "-e", run, *files, "--out", f"{run}-out"))
        heard = {file.stem: soundfile.info(file).frames for file in Path(f"{run}-out").rglob("*.wav")}
        assert sorted(heard.values()) == sorted(sizes.values())


# heads


def test_an_utterance_is_rendered_the_same_alone_and_in_a_batch() -> None:
    torch.manual_seed(0)
    sizes = torch.tensor([4000, 2417])
    frames, f0 = torch.randn(2, 51, 8), 100 + 50 * torch.rand(2, 51)
    wavs = torch.from_numpy(np.stack([voice(0.25, 110)] * 2)).float()
    wavs[1, 2417:] = 0
    probe = Head(FourierVocoder(8, 80, 0.0, FourierSettings(dim=16, blocks=2)))
    settings = NsfSettings(num_mels=8, channels=4, blocks=1, layers=2)
    nsf = NsfHead(SourceFilter(settings), 7, learns=True)
    lengths = sizes // 80 + 1
    for module in (probe.eval(), nsf.eval(), CopyHead("griffin_lim", 7)):
        inputs = {"samples": sizes, "f0": f0, "sound": wavs}
        both = module(frames, lengths, inputs)
        both = getattr(both, "wav", both)
        assert both.shape == (2, 4000) and not both[1, 2417:].any()
        for row, size in enumerate(sizes.tolist()):
            one = {"samples": sizes[row : row + 1], "f0": f0[row : row + 1], "sound": wavs[row : row + 1, :size]}
            alone = module(frames[row : row + 1, : size // 80 + 1], lengths[row : row + 1], one)
            assert torch.allclose(getattr(alone, "wav", alone)[0], both[row, :size], atol=1e-5)


def test_the_normalisation_learnt_is_that_of_what_was_heard_and_of_voiced_frames_for_f0() -> None:
    statistics, generator = Statistics(3), torch.Generator().manual_seed(0)
    mel = torch.randn(2, 9, 2, generator=generator) * 3 + 1
    f0 = torch.tensor([[0, 0, 100, 110, 120, 0, 0, 0, 0.0], [90, 90, 90, 0, 0, 0, 0, 0, 0.0]])
    lengths = torch.tensor([9, 4])
    statistics.take(mel[:1], f0[:1], lengths[:1])
    mean, std = statistics.take(mel[1:], f0[1:], lengths[1:])
    heard = torch.cat([mel[0], mel[1, :4]])
    voiced = f0[f0 > 0]
    assert torch.allclose(mean[:2], heard.mean(0), atol=1e-5) and torch.allclose(std[:2], heard.std(0, correction=0))
    assert float(mean[2]) == pytest.approx(float(voiced.mean()))
    assert float(std[2]) == pytest.approx(float(voiced.std(correction=0)), rel=1e-4)


def test_distances_do_not_depend_on_who_computes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = {str(n): (voice(0.3, 100 + n).astype(np.float32), voice(0.3, 120 + n).astype(np.float32)) for n in range(2)}
    monkeypatch.setattr(crew_module, "_ALONE_SECONDS", 0.4)
    monkeypatch.setattr(crew_module, "_processors", lambda: 2)
    crew = Crew()
    for name, pair in pairs.items():
        crew.add(name, *pair)
    assert crew._pool is not None
    assert crew.take() == {name: distances(*pair) for name, pair in pairs.items()}


@pytest.mark.parametrize("processors", [1, 2])
def test_a_large_test_is_not_held_in_memory(processors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew_module, "_ALONE_SECONDS", 0.02)
    monkeypatch.setattr(crew_module, "_AHEAD", 1)
    monkeypatch.setattr(crew_module, "_processors", lambda: processors)
    crew, wav = Crew(), voice(0.05, 120).astype(np.float32)
    for number in range(8):
        crew.add(str(number), wav, wav)
        assert len(crew._waiting) <= (0 if processors == 1 else 2)
    assert crew.take() == {str(number): distances(wav, wav) for number in range(8)} and crew.take() == {}


def test_columns_are_the_distances_that_they_are_called_after() -> None:
    original, copy = voice(0.6, 120).astype(np.float32), voice(0.6, 131, 1).astype(np.float32)
    copy[: len(copy) // 3] = 0.02 * np.random.default_rng(0).standard_normal(len(copy) // 3)
    copy = np.roll(copy, 400)
    row, found = distances(original, copy), world_distances(torch.from_numpy(original), torch.from_numpy(copy), RATE)
    assert row["mcd"] == found.mcd and row["mcd_dtw"] == found.mcd_dtw < found.mcd
    assert row["f0_rmse"] == found.f0.rmse_cents and row["f0_correlation"] == found.f0.correlation
    assert row["vuv_error"] == 100 * found.f0.vuv_error > 1


@pytest.mark.parametrize(
    ("settings", "tracking"),
    [
        ({}, Tracking("dio+stonemask", 71, 800, 5.0)),
        ({"tracker": "harvest", "floor_hz": 60, "ceiling_hz": 400}, Tracking("harvest", 60, 400, 5.0)),
    ],
)
def test_f0_of_a_source_filter_vocoder_is_found_as_its_settings_say(
    settings: dict[str, Any], tracking: Tracking, corpus: Path, command: Command, undrawn: None, monkeypatch: Any
) -> None:
    asked: set[Tracking] = set()

    def noted(samples: Any, rate: int, how: Tracking) -> Any:
        asked.add(how)
        return kept_track(samples, rate, how)

    monkeypatch.setattr("headwater.downstream.vocoder.nsf.kept_track", noted)
    given = [f"task.{name}={value}" for name, value in settings.items()]
    done(command(*words(corpus, "vocoder_nsf", *given), "run"))
    assert asked == {tracking}


def test_copies_are_those_of_the_systems_that_they_are_called_after() -> None:
    wav = torch.from_numpy(voice(0.2, 120)).float()

    def draws(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    expected = {
        "world": world(wav, RATE),
        "griffin_lim": griffin_lim(wav, RATE, iterations=32, generator=draws(5)),
        "mel": mel_bound(wav, LogMel(RATE), iterations=32, generator=draws(5)),
    }
    inputs = {"sound": wav[None], "samples": torch.tensor([len(wav)])}
    for system, copy in expected.items():
        assert torch.equal(CopyHead(system, 5)(wav[None], inputs["samples"], inputs)[0], copy), system
    assert not torch.equal(CopyHead("mel", 6)(wav[None], inputs["samples"], inputs)[0], expected["mel"])


def test_strides_are_counted_in_samples_of_the_vocoder() -> None:
    spec = UpstreamSpec("x", 8000, 80, 20.0, 4, (4,), ("x",))
    assert samples_between_frames(spec) == (160, 40.0)


def test_nii_weights_are_scored_as_they_stand(shared: Path, corpus: Path, command: Command, undrawn: None) -> None:
    for member in ("hn-nsf", "cyc-noise-nsf-4"):
        weights = shared / "parity" / "nii_nsf" / f"{member}.safetensors"
        line = ["run", "-d", "vocoder_nsf", "-v", "nii", "--data", str(corpus), "-p", member]
        done(command(*line, "-o", f"task.weights={weights},,data.limit=1"))
        found = result(member)
        assert (found["steps"], found["parameters"]) == (0, 0) and list(found["metrics"]) == ["test"]
        assert any(member in note and "sha256" in note for note in found["notes"])
        # The run folder is enough, wherever the weights were.
        done(command("run", "-m", "predict", "-e", member, str(corpus.parent / "5.wav"), "--out", f"{member}-out"))


def test_weights_of_another_content_at_the_same_place_are_another_run(
    corpus: Path, command: Command, undrawn: None, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.safetensors"
    line = ["run", "-u", "nii_mel", "-d", "vocoder_nsf", "--data", str(corpus), "-p", "run"]
    line += ["-o", f"task.weights={weights},,data.limit=1"]
    for seed, said in ((0, None), (1, "data.sha256")):
        torch.manual_seed(seed)
        state = to_nii(SourceFilter(NsfSettings(member="hn-nsf")))
        save_file({name: value.contiguous().clone() for name, value in state.items()}, weights)
        answer = command(*line)
        assert (answer.code == 0) is (said is None), answer.err
        assert said is None or (answer.code == 2 and said in answer.err)


# data and measures


@pytest.mark.parametrize(
    ("layout", "files", "expected"),
    [
        ("ljspeech", ("wavs/LJ001-0001.wav", "wavs/LJ002-0001.wav"), [("LJ001-0001", "LJ"), ("LJ002-0001", "LJ")]),
        (
            "vctk",
            ("wav48/p225/p225_001_mic1.flac", "wav48/p225/p225_001_mic2.flac", "wav48/s5/s5_001.wav"),
            [("p225_001_mic1", "p225"), ("s5_001", "s5")],
        ),
        (
            "arctic",
            ("cmu_us_bdl_arctic/wav/arctic_a0001.wav", "cmu_us_bdl_arctic/orig/arctic_a0001.wav"),
            [("bdl_arctic_a0001", "bdl")],
        ),
    ],
)
def test_published_layouts_are_found_out(
    tmp_path: Path, layout: str, files: tuple[str, ...], expected: list[tuple[str, str]]
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / file, np.zeros(160), RATE)
    found = read_corpus(tmp_path)
    assert (found.reader, [(one.id, one.speaker) for one in found.utterances]) == (layout, expected)


@pytest.mark.parametrize(("speakers", "parted"), [(2, False), (3, True)])
def test_three_speakers_are_enough_for_unseen_voices_as_in_other_tasks(
    tmp_path: Path, speakers: int, parted: bool
) -> None:
    corpus = make_corpus(tmp_path, "folder", speakers=speakers)
    assert parted_by(read_corpus(corpus)) == ("speaker" if parted else "utterance")
    items = Vocoder(ProbeConfig(), DataConfig(path=str(corpus)), 0).corpora()
    heard = [{item.utterance.speaker for item in part} for part in items.values()]
    assert all(one.isdisjoint(other) is parted for one, other in itertools.combinations(heard, 2)) and len(heard) == 3


def test_metadata_of_ljspeech_is_read_and_a_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "wavs").mkdir()
    soundfile.write(tmp_path / "wavs" / "LJ001-0001.wav", np.zeros(160), RATE)
    (tmp_path / "metadata.csv").write_text("LJ001-0001|in 1900|in nineteen hundred\n")
    assert read_corpus(tmp_path).utterances[0].labels == {"text": "in nineteen hundred"}
    (tmp_path / "metadata.csv").write_text("LJ001-0001,in 1900\n")
    with pytest.raises(DataError, match=r"metadata\.csv:1"):
        read_corpus(tmp_path)


def test_a_mean_leaves_out_what_is_not_defined_and_says_so() -> None:
    measure = Mean("f0", "f0", "cents", higher_is_better=False, optional=True)
    rows = [{"id": str(n), "speaker": f"s{n // 3}", "f0": None if n % 3 == 0 else float(n)} for n in range(36)]
    found = evaluate([measure], rows)["f0"]
    assert found.value == pytest.approx(np.mean([n for n in range(36) if n % 3])) and found.n == 24
    assert found.clusters == 12 and "not defined in 12 of 36" in str(found.note)
    other = [{**row, "f0": None if row["id"] == "1" else (row["f0"] or 0.0) + 2} for row in rows]
    difference = paired_difference(measure, rows, other)
    assert difference.value == pytest.approx(-2) and difference.n == 23
    with pytest.raises(DataError, match="none of 12"):
        measure.value(crew_table(rows))
    with pytest.raises(DataError, match="finite number"):
        evaluate([measure], [{"id": "a", "f0": math.inf}])
    with pytest.raises(DataError, match="finite number"):
        evaluate([measure], [{"id": "a"}])


def crew_table(rows: list[dict[str, Any]]) -> Any:
    from headwater.metrics.rows import Table

    return Table([row for row in rows if row["f0"] is None])


# wrong use


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (["-u", "mel", "-d", "vocoder_nsf"], 2, "Take -u nii_mel"),
        (["-u", "nii_mel", "-d", "vocoder_nsf", "-o", "task.model.num_mels=60"], 2, "60 values every 80"),
        (["-u", "nii_mel", "-d", "vocoder_nsf", "-o", "task.floor_hz=900"], 2, "task.floor_hz"),
        (["-u", "nii_mel", "-d", "vocoder_nsf", "-o", "task.weights=nowhere.pt"], 3, "nowhere.pt"),
        (["-u", "nii_mel", "-d", "vocoder_nsf", "-o", "task.model.sample_rate=8000"], 2, "16000 Hz"),
        (["-u", "mel", "-d", "vocoder", "-o", "task.model.kernel=4"], 2, "odd"),
        (["-u", "mel", "-d", "vocoder", "-o", "task.crop_seconds=0"], 2, "crop_seconds"),
        (["-u", "mel", "-d", "vocoder_copy", "-o", "task.system=worl"], 2, "task.system"),
    ],
)
def test_wrong_use_is_said_in_words(line: list[str], code: int, said: str, corpus: Path, command: Command) -> None:
    found = command("run", *line, "--data", str(corpus))
    assert found.code == code and said in found.err and "Traceback" not in found.err


def test_audio_of_another_rate_is_refused_and_named(corpus: Path, command: Command, tmp_path: Path) -> None:
    for number in range(6):
        folder = tmp_path / "eight" / f"s{number}"
        folder.mkdir(parents=True)
        soundfile.write(folder / "a.wav", voice(0.2, 100), 8000)
    found = command("run", "-u", "mel", "-d", "vocoder", "--data", str(tmp_path / "eight"))
    assert found.code == 3 and "data.resample=true" in found.err
