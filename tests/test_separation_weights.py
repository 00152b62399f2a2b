"""`task.weights`: a Conv-TasNet of another project is scored as it stands, trained further, and separates files, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT, Answer
from mixture_corpora import RATE, make_list, voice
from safetensors.torch import load_file, save_file
from separation_tasks import AT_8K, TINY
from signals import result

from headwater.results.files import read_rows
from headwater.separation.foreign import load_foreign
from headwater.separation.rescale import least_squares

Command = Callable[..., Answer]
DATA = ROOT / "tests/data/separation"
CONFIGS: dict[str, Any] = {
    name: case["config"] for name, case in json.loads((DATA / "cases.json").read_text())["convtasnet"].items()
}
STEPS = "runner.total_steps=2,,runner.eval_step=2,,runner.save_step=1,,batch.size=2,,task.quality=false"


def weights(case: str, folder: Path, seed: int = 0) -> Path:
    """A file of another project's, with or without its settings."""
    state = {
        name.removeprefix(f"{case}/"): value
        for name, value in load_file(DATA / "convtasnet.safetensors").items()
        if name.startswith(f"{case}/")
    }
    if seed:
        name = next(name for name, value in state.items() if value.ndim == 3)
        state[name] = state[name] * (1 + seed)
    save_file(state, folder / "theirs.safetensors")
    return folder / "theirs.safetensors"


def settings_of(case: str) -> list[str]:
    return [f"task.weights_settings.{key}={json.dumps(value)}" for key, value in CONFIGS[case].items()]


@pytest.fixture()
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    monkeypatch.setenv("HEADWATER_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("headwater.train.runner.illustrate", lambda *given, **named: None)
    data = make_list(tmp_path / "mixtures")

    def make(folder: str, file: Path, case: str, *settings: str) -> list[str]:
        line = ["run", "-u", "waveform", "-d", "separation_convtasnet", "--data", str(data), "-p", folder]
        return [*line, "-o", ",,".join([STEPS, AT_8K, TINY, f"task.weights={file}", *settings_of(case), *settings])]

    return make


def test_a_foreign_file_is_scored_as_it_stands_and_separates_without_it(
    command: Command, words: Callable[..., list[str]], tmp_path: Path
) -> None:
    case = "kx_gln_causal_contradiction"
    file = weights(case, tmp_path)
    said = command(*words("run", file, case))
    assert said.code == 0, said.err
    found = result("run")
    assert found["steps"] == 0 and len(read_rows(Path("run/scores/test.jsonl"))) == 3
    notes = " ".join(found["notes"])
    assert f"Conv-TasNet of kaituoxu with the weights of {file} (sha256 " in notes
    assert "It is said to be causal and is not: it has norm gLN" in notes
    net = load_foreign(file, CONFIGS[case], padding="cut").model
    file.unlink()
    mixed = sum(voice(speaker, 1, 3001) for speaker in (0, 3))
    soundfile.write("m.wav", mixed, RATE, "FLOAT")
    said = command("run", "-m", "predict", "-e", "run", "m.wav", "--out", "answers")
    assert said.code == 0, said.err
    wav = torch.from_numpy(soundfile.read("m.wav", dtype="float32")[0])
    with torch.no_grad():
        expected = least_squares(net(wav[None])[0], wav)
    for number, one in enumerate(expected, start=1):
        made = soundfile.read(f"answers/m-source{number}.wav")[0]
        np.testing.assert_allclose(made, one, atol=1.1 / 32768)
    assert command("run", "-m", "evaluate", "-e", "run").code == 0
    stream = command("run", "-m", "predict", "-e", "run", "--stream", "--out", "late")
    assert stream.code == 2 and "cannot separate a stream, it is not causal: norm gLN" in stream.err


def test_another_file_of_the_same_name_is_another_run(
    command: Command, words: Callable[..., list[str]], tmp_path: Path
) -> None:
    case = "kx_bn_eval_relu"
    line = words("run", weights(case, tmp_path), case)
    assert command(*line).code == 0
    assert "holds this run already" in command(*line).out
    weights(case, tmp_path, seed=1)
    said = command(*line)
    assert said.code == 2 and "data.sha256" in said.err


def test_a_foreign_file_is_trained_further(command: Command, words: Callable[..., list[str]], tmp_path: Path) -> None:
    case = "kx_gln_relu_tail"
    file = weights(case, tmp_path)
    said = command(*words("run", file, case, "task.fine_tune=true", "task.segment_seconds=0.3"))
    assert said.code == 0, said.err
    assert result("run")["steps"] == 2
    start = load_foreign(file, CONFIGS[case], padding="cut").model.state_dict()
    end = load_file("run/model.safetensors")
    moved = {name: float((end[f"head.net.{name}"] - value).abs().max()) for name, value in start.items()}
    assert 0 < max(moved.values()) < 0.01
    file.unlink()
    soundfile.write("m.wav", voice(0, 1, 3001), RATE)
    assert command("run", "-m", "predict", "-e", "run", "m.wav", "--out", "answers").code == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["task.weights=nowhere.pt"], "nowhere.pt: cannot be read"),
        (["task.weights=null"], "name it with weights"),
        (["task.weights_settings.C=3"], "was given as 3; its tensors say 2"),
        (["task.weights_settings.colour=red"], "'colour' is no setting of kaituoxu"),
        (["task.system=one_and_rest"], "weights is for the system convtasnet"),
    ],
)
def test_wrong_use_of_a_file_is_said(
    settings: list[str], said: str, command: Command, words: Callable[..., list[str]], tmp_path: Path
) -> None:
    case = "kx_bn_eval_relu"
    found = command(*words("run", weights(case, tmp_path), case, *settings))
    assert found.code in (2, 3) and said in found.err, found.err
    assert not Path("run").exists()


def test_a_file_of_another_sample_rate_is_refused(
    command: Command, words: Callable[..., list[str]], tmp_path: Path
) -> None:
    case = "as_cgln_causal_skip_relu"
    found = command(*words("run", weights(case, tmp_path), case, "task.weights_settings.sample_rate=16000"))
    assert found.code == 2 and "is of sound at 16000 Hz, and task.rate is 8000" in found.err


def test_a_file_that_gives_one_source_separates_nothing(
    command: Command, words: Callable[..., list[str]], tmp_path: Path
) -> None:
    case = "as_cgln_causal_skip_relu"
    file = weights(case, tmp_path)
    state = load_file(file)
    masks = {name: value[: len(value) // 2] for name, value in state.items() if name.startswith("masker.mask_net.1")}
    save_file({**state, **masks}, file)
    found = command(*words("run", file, case, "task.weights_settings.n_src=1"))
    assert found.code == 2 and "gives one source, and of one speaker nothing can be separated" in found.err, found.err
