"""What ends training before its last step: numbers that diverge, memory that runs out, data that cannot be used, and signals."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from corpora import make_corpus
from loops import prepared, same, trainer_of
from torch import Tensor

from headwater.cli.run import main as run_downstream
from headwater.cli.shell import guarded
from headwater.errors import DataError, HeadwaterError
from headwater.train.checkpoint import Checkpoint
from headwater.train.feed import Ready
from headwater.train.loop import Trainer, stop_signals
from headwater.train.outcome import score
from headwater.train.task import Batch


def test_steps_that_loss_scaling_leaves_out_are_counted_and_no_end_of_them_is_an_error(
    tone_corpus: Path, tmp_path: Path
) -> None:
    def blow(trainer: Trainer, steps: int) -> None:
        step = trainer._step

        def blown(window: list[tuple[Ready, float]]) -> None:
            for ready, _ in window:
                assert ready.states is not None
                if trainer.standing.step < steps:
                    object.__setattr__(ready, "states", tuple(state * torch.inf for state in ready.states))
            step(window)
            trainer.running.nan_to_num_(0.0)

        trainer._step = blown  # type: ignore[method-assign]

    trainer = trainer_of(prepared(tone_corpus, "runner.precision=fp16"), tmp_path / "some")
    before = {name: value.clone() for name, value in trainer.work.module.state_dict().items()}
    blow(trainer, 5)
    standing = trainer.fit()
    assert [row["skipped"] for row in standing.history if "loss" in row] == [3, 5, 5, 5]
    assert not same(before, dict(trainer.work.module.state_dict()))
    endless = trainer_of(prepared(tone_corpus, "runner.precision=fp16,,runner.total_steps=40"), tmp_path / "endless")
    blow(endless, 40)
    with pytest.raises(HeadwaterError, match="training diverged: the gradient was NaN or infinite in all steps up to"):
        endless.fit()


def test_a_gradient_that_is_no_number_ends_the_run_at_its_step(tone_corpus: Path, tmp_path: Path) -> None:
    parts = prepared(tone_corpus)
    trainer = trainer_of(parts, tmp_path)
    weight = next(parts.probe.head.parameters())
    weight.register_hook(lambda gradient: gradient * (torch.nan if trainer.standing.step == 6 else 1.0))
    with pytest.raises(HeadwaterError, match=r"training diverged: the gradient was NaN or infinite at step 7;.*lr"):
        trainer.fit()
    last = Checkpoint(tmp_path).load()
    assert last is not None and all(value.isfinite().all() for value in last["module"].values())


def test_a_learning_rate_beyond_reason_is_an_error_and_no_result(
    tone_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    code = guarded(run_downstream, [
        "-u", "fbank_no_cmvn", "-d", "phone_1hidden", "--data", str(tone_corpus), "-p", str(folder),
        "-o", f"data.labels={tone_corpus.parent / 'phones.txt'},,optimizer.name=SGD,,optimizer.lr=1e30,,runner.total_steps=20",
    ])  # fmt: skip
    assert code == 1 and not (folder / "result.json").exists()
    error = capsys.readouterr().err
    assert "training diverged" in error and "step" in error and "optimizer.lr (now 1e+30)" in error


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_running_out_of_memory_says_at_which_step_and_what_to_lower(
    error: RuntimeError, tone_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = prepared(tone_corpus)
    loss, calls = parts.task.loss, []

    def greedy(output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        calls.append(1)
        if len(calls) == 3:
            raise error
        return loss(output, batch)

    monkeypatch.setattr(parts.task, "loss", greedy)
    with pytest.raises(HeadwaterError, match=r"out of memory: at step 3; lower batch\.seconds"):
        trainer_of(parts, tmp_path).fit()
    parts.probe.head.register_forward_hook(lambda *arguments: (_ for _ in ()).throw(error))
    with pytest.raises(HeadwaterError, match="out of memory: while scoring dev; lower"):
        score(parts, ["dev"])


def test_other_errors_keep_their_name(tone_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = prepared(tone_corpus)
    monkeypatch.setattr(parts.task, "loss", lambda output, batch: output @ torch.zeros(1, 1, 1, 1, 99))
    with pytest.raises(RuntimeError, match="size"):
        trainer_of(parts, tmp_path).fit()


def test_an_empty_training_split_is_an_error_and_no_endless_loop(tone_corpus: Path, tmp_path: Path) -> None:
    parts = prepared(tone_corpus)
    for change in ({"train": []}, {}):
        parts.items = {**{name: parts.items[name] for name in ("dev", "test")}, **change}
        with pytest.raises(DataError, match="no utterances to train on"):
            trainer_of(parts, tmp_path)


@pytest.mark.parametrize("way", ["kept", "anew", "fine-tuned"])
def test_audio_found_broken_while_decoding_is_named_and_no_run_is_left(
    way: str, tmp_path: Path, loop_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = make_corpus(tmp_path / "c", speakers=2, utterances=5, seconds=0.2)
    wav = np.zeros(3200, dtype=np.float32)
    wav[1000] = np.nan
    soundfile.write(tmp_path / "c" / "wav" / "spk01" / "spk01-02.wav", wav, 16000, subtype="FLOAT")
    extra = {"kept": [], "anew": ["--no-cache", "-o", "store.memory_gib=0"], "fine-tuned": ["-f"]}[way]
    folder = tmp_path / "run"
    arguments = ["-u", loop_model, "-d", "speaker_frame", "--data", str(listed), "-p", str(folder), *extra]
    assert guarded(run_downstream, arguments) == 3
    assert "spk01-02.wav has samples that are NaN or infinite" in capsys.readouterr().err
    assert not (folder / "result.json").exists()
    assert way != "kept" or not folder.exists(), "nothing was trained yet, so nothing is left"


def test_a_stop_signal_is_kept_for_the_end_of_a_step_and_a_second_ctrl_c_stops_at_once() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with stop_signals() as stop:
        assert not stop.is_set()
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        signal.raise_signal(signal.SIGTERM)  # as torchrun does after a Ctrl-C
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with stop_signals() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
    assert before == {number: signal.getsignal(number) for number in before}


def test_training_in_a_thread_leaves_signals_alone() -> None:
    seen: list[object] = []

    def work() -> None:
        with stop_signals() as stop:
            seen.append((stop.is_set(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, signal.getsignal(signal.SIGINT))]
