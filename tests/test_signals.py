"""Tasks on signals: mixed, drawn and cropped items, on every kind of upstream; the same bits kept, computed anew and resumed; and answers that are sound."""

from __future__ import annotations

import csv
import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
import torch
from conftest import Answer
from ranks import two_processes

from headwater.audio.io import blocks, read
from headwater.config import DataConfig, RunConfig, UpstreamConfig
from headwater.data.corpus import Corpus, Utterance
from headwater.data.mixtures import Mixture, Part, pieces
from headwater.nn.featurizer import Featurizer
from headwater.nn.upstream import Upstream
from headwater.results.files import read_rows
from headwater.train.corpora import Reader
from headwater.train.feed import Feed
from headwater.train.kept import contents_of
from headwater.train.loop import Trainer
from headwater.train.pieces import consecutive, place
from headwater.train.task import Draw, Item, Sounds, Task
from headwater.train.windows import Block, Windows, overlap_add
from headwater.weights import read_safetensors

Command = Callable[..., Answer]
PLUGIN = Path(__file__).with_name("tones_task.py")
RATE = 16000
STEPS = "runner.total_steps=6,,runner.eval_step=3,,runner.save_step=2,,batch.size=3,,optimizer.lr=0.02"


def make_mixtures(folder: Path, rate: int = RATE, seconds: float = 0.5) -> Path:
    """Tones of four speakers, of unequal lengths, and a list of mixtures of two."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(8):
        generator = np.random.default_rng(number)
        size = int(rate * seconds * generator.uniform(0.8, 1.4))
        tone = 0.2 * np.sin(2 * np.pi * 110 * (1 + number) * np.arange(size) / rate)
        soundfile.write(folder / f"tone{number}.wav", tone + 0.01 * generator.standard_normal(size), rate)
    splits = ["train"] * 7 + ["dev"] * 2 + ["test"] * 3
    with (folder / "mixtures.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "split", "path1", "path2", "gain1", "gain2", "speaker1", "speaker2"])
        for number, split in enumerate(splits):
            one, two = number % 8, (3 * number + 5) % 8
            writer.writerow(
                [
                    f"mix{number}",
                    split,
                    f"tone{one}.wav",
                    f"tone{two}.wav",
                    1 + number / 50,
                    0.4,
                    f"s{one % 4}",
                    f"s{two % 4}",
                ]
            )
    return folder / "mixtures.csv"


@pytest.fixture(scope="module")
def mixtures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mixtures(tmp_path_factory.mktemp("mixtures"))


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_registry: None) -> Path:
    """A store of each test's own, and plugins."""
    monkeypatch.setenv("HEADWATER_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


def words(data: Path, upstream: str = "fbank", *settings: str) -> list[str]:
    task = ["-d", "TonesTask", "--plugin", str(PLUGIN), "--data", str(data)]
    return ["run", "-u", upstream, *task, "-o", ",,".join([STEPS, *settings])]


def result(folder: str | Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))
    return content


def answer(folder: str) -> dict[str, Any]:
    """What a run found, to the last bit."""
    files = [*sorted(Path(folder, "scores").iterdir()), Path(folder, "model.safetensors")]
    found = {key: result(folder)[key] for key in ("metrics", "breakdown", "history", "best_step")}
    return {**found, **{file.name: file.read_bytes() for file in files}}


def die_at(monkeypatch: pytest.MonkeyPatch, number: int) -> Callable[[], None]:
    """Training is interrupted at a step, until what is returned is called."""
    step = Trainer._step

    def dies(trainer: Any, *window: Any) -> Any:
        if trainer.standing.step == number:
            raise KeyboardInterrupt
        return step(trainer, *window)

    monkeypatch.setattr(Trainer, "_step", dies)
    return lambda: monkeypatch.setattr(Trainer, "_step", step)


# mixtures


def tones(folder: Path, *sizes: int, rate: int = RATE) -> list[Path]:
    files = []
    for number, size in enumerate(sizes):
        wav = np.random.default_rng(number).uniform(-0.3, 0.3, size)
        soundfile.write(folder / f"{number}.wav", wav, rate, "FLOAT")
        files.append(folder / f"{number}.wav")
    return files


def test_a_mixture_is_the_sum_of_its_parts_in_length_gain_and_level(tmp_path: Path) -> None:
    one, two = tones(tmp_path, 1000, 700)
    reader = Reader(DataConfig(), RATE)
    a, b = (read(file) for file in (one, two))
    short = Utterance("m", one, mixture=Mixture((Part(one, gain=2.0), Part(two, gain=0.5))))
    wav, parts = reader.both(short)
    assert parts is not None and torch.equal(parts, torch.stack([2 * a[:700], 0.5 * b]))
    assert torch.equal(wav, 2 * a[:700] + 0.5 * b) and torch.equal(reader(short), wav)
    long, parts = reader.both(Utterance("m", one, mixture=Mixture((Part(one), Part(two, level=-20.0)), "longest")))
    assert parts is not None and len(long) == 1000 and not parts[1, 700:].any()
    assert 20 * np.log10(float(parts[1, :700].square().mean().sqrt())) == pytest.approx(-20, abs=1e-4)
    fast, _ = reader.both(Utterance("m", one, mixture=Mixture((Part(one, speed=1.25),))))
    assert len(fast) == 800
    piece = Utterance("m", one, mixture=Mixture((Part(one), Part(two)), first=100, last=250))
    assert torch.equal(reader(piece), (a[:700] + b)[100:250])


def test_a_stored_mixture_is_heard_from_its_own_file_and_its_parts_must_fit(command: Command, tmp_path: Path) -> None:
    one, two, mixed = tones(tmp_path, 800, 800, 800)
    utterance = Utterance("m", mixed, mixture=Mixture((Part(one), Part(two)), stored=True))
    wav, parts = Reader(DataConfig(), RATE).both(utterance)
    assert torch.equal(wav, read(mixed)) and parts is not None and torch.equal(parts[1], read(two))
    from headwater.data.measure import measure
    from headwater.errors import DataError

    assert measure([utterance])[1].tolist() == [800]
    soundfile.write(two, np.zeros(790), RATE)
    with pytest.raises(DataError, match=r"1\.wav has 790 samples, and its mixture .*2\.wav has 800"):
        measure([utterance])


@pytest.mark.parametrize(
    ("samples", "size", "shortest"), [(1000, 300, 1), (1000, 300, 200), (900, 300, 50), (80, 300, 9)]
)
def test_consecutive_pieces_lose_no_sample(tmp_path: Path, samples: int, size: int, shortest: int) -> None:
    one, two = tones(tmp_path, samples, samples + 50)
    cuts = pieces(samples, size, shortest)
    assert {sample for first, last in cuts for sample in range(first, last)} == set(range(samples))
    assert all(last - first <= size for first, last in cuts)
    assert samples < shortest or all(last - first >= shortest for first, last in cuts)
    reader = Reader(DataConfig(), RATE)
    for utterance in (Utterance("p", one), Utterance("m", one, mixture=Mixture((Part(one), Part(two))))):
        whole = reader(utterance)
        made = consecutive([Item(utterance, samples)], size, shortest)
        assert len({item.id for item in made}) == len(cuts)
        for item, (first, last) in zip(made, cuts, strict=True):
            assert item.num_samples == last - first and torch.equal(reader(item.utterance), whole[first:last])


def test_a_mixture_and_a_piece_are_kept_under_the_content_of_all_their_files(tmp_path: Path) -> None:
    one, two, other = tones(tmp_path, 1000, 1000, 1000)
    (tmp_path / "copy.wav").write_bytes(one.read_bytes())
    config = RunConfig(upstream=UpstreamConfig(name="fbank"), downstream="x")

    def keys(*utterances: Utterance, channel: str | int = "single") -> list[bytes]:
        config.data.channel = channel  # type: ignore[assignment]
        items = [Item(utterance, 1000) for utterance in utterances]
        return list(contents_of(items, config, (RATE, RATE), False).values())

    def mixed(name: str, *parts: Part, **how: Any) -> Utterance:
        return Utterance(name, parts[0].path, mixture=Mixture(parts, **how))

    base = mixed("a", Part(one), Part(two))
    (same,) = keys(base)
    assert keys(mixed("b", Part(tmp_path / "copy.wav"), Part(two))) == [same], "names and places have no part in it"
    others = [
        mixed("c", Part(one, gain=0.5), Part(two)),
        mixed("d", Part(one), Part(other)),
        mixed("e", Part(one), Part(two, level=-20.0)),
        mixed("f", Part(one), Part(two, speed=1.1)),
        mixed("g", Part(one), Part(two, start=0.01)),
        mixed("h", Part(one), Part(two), length="longest"),
        mixed("i", Part(one), Part(two), stored=True),
        *(item.utterance for item in consecutive([Item(base, 1000)], 400)),
        *(item.utterance for item in consecutive([Item(Utterance("u", one), 1000)], 400)),
        Utterance("u", one),
    ]
    assert len({same, *keys(*others)}) == len(others), "a stored mixture is its own file"
    assert keys(base, channel=0) != [same]
    corpora = [Corpus("c", "csv", tmp_path, (utterance,)).sha256() for utterance in (base, *others)]
    assert len({*corpora}) == len(corpora)


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


# pieces in time


class Samples(torch.nn.Module):
    """A front-end whose frame k is its own samples, so that a frame says where it lies."""

    def __init__(self, stride: int, rate: int = RATE) -> None:
        super().__init__()
        self.sample_rate, self.stride, self.offset, self.out_dim = rate, stride, stride / 2, stride

    def frames(self, samples: int) -> int:
        return max(1, samples // self.stride)

    def forward(self, wavs: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        from headwater.nn.lengths import pad

        rows = [wav[: self.frames(len(wav)) * self.stride].view(-1, self.stride) for wav in wavs]
        return pad(rows)


class Ramps(Task):
    """Utterance n is n + t/2^20 at its sample t."""

    crop_seconds = 0.05
    hops: ClassVar[dict[str, int]] = {"slow": 40}

    def __init__(self) -> None:
        pass

    def sounds(self, item: Item, wav: torch.Tensor, parts: torch.Tensor | None) -> Sounds:
        return Sounds({"mixture": wav}, {"slow": wav[::40], "pair": torch.stack([wav, -wav])})

    def _none(self, *_: Any) -> Any:
        raise AssertionError

    corpora = head = loss = score = predict = restore = _none


@pytest.mark.parametrize("way", ["kept", "anew", "trained"])
@pytest.mark.parametrize("stride", [160, 100])
def test_frames_and_samples_of_a_piece_belong_together(way: str, stride: int) -> None:
    upstream = Upstream(Samples(stride), (stride,), ("samples",))
    sizes = [4000, 900, 2563, 800]
    ramps = {str(n): n + torch.arange(size) / 2**20 for n, size in enumerate(sizes)}
    items = [Item(Utterance(name, Path(name)), len(wav)) for name, wav in ramps.items()]
    feed = Feed(
        upstream, Featurizer(upstream.spec), Ramps(), lambda item: ramps[item.id], lambda item: (ramps[item.id], None),
        device=torch.device("cpu"), trainable=way == "trained", rates=(RATE, RATE),
    )  # fmt: skip
    if way == "kept":
        feed.store.fill(items)
    heard: dict[str, set[int]] = {name: set() for name in ramps}
    for epoch in range(60):
        draws = [[Draw(7, epoch, number) for number in range(len(items))]]
        (ready,) = feed([items], draws)
        states = ready.x if way == "trained" else ready.states[0] if ready.states is not None else None
        assert states is not None
        for row, item in enumerate(items):
            size, frames = int(ready.batch.samples[row]), int(ready.lengths[row])
            wav = ready.batch.inputs["mixture"][row, :size]
            assert frames == upstream.frames(size) and not ready.batch.inputs["mixture"][row, size:].any()
            flat = states[row, :frames].flatten()
            assert torch.equal(flat[: len(wav)], wav[: len(flat)])
            assert torch.equal(ready.batch.labels["pair"][row, 1, :size], -wav)
            first = round((float(wav[0]) - row) * 2**20)
            slow = ready.batch.labels["slow"][row, : -(-size // 40)]
            assert first % stride == 0 and torch.equal(slow, wav[::40])
            assert size <= 800 and (size == 800 or first + size == item.num_samples)
            heard[item.id] |= set(range(first, first + size))
    assert {name: len(found) for name, found in heard.items()} == {str(n): size for n, size in enumerate(sizes)}
    (whole,) = feed([items])
    assert whole.batch.samples.tolist() == sizes


def test_a_place_depends_on_seed_epoch_and_item_alone() -> None:
    places = {
        place(9000, 1000, 160, Draw(seed, epoch, number), 8800)
        for seed in (1, 2)
        for epoch in (0, 1)
        for number in (0, 1, 2)
    }
    assert len(places) > 6
    assert place(9000, 1000, 160, Draw(1, 1, 1), 8800) == place(9000, 1000, 160, Draw(1, 1, 1), 8800)
    lasts = {place(1500, 1000, 160, Draw(1, epoch, 0), 1280) for epoch in range(100)}
    assert lasts == {(first, min(first + 1000, 1500)) for first in range(0, 641, 160)}


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


def test_the_result_has_groups_and_the_report_plays_and_draws_clips(command: Command, mixtures: Path) -> None:
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


def test_ten_minutes_take_no_more_memory_than_one(command: Command, run: Callable[..., str]) -> None:
    folder = run("task.window=4")
    Path("in").mkdir()
    peaks = []
    for minutes in (1, 10):
        with soundfile.SoundFile(f"in/{minutes}.wav", "w", RATE, 1) as file:
            for second in range(60 * minutes):
                file.write(0.1 * np.random.default_rng(second).standard_normal(RATE))
        assert (
            command(
                "run", "-m", "predict", "-e", folder, "-o", "batch.seconds=8", "--out", "out", f"in/{minutes}.wav"
            ).code
            == 0
        )
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert soundfile.info("out/10-source1.wav").frames == 600 * RATE
    # Ten minutes are 38 MB as float32, for each of three signals.
    assert peaks[1] - peaks[0] < 20_000


def test_a_broken_long_file_leaves_no_half_answer(command: Command, run: Callable[..., str]) -> None:
    folder = run("task.window=0.1")
    Path("in").mkdir()
    wav = np.zeros(RATE, dtype=np.float32)
    wav[-5] = np.nan
    soundfile.write("in/a.wav", wav, RATE, "FLOAT")
    said = command("run", "-m", "predict", "-e", folder, "--out", "out", "in")
    assert said.code == 3 and "NaN" in said.err
    assert not Path("out").exists() or not list(Path("out").iterdir())


@pytest.mark.parametrize(("size", "hop"), [(100, 50), (100, 100), (100, 30)])
def test_windows_cover_a_file_and_add_up_to_it(size: int, hop: int) -> None:
    windows = Windows(size / RATE, hop / RATE, RATE)
    for samples in (101, 150, 151, 399, 1000):
        wav = torch.randn(samples)
        cut = list(windows.cut(iter(wav.split(hop)), samples))
        assert all(torch.equal(piece, wav[first : first + size]) for first, piece in cut)
        joined = overlap_add((Block(first, piece, {"a": piece}) for first, piece in cut), windows)
        torch.testing.assert_close(torch.cat([stretch["a"] for stretch in joined]), wav)


@pytest.mark.parametrize("rate", [16000, 22050, 8000])
def test_blocks_of_a_file_are_the_file(tmp_path: Path, rate: int) -> None:
    (file,) = tones(tmp_path, 30011, rate=rate)
    whole = read(file, resample=True)
    stream = torch.cat(list(blocks(file, 777, resample=True)))
    assert len(stream) == len(whole)
    assert torch.equal(stream, whole) if rate == RATE else float((stream - whole).abs().max()) < 1e-5


def test_speakers_of_a_mixture_are_resampled_together() -> None:
    from headwater.metrics import Mean, evaluate

    rows = [
        {"id": f"{one}-{two}", "speaker1": f"s{one}", "speaker2": f"s{two}", "gain": float(3 * (one == 0) + 3 * (two == 0) + two % 2)}
        for one in range(8) for two in range(8) if one < two
    ]  # fmt: skip
    measure = Mean("gain", "gain", "dB", higher_is_better=True)
    joint = evaluate([measure], rows)["gain"]
    alone = evaluate([measure], [{"id": row["id"], "gain": row["gain"]} for row in rows])["gain"]
    assert joint.clusters == 8 and alone.clusters == len(rows) and joint.ci95 and alone.ci95
    # One speaker who is easy is in many mixtures: as rows they look independent, and are not.
    assert joint.ci95[1] - joint.ci95[0] > 1.5 * (alone.ci95[1] - alone.ci95[0])
