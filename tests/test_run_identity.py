"""Which commands are the same run: the same bits twice and no training again; another seed, setting, plugin, start or audio is another run."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpora import make_labels, make_trials
from task_runs import QUICK, Command, result_of, short_phones, short_run
from test_contract import PLUGIN


def test_two_runs_of_one_command_give_the_same_bits(command: Command, tiny_corpus: Path) -> None:
    for place in ("one", "two"):
        assert command(*short_phones("mel", tiny_corpus, make_labels(tiny_corpus.parent), "-p", place)).code == 0
    for file in ("model.safetensors", "scores/test.jsonl", "scores/dev.jsonl"):
        assert Path("one", file).read_bytes() == Path("two", file).read_bytes()
    one, two = result_of(Path("one")), result_of(Path("two"))
    assert (one["metrics"], one["history"]) == (two["metrics"], two["history"])


def test_another_seed_gives_other_weights(command: Command, tiny_corpus: Path) -> None:
    for seed in (1, 2):
        assert (
            command(
                *short_run("fbank_no_cmvn", "speaker", "--data", tiny_corpus, "--seed", seed, "-p", f"run{seed}")
            ).code
            == 0
        )
    assert Path("run1/model.safetensors").read_bytes() != Path("run2/model.safetensors").read_bytes()


def test_the_same_command_again_prints_the_result_without_training(command: Command, tiny_corpus: Path) -> None:
    line = short_run("fbank_no_cmvn", "speaker", "--data", tiny_corpus)
    first = command(*line)
    folders = list(Path("result/downstream").iterdir())
    before = {file: file.stat().st_mtime_ns for file in folders[0].rglob("*") if file.is_file()}
    again = command(*line)
    assert "finished" in again.out
    assert [row for row in first.out.splitlines() if row.startswith("test")] == [
        row for row in again.out.splitlines() if row.startswith("test")
    ]
    assert {file: file.stat().st_mtime_ns for file in folders[0].rglob("*") if file.is_file()} == before
    assert len(folders) == 1


def test_settings_of_the_front_end_reach_it_and_name_another_run(command: Command, tiny_corpus: Path) -> None:
    line = short_run("fbank", "speaker", "--data", tiny_corpus)
    assert command(*line).code == 0
    assert command(*line, "-o", "upstream.config.cmvn.use_cmvn=false").code == 0
    one, two = sorted(Path("result/downstream").iterdir())
    assert (one / "model.safetensors").read_bytes() != (two / "model.safetensors").read_bytes()


def test_another_source_of_a_plugin_is_another_run(
    command: Command, tiny_corpus: Path, tmp_path: Path, fresh_registry: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights may be the same: a changed forward must never answer with the old result."""
    plugin = tmp_path / "my_model.py"
    line = ("run", "--plugin", plugin, "-u", "MyModel", "-d", "speaker", "--data", tiny_corpus, *QUICK)
    for source in (PLUGIN, PLUGIN.replace("self.net(x)[0]", "self.net(-x)[0]")):
        plugin.write_text(source)
        for name in [name for name in sys.modules if name.startswith("headwater_plugin")]:
            monkeypatch.delitem(sys.modules, name)
        answer = command(*line)
        assert answer.code == 0, answer.err
        assert "finished" not in answer.out
    assert len(list(Path("result/downstream").iterdir())) == 2


def test_a_run_that_starts_from_other_weights_is_another_run(command: Command, tiny_corpus: Path) -> None:
    line = short_run("fbank_no_cmvn", "speaker", "--data", tiny_corpus)
    assert command(*line).code == 0
    first = next(Path("result/downstream").iterdir())
    assert command(*line, "-i", first).code == 0
    one, two = sorted(Path("result/downstream").iterdir(), key=lambda folder: folder != first)
    assert (one / "model.safetensors").read_bytes() != (two / "model.safetensors").read_bytes()


def test_another_version_of_the_audio_is_another_run_and_another_place_is_not(
    command: Command, tiny_corpus: Path, tmp_path: Path
) -> None:
    """Noise added to a corpus changes no name, label or length: the numbers of the clean one would be printed for it."""
    line = ("run", "-u", "fbank_no_cmvn", "-d", "speaker", *QUICK, "--data")
    moved, noisy = tmp_path / "moved", tmp_path / "noisy"
    for copy in (moved, noisy):
        shutil.copytree(tiny_corpus.parent, copy)
    for file in noisy.rglob("*.wav"):
        samples, rate = soundfile.read(file)
        soundfile.write(file, samples + 1e-2 * np.random.default_rng(0).standard_normal(len(samples)), rate)
    assert "finished" not in command(*line, tiny_corpus).out
    assert "finished" in command(*line, moved / tiny_corpus.name).out
    assert "finished" not in command(*line, noisy / tiny_corpus.name).out


def test_moved_trials_are_the_same_run(command: Command, tiny_corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "trials.txt").write_bytes(make_trials(tiny_corpus.parent).read_bytes())
    moved = tmp_path / "moved"
    shutil.copytree(tiny_corpus.parent, moved)
    line = ("run", "-u", "fbank_no_cmvn", "-d", "speaker_verification", "-o", "data.trials=trials.txt", "--data")
    assert "finished" not in command(*line, tiny_corpus).out
    assert "finished" in command(*line, moved / tiny_corpus.name).out
