"""Runs on the feature store: the same bits with it, without it and resumed; never stale; and what users see of it."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import soundfile
import torch
from conftest import ROOT, Answer, program
from corpora import make_corpus, make_labels
from grids import grid_config, prepared

import headwater
from headwater.audio.io import read
from headwater.store import Store, bank_of, keys
from headwater.store.compute import Extractor, mean_over_time
from headwater.train import parts
from headwater.train.kept import contents_of
from headwater.train.loop import Trainer
from headwater.weights import read_safetensors, to_bytes

Command = Callable[..., Answer]
STEPS = "runner.total_steps=8,,runner.eval_step=4,,runner.save_step=3,,batch.size=4"


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of each test's own."""
    monkeypatch.setenv("HEADWATER_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """bench/store.py."""
    return program("store")


def result(folder: str | Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))
    return content


def answer(folder: str) -> dict[str, Any]:
    """What a run found, to the last bit."""
    files = [*sorted(Path(folder, "scores").iterdir()), Path(folder, "model.safetensors")]
    found = {key: result(folder)[key] for key in ("metrics", "history", "best_step", "upstream")}
    return {**found, **{file.name: file.read_bytes() for file in files}}


def counts(folder: str) -> tuple[int, int]:
    features = result(folder)["features"]
    return features["cached"], features["computed"]


@pytest.mark.parametrize("task", ["speaker", "phone"])
def test_with_the_store_without_it_and_resumed_a_run_is_the_same_to_the_last_bit(
    command: Command, task: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("run", "-u", "tera", "-d", task, "--limit", 10, "-o", STEPS)
    assert command(*arguments, "-p", "without", "--no-cache").code == 0
    assert not store.exists() or not list(store.rglob("*.safetensors")), "--no-cache keeps nothing"
    first = command(*arguments, "-p", "first")
    assert first.code == 0 and f"{store} (at most" in first.out
    assert counts("first") == (0, 30)
    again = command(*arguments, "-p", "again")
    assert "30 of 30 utterances are there already; nothing to compute" in again.out and counts("again") == (30, 0)
    step = Trainer._step

    def dies(trainer: Any, *window: Any) -> Any:
        if trainer.standing.step == 5:
            raise KeyboardInterrupt
        return step(trainer, *window)

    monkeypatch.setattr(Trainer, "_step", dies)
    assert command(*arguments, "-p", "resumed").code == 1
    monkeypatch.setattr(Trainer, "_step", step)
    # And a part of what was kept is gone.
    next(store.rglob("*.safetensors")).unlink()
    assert command(*arguments, "-p", "resumed").code == 0
    # Nothing fits anywhere.
    assert command(*arguments, "-p", "nowhere", "--cache-budget", 0, "-o", "store.memory_gib=0").code == 0
    expected = answer("without")
    for name in ("first", "again", "resumed", "nowhere"):
        assert answer(name) == expected, name


def test_runs_share_features_across_tasks_seeds_and_heads(command: Command) -> None:
    data = ("--limit", 8, "-o", STEPS)
    assert command("run", "-u", "fbank", "-d", "phone", *data).code == 0
    frames = command("run", "-u", "fbank", "-d", "speaker_frame", *data, "-p", "frames", "--seed", 3)
    assert frames.code == 0 and counts("frames") == (24, 0)
    means = command("run", "-u", "fbank", "-d", "speaker", *data, "-p", "means")
    assert means.code == 0 and result("means")["features"]["form"] == "mean" and counts("means") == (24, 0)


def test_float16_is_said_in_the_result_and_is_another_run(command: Command, tmp_path: Path) -> None:
    arguments = ("run", "-u", "tera", "-d", "phone", "--limit", 6, "-o", STEPS)
    assert command(*arguments, "-p", "full").code == 0
    assert command(*arguments, "-p", "half", "--cache-dtype", "float16").code == 0
    assert command(*arguments, "-p", "anew", "--cache-dtype", "float16", "--no-cache").code == 0
    full, half = result("full"), result("half")
    assert full["features"]["error"] is None and 2 * half["features"]["bytes"] == full["features"]["bytes"]
    assert list(half["features"]["error"]) == half["upstream"]["layer_names"]
    assert all(0 < error < 1e-3 for error in half["features"]["error"].values())
    assert any("kept in float16: relative RMS error up to" in note for note in half["notes"])
    assert answer("half") == answer("anew")
    identities = [json.loads(Path(name, "identity.json").read_text()) for name in ("full", "half")]
    assert identities[0]["store.dtype"] != identities[1]["store.dtype"] and "store.cache" not in identities[0]
    assert command("run", "-m", "evaluate", "-e", "half", "--cache-dtype", "float32").code == 2
    said = command("run", "-m", "evaluate", "-e", "half", "--no-cache")
    assert said.code == 0, said


# never stale


def test_a_weight_file_changed_under_the_same_name_is_computed_anew(command: Command, tmp_path: Path) -> None:
    model = headwater.load("tera.demo")
    weights = tmp_path / "mine.safetensors"
    about = {"upstream": "tera", **model.facts()}
    weights.write_bytes(to_bytes(model.state_dict(), about))
    arguments = ("run", "-u", f"ckpt:{weights}", "-d", "speaker", "--limit", 6, "-o", STEPS)
    assert command(*arguments, "-p", "one").code == 0
    assert command(*arguments, "-p", "two").code == 0 and counts("two") == (18, 0)
    state = dict(model.state_dict())
    name = next(name for name, value in state.items() if value.is_floating_point() and value.dim() == 2)
    state[name] = state[name] + 1e-3
    status = weights.stat()
    weights.write_bytes(to_bytes(state, about))
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert command(*arguments, "-p", "three").code == 0 and counts("three") == (0, 18)
    assert answer("one") == answer("two") != answer("three")


PLUGIN = """
import torch

from .helper import FACTOR


class Scaled(torch.nn.Module):
    frontend = "fbank"
    out_dim = 240

    def forward(self, x):
        return x * FACTOR
"""


def test_a_plugin_whose_source_changed_is_computed_anew(command: Command, tmp_path: Path) -> None:
    from headwater.registry import registries

    folder = tmp_path / "plugin"
    folder.mkdir()
    (folder / "expert.py").write_text(PLUGIN)
    (folder / "cards.yaml").write_text("scaled: {expert: Scaled, summary: of this test}\n")

    def run(factor: int, name: str) -> tuple[int, int]:
        (folder / "helper.py").write_text(f"FACTOR = {factor}\n")
        for module in [module for module in sys.modules if module.startswith("headwater_plugin_")]:
            del sys.modules[module]
        arguments = ("run", "-u", "scaled", "--plugin", folder, "-d", "speaker", "--limit", 5, "-o", STEPS, "-p", name)
        said = command(*arguments)
        registries["upstream"].cards.pop("scaled", None)
        assert said.code == 0, said
        return counts(name)

    assert run(2, "one") == (0, 15) and run(2, "two") == (15, 0) and run(3, "three") == (0, 15)


def test_settings_weights_layers_time_and_types_are_part_of_a_bank() -> None:
    def bank(name: str = "fbank", settings: dict[str, Any] | None = None, **types: str) -> str:
        said = {"extract_dtype": "float32", "dtype": "float32", "device_type": "cpu", **types}
        found = bank_of(headwater.load(name, config=settings), settings or {}, None, **said)
        assert found is not None
        return found.fingerprint

    assert bank() == bank()
    others = [
        bank("fbank_no_cmvn"),
        bank("tera.demo"),
        bank("tera", {"random_weights": 1}),
        bank("tera", {"random_weights": 2}),
        bank(dtype="float16"),
        bank(extract_dtype="bfloat16"),
        bank(device_type="cuda"),
    ]
    assert len({bank(), *others}) == 1 + len(others)


def test_the_sources_of_means_and_of_reading_are_part_of_a_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    named: set[str] = set()

    def note(modules: set[str]) -> str:
        named.update(modules)
        return "0"

    monkeypatch.setattr(keys, "sources_sha256", note)
    said = {"extract_dtype": "float32", "dtype": "float32", "device_type": "cpu"}
    assert bank_of(headwater.load("fbank"), {}, None, **said) is not None
    assert {function.__module__ for function in (Extractor, mean_over_time, read)} <= named


def test_a_changed_source_is_another_bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be it only what a class of the user's imports."""
    monkeypatch.syspath_prepend(tmp_path)
    model, helper = tmp_path / "a_users_model.py", tmp_path / "a_users_helper.py"
    model.write_text("import torch\nfrom a_users_helper import FACTOR\nclass Mine(torch.nn.Module): ...\n")
    helper.write_text("FACTOR = 2\n")
    upstream = headwater.load("fbank")
    upstream.add_module("mine", importlib.import_module("a_users_model").Mine())

    def bank() -> str:
        found = bank_of(upstream, {}, None, extract_dtype="float32", dtype="float32", device_type="cpu")
        assert found is not None
        return found.fingerprint

    before = bank()
    assert bank() == before
    helper.write_text("FACTOR = 3\n")
    assert bank() != before


def test_a_run_looks_at_its_audio_once_and_at_its_weights_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []

    def noted(*arguments: Any) -> dict[str, bytes]:
        looked.append(arguments)
        return contents_of(*arguments)

    monkeypatch.setattr(parts, "contents_of", noted)
    make_labels(tmp_path, speakers=2)
    run = prepared(grid_config(make_corpus(tmp_path, speakers=2), "store.cache=true", grid={}))
    (bank, content), run.weights_sha256 = run.keys(), "of bundled weights"
    other, again = run.keys()
    assert len(looked) == 1 and content == again
    assert bank is not None and other is not None and bank.fingerprint != other.fingerprint


def test_what_has_no_source_is_kept_in_memory_only(command: Command, store: Path) -> None:
    scope: dict[str, Any] = {"__name__": "a_cell"}
    exec("import torch\nclass Cell(torch.nn.Module):\n    pass", scope)
    upstream = headwater.load("fbank")
    upstream.add_module("cell", scope["Cell"]())
    assert bank_of(upstream, {}, None, extract_dtype="float32", dtype="float32", device_type="cpu") is None


def test_an_edit_in_the_middle_of_a_file_is_computed_anew_and_nothing_else_is(command: Command, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "c", speakers=2, utterances=5, seconds=0.6)
    arguments = ("run", "-u", "fbank", "-d", "speaker", "--data", corpus, "-o", STEPS)
    assert command(*arguments, "-p", "one").code == 0
    file = tmp_path / "c" / "wav" / "spk01" / "spk01-01.wav"
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 16
    status = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert command(*arguments, "-p", "two").code == 0 and counts("two") == (9, 1)
    # The same audio elsewhere, under other names, is known.
    moved = tmp_path / "moved"
    (tmp_path / "c").rename(moved)
    again = ("run", "-u", "fbank", "-d", "speaker", "--data", moved / "corpus.csv", "-o", STEPS, "-p", "three")
    assert command(*again).code == 0 and counts("three") == (10, 0)


def test_a_part_and_a_channel_of_a_file_are_features_of_their_own(command: Command, tmp_path: Path) -> None:
    wav = 0.1 * torch.randn(32000, 2, generator=torch.Generator().manual_seed(0))
    soundfile.write(tmp_path / "a.wav", wav.numpy(), 16000)
    rows = ["id,path,start,end,speaker,split"]
    for number, split in enumerate(["train", "train", "dev", "dev", "test", "test"]):
        rows.append(f"u{number},a.wav,{0.3 * number},{0.3 * number + 0.3},s{number % 2},{split}")
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    arguments = ("run", "-u", "fbank", "-d", "speaker", "--data", tmp_path / "list.csv")
    for name, channel in (("zero", 0), ("one", 1), ("mean", "mean")):
        said = command(*arguments, "-o", f"{STEPS},,data.channel={channel}", "-p", name)
        assert said.code == 0 and counts(name) == (0, 6), said


# processes


def test_two_ranks_fill_the_store_as_one_does_and_find_the_same(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "c", speakers=3, utterances=5, seconds=0.3)
    labels = make_labels(tmp_path / "c", speakers=3, utterances=5, seconds=0.3)
    script = [str(ROOT / "run_downstream.py"), "-u", "fbank", "-d", "phone", "--data", str(corpus)]
    script += ["-o", f"data.labels={labels},,runner.total_steps=6,,runner.eval_step=3,,optimizer.name=SGD"]
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, launcher in (("one", []), ("two", two)):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment["HEADWATER_STORE"] = str(tmp_path / name / "store")
        command = [sys.executable, *launcher, *script, "-p", str(tmp_path / name / "run")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    one, other = (
        {file.name: file.read_bytes() for file in (tmp_path / name).rglob("store/*/*.safetensors")}
        for name in ("one", "two")
    )
    assert one and one == other
    runs = [result(tmp_path / name / "run") for name in ("one", "two")]
    assert runs[0]["metrics"] == runs[1]["metrics"]
    losses = [[entry["loss"] for entry in run["history"] if "loss" in entry] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    weights = [read_safetensors(tmp_path / name / "run" / "model.safetensors") for name in ("one", "two")]
    assert all((weights[0][key] - weights[1][key]).abs().max() < 1e-5 for key in weights[0])


def test_writers_killed_at_any_moment_leave_only_whole_shards(bench: ModuleType, tmp_path: Path) -> None:
    outcome = bench.torment(tmp_path, kills=3, seed=5)
    assert sum(outcome.kills.values()) == 3 and outcome.faults == []


def test_two_processes_that_write_the_same_features_leave_them_whole(bench: ModuleType, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, str(ROOT / "bench" / "store.py"), "--child", str(tmp_path / "both"), "null"]
    both = [subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    for process in both:
        process.stdout.close()  # type: ignore[union-attr]
    assert bench.start(tmp_path / "alone").returncode == 0
    assert bench.files(tmp_path / "both") == bench.files(tmp_path / "alone")
    checked, damaged = Store(tmp_path / "both").verify()
    assert checked > 3 and damaged == 0


# the commands


def test_cache_lists_verifies_and_prunes(command: Command, store: Path) -> None:
    assert command("cache", "ls").out.startswith("0 MiB in")
    for upstream in ("fbank", "mel"):
        for task in ("phone", "speaker_frame" if upstream == "fbank" else "speaker"):
            assert (
                command("run", "-u", upstream, "-d", task, "--limit", 4, "-o", STEPS, "-p", f"{upstream}-{task}").code
                == 0
            )
    listed = command("cache", "ls").out.splitlines()
    assert len(listed) == 3 and {line.split()[1] for line in listed[:2]} == {"fbank", "mel"}
    assert all("of frames; last used" in line for line in listed[:2])
    assert command("cache", "verify").out == "2 shard(s) checked, 0 damaged\n"
    victim = sorted(store.rglob("*.safetensors"))[0]
    victim.write_bytes(victim.read_bytes()[:-1])
    said = command("cache", "verify")
    assert said.code == 1 and str(victim) in said.out and "2 shard(s) checked, 1 damaged" in said.out
    assert not victim.exists()
    assert command("cache", "prune", "--days", 1).out == "removed 0 shard(s), 0 MiB\n"
    assert command("cache", "prune", "--budget", 1).out.startswith("removed 0 shard(s)")
    left = next(store.rglob("*.safetensors")).parent.name
    assert "names 0 banks" in command("cache", "prune", "zzz").err
    assert "say what goes" in command("cache", "prune").err
    assert command("cache", "prune", left[:12]).out.startswith("removed 1 shard(s)")
    assert not [folder for folder in store.iterdir() if folder.name != "digests"]


@pytest.mark.parametrize("limit", [("--days", -1), ("--budget", -1), ("--days", "nan"), ("--budget", "nan")])
def test_pruning_to_less_than_nothing_is_refused_and_removes_nothing(
    command: Command, store: Path, limit: tuple[str, object]
) -> None:
    assert command("run", "-u", "fbank", "-d", "speaker", "--limit", 2, "-o", STEPS, "-p", "run").code == 0
    before = sorted(store.rglob("*.safetensors"))
    said = command("cache", "prune", *limit)
    assert said.code == 2 and f"{limit[0]} {limit[1]}: 0 or more" in said.err, said
    assert before and sorted(store.rglob("*.safetensors")) == before


def test_a_dry_run_says_what_it_would_cost_and_keeps_nothing(command: Command, store: Path) -> None:
    arguments = ("run", "-u", "fbank", "-d", "phone", "--limit", 5, "--dry-run")
    said = command(*arguments)
    assert (
        said.code == 0
        and "one pass over" in said.out
        and "kept on disk" in said.out
        and f"{store} (at most" in said.out
    )
    assert not list(store.rglob("*.safetensors"))
    assert "kept in memory" in command(*arguments, "--no-cache").out
    tight = command(*arguments, "--cache-budget", 0.00001, "-o", "store.memory_gib=0").out
    assert "what does not fit, about" in tight and "computed anew in each epoch" in tight


def test_a_negative_budget_is_refused_by_name(command: Command) -> None:
    said = command("run", "-u", "fbank", "-d", "phone", "--cache-budget", -1)
    assert said.code == 2 and "store.budget_gib" in said.err


def test_a_corpus_on_a_read_only_store_is_evaluated_all_the_same(command: Command, store: Path) -> None:
    # A file where the folder should be: nothing can be made below it.
    store.write_text("not a folder")
    said = command("run", "-u", "fbank", "-d", "speaker", "--limit", 5, "-o", STEPS, "-p", "run")
    assert said.code == 0 and "not kept on disk" in said.out and counts("run") == (0, 15)
