"""Runs on signals, on every kind of upstream: the same bits kept, computed anew and resumed; results with clips; answers that are sound."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import Answer
from peaks import peaks
from ranks import two_processes
from signals import RATE, answer, die_at, make_mixtures, result, words

from headwater.results.files import read_rows
from headwater.train.runner import illustrate
from headwater.weights import read_safetensors

Command = Callable[..., Answer]


@pytest.fixture(scope="module")
def mixtures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mixtures(tmp_path_factory.mktemp("mixtures"))


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_registry: None) -> Path:
    """A store of each test's own, plugins, and reports without drawings, which take longer than the runs."""
    monkeypatch.setenv("HEADWATER_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("headwater.train.runner.illustrate", lambda *given, **named: None)
    return tmp_path / "store"


# training


def test_kept_computed_anew_and_resumed_a_run_is_the_same_to_the_last_bit(
    command: Command, mixtures: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = words(mixtures, "fbank", "task.crop=0.3")
    said = command(*arguments, "-p", "without", "--no-cache")
    assert said.code == 0, said.err
    assert "training sees pieces of at most 0.3 s, drawn anew each epoch" in said.out
    assert command(*arguments, "-p", "first").code == 0
    assert command(*arguments, "-p", "again").code == 0
    counts = [(result(name)["features"]["cached"], result(name)["features"]["computed"]) for name in ("first", "again")]
    assert counts == [(0, 12), (12, 0)]
    live = die_at(monkeypatch, 5)
    assert command(*arguments, "-p", "resumed").code == 1
    live()
    assert command(*arguments, "-p", "resumed").code == 0
    assert command(*arguments, "-p", "nowhere", "--cache-budget", 0, "-o", "store.memory_gib=0").code == 0
    for name in ("first", "again", "resumed", "nowhere"):
        assert answer(name) == answer("without"), name
    assert result("first")["metrics"]["test"]["gain"]["value"] > 0
    assert result("first")["data"]["splits"]["train"]["speakers"] == 4


@pytest.mark.parametrize("upstream", ["fbank", "waveform"])
def test_drawn_items_need_only_their_place_and_are_never_kept(
    command: Command, mixtures: Path, store: Path, monkeypatch: pytest.MonkeyPatch, upstream: str
) -> None:
    arguments = words(mixtures, upstream, "task.dynamic=true", "task.crop=0.2")
    said = command(*arguments, "-p", "straight")
    assert said.code == 0, said.err
    assert "training items are drawn anew each epoch" in said.out
    live = die_at(monkeypatch, 5)
    assert command(*arguments, "-p", "resumed").code == 1
    live()
    assert command(*arguments, "-p", "resumed").code == 0
    assert answer("straight") == answer("resumed")
    kept = result("straight")["features"]["computed"]
    assert kept == (5 if upstream == "fbank" else 0), "dev and test, and nothing of what is drawn"
    assert ("the sound itself" in said.out) == (upstream == "waveform")
    assert any(store.rglob("*.safetensors")) == (upstream == "fbank")
    assert command(*arguments, "-p", "other", "--seed", 2).code == 0
    assert result("other")["history"] != result("straight")["history"]


def test_a_fine_tuned_upstream_hears_pieces(command: Command, mixtures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [*words(mixtures, "tera.demo", "task.crop=0.2"), "-f"]
    assert command(*arguments, "-p", "straight").code == 0
    live = die_at(monkeypatch, 5)
    assert command(*arguments, "-p", "resumed").code == 1
    live()
    assert command(*arguments, "-p", "resumed").code == 0
    assert answer("straight") == answer("resumed")
    before = read_safetensors(Path("straight/model.safetensors"))
    assert any(name.startswith("upstream.") for name in before)


def test_arms_of_a_grid_train_on_signals(command: Command, mixtures: Path) -> None:
    arguments = words(mixtures, "waveform", "task.crop=0.1")
    assert command(*arguments, "-p", "grid", "--lr-grid", "0.02,0.1").code == 0
    assert command(*arguments, "-p", "plain").code == 0
    grid = {arm["lr"]: arm["dev"] for arm in result("grid")["arms"]}
    # The loss of a stacked head adds up in another order.
    assert grid[0.02] == pytest.approx(result("plain")["metrics"]["dev"]["gain"]["value"], rel=1e-3)


def test_two_processes_find_what_one_finds(mixtures: Path, tmp_path: Path, command: Command) -> None:
    job = words(mixtures, "fbank", "task.crop=0.2,,task.dynamic=true")
    runs, _ = two_processes("run", {"two": job[1:]}, tmp_path)
    assert command(*job, "-p", "one").code == 0
    rows = [read_rows(folder / "scores/test.jsonl") for folder in (runs / "two", Path("one"))]
    assert [row["id"] for row in rows[0]] == [row["id"] for row in rows[1]]
    np.testing.assert_allclose(*([row["gain"] for row in part] for part in rows), rtol=1e-3)
    clips = [sorted(path.name for path in (folder / "audio/test").iterdir()) for folder in (runs / "two", Path("one"))]
    assert clips[0] == clips[1]


def test_a_rate_at_which_frames_lie_between_samples_is_refused(command: Command, tmp_path: Path) -> None:
    said = command(*words(make_mixtures(tmp_path / "low", 8000), "waveform", "task.rate=8000"), "-p", "x")
    assert said.code == 2 and "a frame every 0.5 samples at the task's rate of 8000 Hz" in said.err
    said = command(
        *words(tmp_path / "low/mixtures.csv", "waveform", "task.rate=8000,,upstream.config.sample_rate=8000"), "-p", "y"
    )
    assert said.code == 0, said.err
    said = command(*words(tmp_path / "low/mixtures.csv", "fbank", "task.rate=8000,,task.crop=0.2"), "-p", "z")
    assert said.code == 0, said.err


# results


def test_the_result_has_groups_and_the_report_plays_and_draws_clips(
    command: Command, mixtures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater.train.runner.illustrate", illustrate)
    said = command(*words(mixtures, "waveform"), "-p", "run")
    assert said.code == 0 and "test       by pair: under `breakdown` in the result" in said.out
    groups = result("run")["breakdown"]["test"]["pair"]
    rows = read_rows(Path("run/scores/test.jsonl"))
    assert {name: found["gain"]["n"] for name, found in groups.items()} == {
        kind: count for kind in ("other", "same") if (count := sum(row["pair"] == kind for row in rows))
    }
    index = json.loads(Path("run/audio/test/clips.json").read_text())
    assert len(index["clips"]) == 2 and not Path("run/audio/dev").exists()
    for clip in index["clips"]:
        assert list(clip["files"]) == ["mixture", "estimate", "reference"]
        assert {soundfile.info(Path("run/audio/test", file)).subtype for file in clip["files"].values()} == {"PCM_16"}
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert page.count("<audio controls") == 6 and page.count('src="data:audio/mpeg;base64,') == 6
    assert "media-src data:" in page and page.count("spectrograms of mix") == 4 and "test by pair" in page
    assert len(list(Path("run/plots").glob("spectrogram_test_*.png"))) == 2
    Path("run/audio/test/clips.json").write_text(
        json.dumps({"split": "test", "clips": [{"id": "x", "files": {"a": "../../result.json"}}]})
    )
    from headwater.errors import DataError
    from headwater.results.report import render

    with pytest.raises(DataError, match="lies elsewhere"):
        render("run")
    Path("run/audio/test/clips.json").write_text(json.dumps({"clips": []}))
    with pytest.raises(DataError, match="no index of clips"):
        render("run")


def test_an_oracle_goes_straight_to_scoring_and_refuses_to_predict(command: Command, mixtures: Path) -> None:
    said = command(*words(mixtures, "waveform", "task.oracle=true"), "-p", "run")
    assert said.code == 0, said.err
    assert result("run")["steps"] == 0 and result("run")["metrics"]["test"]["gain"]["value"] > 50
    assert command("run", "-m", "evaluate", "-e", "run").code == 0
    said = command("run", "-m", "predict", "-e", "run", "--out", "out", mixtures.with_name("tone0.wav"))
    assert said.code == 2 and said.err.strip().endswith(
        "an oracle knows the sources, so it cannot answer for other files"
    )
    assert not Path("out").exists()


# prediction


@pytest.fixture()
def run(command: Command, mixtures: Path, tmp_path: Path) -> Callable[..., str]:
    def make(*settings: str) -> str:
        said = command(*words(mixtures, "waveform", "runner.total_steps=2", *settings), "-p", "run")
        assert said.code == 0, said.err
        return "run"

    return make


def test_answers_are_files_as_long_as_their_input_and_a_table_names_them(
    command: Command, run: Callable[..., str], tmp_path: Path
) -> None:
    folder = run()
    for name, size in (
        ("a/x y.wav", 5000),
        ("b/x y.flac", 321),
        ("b/\N{LATIN SMALL LETTER U WITH DIAERESIS}.wav", 77),
    ):
        Path(name).parent.mkdir(exist_ok=True)
        soundfile.write(name, 0.1 * np.random.default_rng(0).standard_normal(size), RATE)
    said = command("run", "-m", "predict", "-e", folder, "--out", "out", "a", "b")
    assert said.code == 0, said.err
    rows = [json.loads(line) for line in Path("out/answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == [
        "a/x y.wav",
        "b/x y.flac",
        "b/\N{LATIN SMALL LETTER U WITH DIAERESIS}.wav",
    ]
    files = [row[key] for row in rows for key in ("source1", "source2")]
    assert len({*files}) == len(files) and {path.name for path in Path("out").iterdir()} == {*files, "answers.jsonl"}
    for row in rows:
        for key in ("source1", "source2"):
            about = soundfile.info(Path("out") / row[key])
            assert (about.frames, about.samplerate, about.subtype) == (soundfile.info(row["id"]).frames, RATE, "PCM_16")
    for out, words_ in (("a", "lies there"), (None, "--out FOLDER"), ("a/x y.wav", "is a file")):
        arguments = ["run", "-m", "predict", "-e", folder, "a", *(() if out is None else ("--out", out))]
        said = command(*arguments)
        assert said.code == 2 and words_ in said.err


def test_what_would_clip_is_written_as_float_and_said(command: Command, run: Callable[..., str]) -> None:
    folder = run("task.loud=30")
    Path("in").mkdir()
    soundfile.write("in/a.wav", np.full(400, 0.5), RATE)
    said = command("run", "-m", "predict", "-e", folder, "--out", "out", "in")
    assert said.code == 0 and "32-bit float, unclipped" in said.err
    wav, _ = soundfile.read("out/a-source1.wav")
    assert soundfile.info("out/a-source1.wav").subtype == "FLOAT" and np.abs(wav).max() > 1


def test_answers_of_several_files_are_all_there_or_none_is(command: Command, run: Callable[..., str]) -> None:
    folder = run("task.window=0.1")
    Path("in").mkdir()
    soundfile.write("in/good.wav", np.full(400, 0.5), RATE)
    soundfile.write("in/long.wav", np.where(np.arange(5000) == 4000, np.nan, 0.5), RATE, subtype="FLOAT")
    predict = ("run", "-m", "predict", "-e", folder, "--out", "out")
    assert command(*predict, "in").code == 3 and not Path("out").exists()
    assert command(*predict, "in/good.wav").code == 0
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    assert set(before) == {"answers.jsonl", "good-source1.wav", "good-source2.wav"}
    soundfile.write("in/good.wav", np.full(300, 0.25), RATE)
    assert command(*predict, "in").code == 3
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    Path("taken/good-source1.wav").mkdir(parents=True)
    said = command(*predict[:-1], "taken", "in/good.wav")
    assert said.code == 1 and "taken/good-source1.wav: cannot be written" in said.err
    assert [path.name for path in Path("taken").iterdir()] == ["good-source1.wav"]


def test_window_by_window_a_file_gets_the_answer_that_it_gets_whole(
    command: Command, run: Callable[..., str], mixtures: Path
) -> None:
    folder = run()
    said = command(*words(mixtures, "waveform", "runner.total_steps=2", "task.window=0.1"), "-p", "windowed")
    assert said.code == 0
    assert Path(folder, "model.safetensors").read_bytes() == Path("windowed/model.safetensors").read_bytes()
    Path("in").mkdir()
    for size in (1599, 1600, 1601, 2400, 16007):
        soundfile.write(f"in/{size}.wav", 0.2 * np.random.default_rng(size).standard_normal(size), RATE)
    for name in (folder, "windowed"):
        assert command("run", "-m", "predict", "-e", name, "--out", f"out-{name}", "in").code == 0
    for file in Path(f"out-{folder}").glob("*.wav"):
        (whole, _), (joined, _) = soundfile.read(file), soundfile.read(Path("out-windowed") / file.name)
        assert len(whole) == len(joined) and np.abs(whole - joined).max() < 1e-4
    assert [path.read_text() for path in (Path(f"out-{folder}/answers.jsonl"), Path("out-windowed/answers.jsonl"))] == [
        Path(f"out-{folder}/answers.jsonl").read_text()
    ] * 2


def test_ten_minutes_take_no_more_memory_than_one(run: Callable[..., str], tmp_path: Path) -> None:
    folder = Path(run("task.window=4")).absolute()
    for minutes in (1, 10):
        with soundfile.SoundFile(tmp_path / f"{minutes}.wav", "w", RATE, 1) as file:
            for second in range(60 * minutes):
                file.write(0.1 * np.random.default_rng(second).standard_normal(RATE))
    line = ["run", "-m", "predict", "-e", folder, "-o", "batch.seconds=8"]
    one, ten = peaks([[*line, "--out", tmp_path / f"out{n}", tmp_path / f"{n}.wav"] for n in (1, 10)], tmp_path)
    assert soundfile.info(tmp_path / "out10" / "10-source1.wav").frames == 600 * RATE
    # Ten minutes are 38 MB as float32, for each of three signals.
    assert ten - one < 20e6


def test_a_broken_long_file_leaves_no_half_answer(command: Command, run: Callable[..., str]) -> None:
    folder = run("task.window=0.1")
    Path("in").mkdir()
    wav = np.zeros(RATE, dtype=np.float32)
    wav[-5] = np.nan
    soundfile.write("in/a.wav", wav, RATE, "FLOAT")
    said = command("run", "-m", "predict", "-e", folder, "--out", "out", "in")
    assert said.code == 3 and "NaN" in said.err
    assert not Path("out").exists() or not list(Path("out").iterdir())
