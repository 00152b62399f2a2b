"""`headwater extract`: the same bytes whoever computes them, nothing twice, nothing half."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT, Answer
from hypothesis import given
from hypothesis import strategies as st

import headwater
from headwater.data.features import open_features, read_features
from headwater.data.readers import read_corpus
from headwater.extraction.names import LONGEST, file_names

Command = Callable[..., Answer]
CUT = ("-o", "shard.seconds=1.5")

# A model of a user's, in whose file nothing says where it will be run; a file beside it makes one process of those that see it end at once.
PLUGIN = '''
import os
import signal
from pathlib import Path

import torch


class Tiny(torch.nn.Module):
    """An affine map of fbank frames."""

    frontend = "fbank_no_cmvn"
    out_dim = 6

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.map = torch.nn.Linear(240, 6)

    def forward(self, x):
        armed = Path(__file__).with_name("armed")
        if os.environ.get("TINY_ARMED") and x.shape[1] > 60:
            try:
                armed.unlink()
            except FileNotFoundError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.map(x)
'''


@pytest.fixture()
def corpus(tmp_path: Path) -> Path:
    """Twelve utterances of 0.2 to 1 s by three speakers, two of them the same sound, as a list with a relative path."""
    generator = np.random.default_rng(5)
    rows = []
    for number in range(12):
        sound = 0.1 * generator.standard_normal(int(generator.integers(3200, 16000)))
        if number == 11:
            sound, _ = soundfile.read(tmp_path / "wav" / "u03.wav")
        (tmp_path / "wav").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "wav" / f"u{number:02d}.wav", sound, 16000, subtype="FLOAT")
        rows.append([f"wav/u{number:02d}.wav", f"s{number % 3}", ("train", "train", "dev", "test")[number // 3]])
    write_list(tmp_path / "corpus.csv", rows)
    (tmp_path / "tiny.py").write_text(PLUGIN)
    return Path("corpus.csv")


def write_list(path: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = ("path", "speaker", "split")) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder but what is allowed to differ: when shards were used, and what killed writers began."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "usage.json" and file.suffix != ".tmp" and "digests" not in file.parts
    }


@pytest.fixture()
def stored(
    command: Command, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_registry: None
) -> Any:
    """Extract into a store of its own: (name of the store, arguments) -> (answer, what the store holds)."""

    def run(name: str, *arguments: object) -> tuple[Answer, dict[str, bytes]]:
        monkeypatch.setenv("HEADWATER_STORE", str(tmp_path / name))
        answer = command("extract", "-u", "Tiny", "--plugin", "tiny.py", "--data", corpus, *CUT, *arguments)
        return answer, content(tmp_path / name)

    return run


def test_any_number_of_processes_and_shards_in_any_order_write_the_same_bytes(stored: Any) -> None:
    answer, alone = stored("alone")
    assert answer.code == 0, answer.err
    shards = [name for name in alone if "frames-" in name]
    assert len(shards) > 3
    for workers in (2, 3):
        answer, held = stored(f"workers{workers}", "--workers", workers)
        assert answer.code == 0, answer.err
        assert held == alone
    for order in ((0, 1, 2), (2, 0, 1)):
        for number in order:
            answer, held = stored(f"order{order}", "--shard", f"{number}/3")
            assert answer.code == 0, answer.err
        assert held == alone


def test_a_second_time_nothing_is_computed(stored: Any) -> None:
    answer, first = stored("store")
    assert "11 utterances computed" in answer.out  # two of the twelve are the same sound
    answer, second = stored("store", "--workers", 2)
    assert "12 of 12 utterances are there already" in answer.out and "done       0 utterances" in answer.out
    assert first == second


def test_what_a_killed_worker_leaves_is_done_by_the_next_run(
    stored: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = stored("whole")
    (tmp_path / "armed").touch()
    monkeypatch.setenv("TINY_ARMED", "1")
    answer, held = stored("killed", "--workers", 2)
    assert answer.code == 1 and "the same command goes on" in answer.err and "Traceback" not in answer.err
    assert not (tmp_path / "armed").exists() and set(held) < set(whole)
    answer, held = stored("killed", "--workers", 2)
    assert answer.code == 0, answer.err
    assert held == whole


def test_only_what_a_shard_lacks_is_computed_again(stored: Any, tmp_path: Path) -> None:
    _, whole = stored("store")
    shard = sorted((tmp_path / "store").rglob("frames-*"))[1]
    shard.unlink()
    answer, held = stored("store")
    assert held == whole
    assert "done       0" not in answer.out and "done       11" not in answer.out


@pytest.mark.parametrize(("task", "layers"), [("speaker", []), ("phone", ["-l", "0"])])
def test_a_run_after_an_extraction_computes_nothing(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, layers: list[str]
) -> None:
    """On the demo corpus, frames for a head on frames, and for one that needs nothing but their means."""
    monkeypatch.setenv("HEADWATER_STORE", str(tmp_path / "store"))
    answer = command("extract", "-u", "fbank_no_cmvn", *layers)
    assert answer.code == 0, answer.err
    quick = ("-o", "runner.total_steps=2,,runner.eval_step=2", "-p", "run")
    assert command("run", "-u", "fbank_no_cmvn", "-d", task, *layers, *quick).code == 0
    features = json.loads(Path("run/result.json").read_text())["features"]
    assert features["computed"] == 0 and features["cached"] > 100


def test_means_serve_a_head_that_needs_no_more(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_STORE", str(tmp_path / "store"))
    assert command("extract", "-u", "fbank_no_cmvn", "--pooled").code == 0
    assert {name.split("-")[0] for name in os.listdir(next((tmp_path / "store").glob("*/bank.json")).parent)} >= {
        "mean"
    }
    quick = ("-o", "runner.total_steps=2,,runner.eval_step=2", "-p", "run")
    assert command("run", "-u", "fbank_no_cmvn", "-d", "speaker", *quick).code == 0
    features = json.loads(Path("run/result.json").read_text())["features"]
    assert features["form"] == "mean" and features["computed"] == 0


@pytest.fixture()
def files(command: Command, corpus: Path, fresh_registry: None) -> Any:
    """Extract into a folder: (arguments) -> answer."""

    def run(*arguments: object) -> Answer:
        return command("extract", "-u", "Tiny", "--plugin", "tiny.py", "--data", corpus, *CUT, *arguments)

    return run


@pytest.mark.parametrize("form", ["npy", "safetensors"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_plain_files_are_data_for_features(files: Any, command: Command, form: str, dtype: str) -> None:
    answer = files("-s", "last_hidden_state", "--out", "out", "--format", form, "--cache-dtype", dtype)
    assert answer.code == 0, answer.err
    about = open_features("out")
    model = headwater.load("Tiny")
    assert (about.dim, about.sample_rate, about.stride, about.offset) == (6, 16000, model.stride, model.offset)
    found = read_corpus("out")
    assert found.reader == "features" and len(found.utterances) == 12 and found.splits() == ("train", "dev", "test")
    for one in found.utterances:
        wav, _ = soundfile.read(Path("wav") / f"{one.id}.wav", dtype="float32")
        exact = model.extract([torch.from_numpy(wav)]).last_hidden_state[0]
        held = read_features(one.path)
        assert held.shape == exact.shape and int(one.labels["frames"]) == len(exact)
        assert torch.allclose(held, exact, atol=1e-5 if dtype == "float32" else 1e-1)
    said = json.loads(Path("out/extract.json").read_text())
    assert said["upstream"]["weights_sha256"] and [layer["name"] for layer in said["layers"]] == [model.layer_names[-1]]
    assert said["stride"] == model.stride and said["card"]["summary"]
    assert ("error" in said) == (dtype == "float16")
    assert files("-s", "last_hidden_state", "--out", "out", "--format", form, "--cache-dtype", dtype).code == 0
    assert json.loads(Path("out/extract.json").read_text()) == said
    quick = ("-o", "runner.total_steps=2,,runner.eval_step=2", "-p", "run")
    answer = command("run", "-u", "features", "-d", "speaker", "--data", "out", *quick)
    assert answer.code == 0, answer.err


def test_every_layer_has_a_folder_that_is_data_of_its_own(files: Any) -> None:
    answer = files("--out", "all")
    assert answer.code == 0, answer.err
    layers = json.loads(Path("all/extract.json").read_text())["layers"]
    folders = sorted(path.name for path in Path("all").iterdir() if path.name.startswith("layer"))
    assert folders == ([f"layer{layer['number']:02d}" for layer in layers] if len(layers) > 1 else [])


def test_plain_files_are_the_same_bytes_whoever_writes_them(files: Any) -> None:
    assert files("--out", "alone").code == 0
    assert files("--out", "workers", "--workers", 3).code == 0
    for number in (1, 0, 2):
        assert not Path("shards/features.json").exists()
        answer = files("--out", "shards", "--shard", f"{number}/3")
        assert answer.code == 0, answer.err
    alone = content(Path("alone"))
    assert len([name for name in alone if name.endswith(".npy")]) == 12
    assert content(Path("workers")) == alone and content(Path("shards")) == alone


def test_parts_of_a_folder_that_are_not_done_are_done_by_the_next_run(
    files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert files("--out", "whole").code == 0
    (tmp_path / "armed").touch()
    monkeypatch.setenv("TINY_ARMED", "1")
    answer = files("--out", "killed", "--workers", 2)
    assert answer.code == 1 and not Path("killed/features.json").exists() and not Path("killed/manifest.csv").exists()
    assert files("--out", "killed").code == 0
    assert content(Path("killed")) == content(Path("whole"))
    next(Path("killed").glob("u05.npy")).unlink()
    answer = files("--out", "killed")
    assert "done       0" not in answer.out and "done       12" not in answer.out
    assert content(Path("killed")) == content(Path("whole"))


def test_changed_audio_is_extracted_again(files: Any) -> None:
    assert files("--out", "out").code == 0
    before = np.load("out/u05.npy")
    soundfile.write("wav/u05.wav", 0.3 * np.ones(8000), 16000, subtype="FLOAT")
    assert files("--out", "out").code == 0
    assert not np.array_equal(np.load("out/u05.npy")[: len(before)], before[: len(np.load("out/u05.npy"))])


def test_means_as_plain_files_say_nothing_of_frames(files: Any) -> None:
    assert files("--out", "frames").code == 0 and files("--out", "means", "--pooled").code == 0
    assert not Path("means/features.json").exists()  # or labels by time would all be judged on one frame
    assert np.load("means/u01.npy").shape == (1, 6)
    assert np.allclose(np.load("means/u01.npy")[0], np.load("frames/u01.npy").mean(0), atol=1e-6)


HOSTILE = [
    "../../escaped", "/etc/passwd", "..", ".", "a/../b", "a//b", ".hidden", "x" * 300, "dir/" * 300 + "deep", "CON", "nul.txt", "trailing.", "A", "a",
    "back\\slash", "q?*<>|\":", "é", unicodedata.normalize("NFD", "é"), "%2E%2E", "%~", "plain-1.2_3", "manifest.csv", "features.json", "Б/ж",
]  # fmt: skip


def test_hostile_ids_stay_in_the_folder_and_apart(command: Command, tmp_path: Path, fresh_registry: None) -> None:
    (tmp_path / "tiny.py").write_text(PLUGIN)
    (tmp_path / "wav").mkdir()
    generator = np.random.default_rng(1)
    for number in range(len(HOSTILE)):
        soundfile.write(f"wav/{number}.wav", 0.1 * generator.standard_normal(1600 + 160 * number), 16000)
    write_list(
        tmp_path / "list.csv", [[f"wav/{number}.wav", name] for number, name in enumerate(HOSTILE)], ("path", "id")
    )
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    answer = command("extract", "-u", "Tiny", "--plugin", "tiny.py", "--data", "list.csv", "--out", "out")
    assert answer.code == 0, answer.err
    assert {path for path in tmp_path.rglob("*") if tmp_path / "out" not in (path, *path.parents)} == before
    found = read_corpus("out")
    assert sorted(one.id for one in found.utterances) == sorted(HOSTILE)
    lengths = {one.id: len(read_features(one.path)) for one in found.utterances}
    assert [lengths[name] for name in HOSTILE] == list(range(lengths[HOSTILE[0]], lengths[HOSTILE[0]] + len(HOSTILE)))


@given(st.lists(st.text(st.characters() | st.sampled_from("/.%~ aA\\:\0"), max_size=40), unique=True, max_size=20))
def test_file_names_are_safe_and_apart_on_every_file_system(ids: list[str]) -> None:
    names = file_names(ids)
    folded = [unicodedata.normalize("NFC", name).casefold() for name in names.values()]
    assert len(set(folded)) == len(ids)
    for name in names.values():
        for part in name.split("/"):
            assert 0 < len(part.encode()) <= LONGEST and not part.startswith(".") and "\\" not in part
            assert part.isprintable() and ":" not in part


def test_ordinary_ids_are_mirrored_as_they_are() -> None:
    ids = ["1034-121119-0005", "id10001/1zcIwhmdeo4/00001", "train/speaker=3/a b.c"]
    assert list(file_names(ids).values()) == ids


def test_bad_audio_is_an_error_of_the_data_or_left_out(files: Any, stored: Any) -> None:
    """A header tells of the one, decoding of the other."""
    data = Path("wav/u04.wav").read_bytes()
    Path("wav/u04.wav").write_bytes(b"no sound")
    sound, _ = soundfile.read("wav/u08.wav", dtype="float32")
    sound[100] = np.nan
    soundfile.write("wav/u08.wav", sound, 16000, subtype="FLOAT")
    answer = files("--out", "out")
    assert answer.code == 3 and "u04.wav" in answer.err and "--skip-bad-audio" in answer.err
    answer = files("--out", "out", "--skip-bad-audio")
    assert answer.code == 0 and "u04" in answer.out and "u08" in answer.out
    assert len(read_corpus("out").utterances) == 10
    answer = files("--out", "out", "--skip-bad-audio")
    assert answer.code == 0 and "done       0" in answer.out
    answer, held = stored("store", "--skip-bad-audio")
    assert answer.code == 0 and "u08" in answer.out and held == stored("again", "--skip-bad-audio")[1]
    Path("wav/u04.wav").write_bytes(data)
    answer = files("--out", "other")
    assert answer.code == 3 and "u08.wav" in answer.err and "--skip-bad-audio" in answer.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--shard", "3/3"], 2, "0/8"),
        (["--shard", "x"], 2, "0/8"),
        (["--workers", "0"], 2, "at least 1"),
        (["--format", "npy"], 2, "--out"),
        (["--out", "o", "--cache-budget", "1"], 2, "--cache-budget"),
        (["-l", "9"], 2, "no layer 9"),
        (["-l", "0", "-s", "last_hidden_state"], 2, "one of them"),
        (["-o", "optimizer.lr=1"], 2, "optimizer.lr"),
        (["-o", "store.cache=false"], 2, "store.cache"),
        (["-o", "upstream.trainable=true"], 2, "upstream.trainable"),
        (["-o", "shard.seconds=0"], 2, "shard.seconds"),
        (["--split", "valid"], 3, "train, dev, test"),
        (["--cache-budget", "0"], 1, "--cache-budget"),
        (["--out", "wav"], 2, "other things"),
        (["--out", "corpus.csv"], 2, "is a file"),
        (["--data", "missing.csv"], 2, "missing.csv"),
    ],
)
def test_what_cannot_be_is_refused_in_words(stored: Any, arguments: list[str], code: int, words: str) -> None:
    answer, held = stored("store", *arguments)
    assert answer.code == code and words in answer.err and "Traceback" not in answer.err
    assert not [name for name in held if name.endswith(".safetensors")]


def test_a_folder_of_another_extraction_is_refused(files: Any) -> None:
    assert files("--out", "out").code == 0
    answer = files("--out", "out", "--pooled")
    assert answer.code == 2 and "pooled" in answer.err
    answer = files("--out", "out", "--format", "safetensors")
    assert answer.code == 2 and "format" in answer.err


def test_a_dry_run_plans_and_writes_nothing(stored: Any) -> None:
    answer, held = stored("store", "--dry-run")
    assert answer.code == 0 and "to compute 11 utterances" in answer.out and not held
    answer, _ = stored("store", "--dry-run", "--out", "out")
    assert answer.code == 0 and not Path("out").exists()


def test_ranks_of_torchrun_are_shards(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert files("--out", "ranks").code == 0
    assert files("--out", "ranks", "--shard", "0/2").code == 2
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert files("--out", "alone").code == 0
    assert content(Path("ranks")) == content(Path("alone"))


def test_ray_is_asked_for_by_name(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    answer = files("--engine", "ray")
    assert answer.code == 2 and "headwater[ray]" in answer.err


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'headwater[ray]'"
)
def test_ray_writes_the_same_bytes(stored: Any, files: Any, corpus: Path, tmp_path: Path) -> None:
    """A cluster of this machine; data, plugin and folder are named as they are seen from here."""
    _, alone = stored("alone")
    assert files("--out", "alone_out").code == 0
    (tmp_path / "ray").mkdir()
    surroundings = {
        **os.environ,
        "HEADWATER_STORE": "ray/store",
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
    }

    def cluster(*arguments: str) -> subprocess.CompletedProcess[str]:
        words = ["-u", "Tiny", "--plugin", "tiny.py", "--data", str(corpus), *CUT, "--engine", "ray", "--workers", "2"]
        return subprocess.run(
            [sys.executable, "-m", "headwater", "extract", *words, *arguments],
            env=surroundings,
            capture_output=True,
            text=True,
        )

    done = cluster()
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "ray" / "store") == alone
    done = cluster("--out", "ray/out")
    assert done.returncode == 0, done.stderr
    assert content(Path("ray/out")) == content(Path("alone_out"))
    (tmp_path / "armed").touch()
    surroundings["TINY_ARMED"] = "1"
    done = cluster("--out", "ray/killed")
    assert done.returncode == 1 and "the same command goes on" in done.stderr and "Traceback" not in done.stderr
    Path("wav/u02.wav").write_bytes(Path("wav/u02.wav").read_bytes()[:-1000])
    done = cluster("--out", "ray/killed")
    assert done.returncode == 3 and "u02.wav" in done.stderr and "Traceback" not in done.stderr
    done = cluster("--out", "ray/killed", "--skip-bad-audio")
    assert done.returncode == 0 and len(read_corpus("ray/killed").utterances) == 11
