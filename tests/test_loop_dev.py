"""Evaluation on dev while a run trains: when, on which frames, what it may touch, which weights it chooses, and the history that it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from loops import prepared, same, train, trained
from torch import nn

from headwater.nn.lengths import frame_index
from headwater.train import classification, probing
from headwater.train.checkpoint import Checkpoint
from headwater.train.distributed import World
from headwater.train.outcome import score
from headwater.train.task import Item


def test_dev_can_be_scored_by_epochs_however_many_steps_they_have(tone_corpus: Path, tmp_path: Path) -> None:
    standing, _ = trained(tone_corpus, tmp_path, "runner.epochs=5,,runner.eval_epochs=2,,runner.save_step=1000")
    # 18 utterances are five steps an epoch; the last step is scored in any case.
    assert [row["step"] for row in standing.history if "dev" in row] == [10, 20, 25]


def test_evaluation_leaves_the_random_state_of_training_alone(tone_corpus: Path, tmp_path: Path) -> None:
    ends = []
    for number, often in enumerate((2, 5)):
        parts = prepared(tone_corpus, f"runner.total_steps=10,,runner.eval_step={often}")
        # A head that draws random numbers whenever it is asked, in evaluation too.
        parts.probe.head.register_forward_hook(lambda module, inputs, output: output + 0 * torch.rand(1))
        train(parts, tmp_path / str(number))
        state = Checkpoint(tmp_path / str(number) / "checkpoint").load()
        assert state is not None
        ends.append(state)
    assert same(ends[0]["module"], ends[1]["module"])
    assert torch.equal(ends[0]["ranks"][0]["rng"]["cpu"], ends[1]["ranks"][0]["rng"]["cpu"])
    losses = [[row for row in end["standing"]["history"] if "loss" in row] for end in ends]
    assert losses[0] == losses[1]


def test_specaugment_never_touches_evaluation(tone_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, augmented = (prepared(tone_corpus, *extra) for extra in (["specaug=null"], []))
    rows = [score(parts, ["dev"])["dev"].rows() for parts in (plain, augmented)]
    assert rows[0] == rows[1]
    modes = []
    monkeypatch.setattr("headwater.train.probe.spec_augment", lambda x, lengths, **widths: modes.append(1) or x)
    score(augmented, ["dev", "test"])
    assert modes == []
    augmented.probe.train()
    ready = next(iter(augmented.feed([augmented.items["train"][:2]])))
    augmented.probe(ready.states, ready.lengths, {})
    assert modes == [1]


def test_a_tie_on_dev_goes_to_the_later_step_and_patience_counts_what_is_not_better(
    tone_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([50.0, 60.0, 60.0, 55.0, 99.0])

    class Fixed:
        def first(self) -> float:
            return next(values)

    monkeypatch.setattr(probing, "evaluate", lambda *arguments: Fixed())
    standing, _ = trained(tone_corpus, tmp_path, "runner.total_steps=20,,runner.patience=2")
    assert (standing.step, standing.best_step, standing.best, standing.done) == (16, 12, 60.0, True)


def test_without_dev_the_last_step_is_chosen(tone_corpus: Path, tmp_path: Path) -> None:
    parts = prepared(tone_corpus)
    parts.items["dev"] = []
    standing = train(parts, tmp_path)
    assert standing.best_step == standing.step == 12 and standing.best is None
    last = Checkpoint(tmp_path / "checkpoint").load()
    assert last is not None and same(dict(parts.probe.state_dict()), last["module"])


def test_the_best_weights_of_dev_are_left_in_the_probe(
    tone_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, held = iter([10.0, 90.0, 20.0]), []

    class Fixed:
        def first(self) -> float:
            return next(values)

    def fixed(probe: nn.Module, *arguments: object) -> Fixed:
        held.append({name: value.clone() for name, value in probe.state_dict().items()})
        return Fixed()

    shared: list[int] = []
    monkeypatch.setattr(World, "share", lambda world, module: shared.append(len(held)))
    monkeypatch.setattr(probing, "evaluate", fixed)
    parts = prepared(tone_corpus)
    standing = train(parts, tmp_path)
    assert shared == [0, 1, 2]  # every process scores what the first one has, each time
    assert standing.best_step == 8 and same(dict(parts.probe.state_dict()), held[1]) and not same(held[1], held[2])
    assert [file.name for file in (tmp_path / "checkpoint").iterdir() if file.suffix != ".pt"] == ["best-8.safetensors"]


def test_labels_are_paired_with_frames_in_time_and_each_once(tone_corpus: Path) -> None:
    for upstream in ("fbank_no_cmvn", "mel", "stft_mag"):
        parts = prepared(tone_corpus, upstream=upstream)
        ready = next(iter(parts.feed([parts.items["train"][:5]])))
        assert ready.states is not None
        output = torch.arange(ready.states[0].shape[1])[None, :, None].expand(5, -1, 1)
        frames, labels, rows = classification.targets(output, ready.batch)
        items: list[Item] = list(ready.batch.items)
        assert len(labels) == sum(len(item.labels["classes"]) for item in items)
        for row, item in enumerate(items):
            centres = torch.as_tensor(np.asarray(item.labels["centres"]))[None]
            index = frame_index(centres, ready.lengths[row : row + 1], parts.upstream.stride, parts.upstream.offset)
            assert frames[rows == row, 0].tolist() == index[0].tolist()
            assert int(frames[rows == row].max()) < int(ready.lengths[row])


def test_history_and_result_are_strict_json(tone_corpus: Path, tmp_path: Path) -> None:
    standing, _ = trained(tone_corpus, tmp_path)
    assert json.loads(json.dumps(standing.history, allow_nan=False)) == standing.history
    assert [row["step"] for row in standing.history if "loss" in row] == [3, 6, 9, 12]
    assert [row["step"] for row in standing.history if "dev" in row] == [4, 8, 12]
