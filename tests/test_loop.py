"""The training loop: what a step is, what evaluation may touch, what is frozen, and what ends a run."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from corpora import make_corpus, make_labels
from torch import Tensor, nn

from headwater.cli.run import main as run_downstream
from headwater.cli.shell import guarded
from headwater.config import RunConfig
from headwater.errors import DataError, HeadwaterError, UsageError
from headwater.nn.lengths import frame_index
from headwater.registry import add_plugin, registries
from headwater.results.run import RunFolder
from headwater.settings import merge, parse_overrides, validate
from headwater.train import classification, probing, runner
from headwater.train.checkpoint import Checkpoint
from headwater.train.distributed import World
from headwater.train.feed import Ready
from headwater.train.loop import Standing, Trainer, stop_signals
from headwater.train.outcome import score
from headwater.train.parts import Prepared, prepare
from headwater.train.probing import Probing
from headwater.train.task import Batch, Item

PLUGIN = '''
import torch
from torch import nn


class LoopModel(nn.Module):
    """Two layers and a batch norm on log mel bins."""

    frontend = "mel"
    out_dim = 8

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.norm, self.second = nn.Linear(80, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)
        for parameter in self.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)

    def forward(self, x):
        y = torch.nn.functional.gelu(self.first(x))
        return self.second(self.norm(y.transpose(1, 2)).transpose(1, 2))
'''


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    make_labels(folder, speakers=3, utterances=10, seconds=0.3)
    return make_corpus(folder, speakers=3, utterances=10, seconds=0.3)


@contextmanager
def registered(folder: Path) -> Iterator[str]:
    """The plugin, known by the name that is given."""
    (folder / "loop_model.py").write_text(PLUGIN, encoding="utf-8")
    add_plugin(folder / "loop_model.py")
    yield "LoopModel"
    for kind in ("upstream", "downstream"):
        registries[kind].cards.pop("LoopModel", None)  # type: ignore[index]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registered(tmp_path_factory.mktemp("plugin")) as name:
        yield name


def settings_of(corpus: Path, *overrides: str, upstream: str = "fbank_no_cmvn", task: str = "phone") -> RunConfig:
    """18 training utterances in batches of 4, and SpecAugment so that the random state matters."""
    base: dict[str, Any] = {
        "upstream": {"name": upstream},
        "downstream": task,
        "data": {"path": str(corpus), "labels": str(corpus.parent / "phones.txt")},
        "batch": {"size": 4},
        "optimizer": {"lr": 0.01},
        "runner": {"total_steps": 12, "eval_step": 4, "save_step": 5, "log_step": 3},
        "specaug": {"time_width": 10, "frequency_width": 20},
    }
    return validate(RunConfig, merge(base, parse_overrides(list(overrides))))


def prepared(corpus: Path, *overrides: str, **kinds: str) -> Prepared:
    return prepare(settings_of(corpus, *overrides, **kinds), device="cpu", say=lambda line: None)


def train(parts: Prepared, folder: Path) -> Standing:
    """In a folder as a run has begun it."""
    folder.mkdir(parents=True, exist_ok=True)
    return runner.train(parts, RunFolder(folder))


def trained(corpus: Path, folder: Path, *overrides: str, **kinds: str) -> tuple[Standing, dict[str, Tensor]]:
    """The standing, and the weights as they were at the last step (not the best ones)."""
    parts = prepared(corpus, *overrides, **kinds)
    standing = train(parts, folder)
    last = Checkpoint(folder / "checkpoint").load()
    assert last is not None
    return standing, last["module"]


def trainer_of(parts: Prepared, folder: Path, kind: type[Trainer] = Trainer) -> Trainer:
    work = Probing(parts.probe, parts.task, parts.feed, parts.items, parts.config, parts.world)
    return kind(
        work, parts.config, world=parts.world, device=parts.device, checkpoint=Checkpoint(folder), events=None,
    )  # fmt: skip


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


PLAIN = "specaug=null,,optimizer.name=SGD,,optimizer.lr=1.0,,runner.gradient_clipping=1e9"


def after_one_step(corpus: Path, folder: Path, groups: list[list[int]], *overrides: str) -> dict[str, Tensor]:
    """The weights after a step over these micro-batches."""
    parts = prepared(corpus, PLAIN, *overrides)
    trainer = trainer_of(parts, folder)
    items = [[parts.items["train"][number] for number in group] for group in groups]
    trainer._step([(ready, 1.0) for ready in parts.feed(items)])
    return dict(parts.probe.state_dict())


def test_accumulated_micro_batches_are_one_batch_of_their_union(corpus: Path, tmp_path: Path) -> None:
    whole = after_one_step(corpus, tmp_path, [[0, 1, 2, 3, 4, 5]])
    parts = after_one_step(corpus, tmp_path, [[4], [0, 3, 5], [1, 2]])
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-6, atol=1e-6)
    assert not same(whole, after_one_step(corpus, tmp_path, [[0, 1, 2, 3, 4]]))


def test_the_gradient_is_that_of_the_mean_over_all_labels_of_a_step(corpus: Path, tmp_path: Path) -> None:
    parts = prepared(corpus, PLAIN)
    groups = [parts.items["train"][:1], parts.items["train"][1:6]]
    logits, labels = [], []
    for ready in parts.feed(groups):
        output, _ = parts.probe(ready.states, ready.lengths, ready.batch.inputs)
        one, two, _ = classification.targets(output, ready.batch)
        logits.append(one), labels.append(two)
    assert len(labels[0]) != len(labels[1]) / 5, "frame counts must differ, or a mean of means would pass"
    nn.functional.cross_entropy(torch.cat(logits), torch.cat(labels)).backward()
    expected = {name: (p - p.grad).detach() for name, p in parts.probe.named_parameters() if p.grad is not None}
    found = after_one_step(corpus, tmp_path, [[0], [1, 2, 3, 4, 5]])
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)


def test_the_last_partial_window_of_an_epoch_is_a_step_and_epochs_make_honest_totals(
    corpus: Path, tmp_path: Path
) -> None:
    seen: list[list[str]] = []

    class Spy(Trainer):
        def _step(self, window: list[tuple[Ready, float]]) -> None:
            seen.append([name for ready, _ in window for name in ready.batch.ids])
            super()._step(window)

    parts = prepared(corpus, "runner.epochs=2,,runner.gradient_accumulate_steps=2")
    trainer = trainer_of(parts, tmp_path, Spy)
    standing = trainer.fit()
    every = sorted(item.id for item in parts.items["train"])
    # 18 utterances are five batches, so three windows: 8, 8 and the rest.
    assert standing.step == trainer.total_steps == len(seen) == 6
    for epoch in (seen[:3], seen[3:]):
        assert sorted(name for window in epoch for name in window) == every
    assert seen[0] != seen[3]
    assert standing.history[-1]["step"] == 6


def test_dev_can_be_scored_by_epochs_however_many_steps_they_have(corpus: Path, tmp_path: Path) -> None:
    standing, _ = trained(corpus, tmp_path, "runner.epochs=5,,runner.eval_epochs=2,,runner.save_step=1000")
    # 18 utterances are five steps an epoch; the last step is scored in any case.
    assert [row["step"] for row in standing.history if "dev" in row] == [10, 20, 25]


def test_evaluation_leaves_the_random_state_of_training_alone(corpus: Path, tmp_path: Path) -> None:
    ends = []
    for number, often in enumerate((2, 5)):
        parts = prepared(corpus, f"runner.total_steps=10,,runner.eval_step={often}")
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


def test_specaugment_never_touches_evaluation(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, augmented = (prepared(corpus, *extra) for extra in (["specaug=null"], []))
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
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([50.0, 60.0, 60.0, 55.0, 99.0])

    class Fixed:
        def first(self) -> float:
            return next(values)

    monkeypatch.setattr(probing, "evaluate", lambda *arguments: Fixed())
    standing, _ = trained(corpus, tmp_path, "runner.total_steps=20,,runner.patience=2")
    assert (standing.step, standing.best_step, standing.best, standing.done) == (16, 12, 60.0, True)


def test_without_dev_the_last_step_is_chosen(corpus: Path, tmp_path: Path) -> None:
    parts = prepared(corpus)
    parts.items["dev"] = []
    standing = train(parts, tmp_path)
    assert standing.best_step == standing.step == 12 and standing.best is None
    last = Checkpoint(tmp_path / "checkpoint").load()
    assert last is not None and same(dict(parts.probe.state_dict()), last["module"])


def test_the_best_weights_of_dev_are_left_in_the_probe(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    parts = prepared(corpus)
    standing = train(parts, tmp_path)
    assert shared == [0, 1, 2]  # every process scores what the first one has, each time
    assert standing.best_step == 8 and same(dict(parts.probe.state_dict()), held[1]) and not same(held[1], held[2])
    assert [file.name for file in (tmp_path / "checkpoint").iterdir() if file.suffix != ".pt"] == ["best-8.safetensors"]


def test_features_computed_anew_give_the_same_run_as_kept_ones(corpus: Path, tmp_path: Path) -> None:
    kept = trained(corpus, tmp_path / "kept")
    anew = trained(corpus, tmp_path / "anew", "store.memory_gib=0,,store.cache=false")
    filled = prepared(corpus)
    runner.extract(filled)
    assert all(filled.feed.store.holds(item) for item in filled.utterances())
    train(filled, tmp_path / "filled")
    state = Checkpoint(tmp_path / "filled" / "checkpoint").load()
    assert state is not None
    assert same(kept[1], anew[1]) and same(kept[1], state["module"])
    assert kept[0].history == anew[0].history == state["standing"]["history"]


def test_a_pooled_run_is_the_run_on_frames(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(name: str) -> tuple[bool, dict[str, Tensor]]:
        parts = prepared(corpus, "specaug=null,,optimizer.name=SGD,,optimizer.lr=1e-3", task="speaker")
        train(parts, tmp_path / name)
        return parts.feed.store.pooled, dict(parts.probe.state_dict())

    pooled, on_means = run("pooled")
    monkeypatch.setattr("headwater.train.parts.pools", lambda config, task: False)
    framed, on_frames = run("frames")
    assert pooled and not framed
    for name in on_frames:
        torch.testing.assert_close(on_means[name], on_frames[name], rtol=1e-5, atol=1e-5)


def test_a_frozen_upstream_stays_in_eval_mode_and_unchanged(corpus: Path, tmp_path: Path, plugin: str) -> None:
    parts = prepared(corpus, "optimizer.weight_decay=0.1", upstream=plugin)
    before = {name: value.clone() for name, value in parts.upstream.state_dict().items()}
    modes = []
    parts.upstream.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    train(parts, tmp_path)
    assert not any(module.training for module in parts.upstream.modules())
    assert same(before, dict(parts.upstream.state_dict())) and len(before) == 9
    assert not any(parameter.requires_grad for parameter in parts.upstream.parameters())
    assert not any(name.startswith("upstream.") for name in parts.probe.state_dict())


def test_fine_tuning_changes_the_upstream_but_not_what_is_frozen_nor_its_batch_norm(
    corpus: Path, tmp_path: Path, plugin: str
) -> None:
    parts = prepared(corpus, "upstream.trainable=true,,upstream.freeze=[module.second]", upstream=plugin)
    before = {name: value.clone() for name, value in parts.upstream.state_dict().items()}
    train(parts, tmp_path)
    changed = {name for name, value in parts.upstream.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in changed if name.startswith("module.")} == {
        "module.first.weight", "module.first.bias", "module.norm.weight", "module.norm.bias",
    }  # fmt: skip
    with pytest.raises(UsageError, match="no parameter of 'LoopModel' starts with 'modules'"):
        prepared(corpus, "upstream.trainable=true,,upstream.freeze=[modules]", upstream=plugin)


def test_the_upstream_learns_at_its_own_rate(corpus: Path, tmp_path: Path, plugin: str) -> None:
    parts = prepared(
        corpus, "upstream.trainable=true,,upstream.lr=1e-5,,optimizer.name=SGD,,optimizer.lr=0.5", upstream=plugin
    )
    rates = {
        id(parameter): group["lr"]
        for group in trainer_of(parts, tmp_path).optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in parts.probe.named_parameters():
        assert rates[id(parameter)] == (1e-5 if name.startswith("upstream.") else 0.5)
    assert len(rates) == len(list(parts.probe.parameters()))
    one_rate = trainer_of(prepared(corpus, "upstream.trainable=true", upstream=plugin), tmp_path).optimizer
    assert {group["lr"] for group in one_rate.param_groups} == {0.01}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_full_precision_weights_to_a_finite_result(
    precision: str, corpus: Path, tmp_path: Path
) -> None:
    standing, weights = trained(corpus, tmp_path, f"runner.precision={precision}", task="phone_1hidden")
    full, reference = trained(corpus, tmp_path / "full", task="phone_1hidden")
    assert all(value.isfinite().all() and value.dtype == torch.float32 for value in weights.values())
    losses, expected = ([row["loss"] for row in each.history if "loss" in row] for each in (standing, full))
    assert losses == pytest.approx(expected, rel=0.05) and losses != expected
    assert not same(weights, reference)


def test_steps_that_loss_scaling_leaves_out_are_counted_and_no_end_of_them_is_an_error(
    corpus: Path, tmp_path: Path
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

    trainer = trainer_of(prepared(corpus, "runner.precision=fp16"), tmp_path / "some")
    before = {name: value.clone() for name, value in trainer.work.module.state_dict().items()}
    blow(trainer, 5)
    standing = trainer.fit()
    assert [row["skipped"] for row in standing.history if "loss" in row] == [3, 5, 5, 5]
    assert not same(before, dict(trainer.work.module.state_dict()))
    endless = trainer_of(prepared(corpus, "runner.precision=fp16,,runner.total_steps=40"), tmp_path / "endless")
    blow(endless, 40)
    with pytest.raises(HeadwaterError, match="training diverged: the gradient was NaN or infinite in all steps up to"):
        endless.fit()


def test_a_gradient_that_is_no_number_ends_the_run_at_its_step(corpus: Path, tmp_path: Path) -> None:
    parts = prepared(corpus)
    trainer = trainer_of(parts, tmp_path)
    weight = next(parts.probe.head.parameters())
    weight.register_hook(lambda gradient: gradient * (torch.nan if trainer.standing.step == 6 else 1.0))
    with pytest.raises(HeadwaterError, match=r"training diverged: the gradient was NaN or infinite at step 7;.*lr"):
        trainer.fit()
    last = Checkpoint(tmp_path).load()
    assert last is not None and all(value.isfinite().all() for value in last["module"].values())


def test_a_learning_rate_beyond_reason_is_an_error_and_no_result(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    code = guarded(run_downstream, [
        "-u", "fbank_no_cmvn", "-d", "phone_1hidden", "--data", str(corpus), "-p", str(folder),
        "-o", f"data.labels={corpus.parent / 'phones.txt'},,optimizer.name=SGD,,optimizer.lr=1e30,,runner.total_steps=20",
    ])  # fmt: skip
    assert code == 1 and not (folder / "result.json").exists()
    error = capsys.readouterr().err
    assert "training diverged" in error and "step" in error and "optimizer.lr (now 1e+30)" in error


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_running_out_of_memory_says_at_which_step_and_what_to_lower(
    error: RuntimeError, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = prepared(corpus)
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


def test_other_errors_keep_their_name(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = prepared(corpus)
    monkeypatch.setattr(parts.task, "loss", lambda output, batch: output @ torch.zeros(1, 1, 1, 1, 99))
    with pytest.raises(RuntimeError, match="size"):
        trainer_of(parts, tmp_path).fit()


def test_an_empty_training_split_is_an_error_and_no_endless_loop(corpus: Path, tmp_path: Path) -> None:
    parts = prepared(corpus)
    for change in ({"train": []}, {}):
        parts.items = {**{name: parts.items[name] for name in ("dev", "test")}, **change}
        with pytest.raises(DataError, match="no utterances to train on"):
            trainer_of(parts, tmp_path)


@pytest.mark.parametrize("way", ["kept", "anew", "fine-tuned"])
def test_audio_found_broken_while_decoding_is_named_and_no_run_is_left(
    way: str, tmp_path: Path, plugin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = make_corpus(tmp_path / "c", speakers=2, utterances=5, seconds=0.2)
    wav = np.zeros(3200, dtype=np.float32)
    wav[1000] = np.nan
    soundfile.write(tmp_path / "c" / "wav" / "spk01" / "spk01-02.wav", wav, 16000, subtype="FLOAT")
    extra = {"kept": [], "anew": ["--no-cache", "-o", "store.memory_gib=0"], "fine-tuned": ["-f"]}[way]
    folder = tmp_path / "run"
    arguments = ["-u", plugin, "-d", "speaker_frame", "--data", str(listed), "-p", str(folder), *extra]
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


def test_labels_are_paired_with_frames_in_time_and_each_once(corpus: Path) -> None:
    for upstream in ("fbank_no_cmvn", "mel", "stft_mag"):
        parts = prepared(corpus, upstream=upstream)
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


def test_history_and_result_are_strict_json(corpus: Path, tmp_path: Path) -> None:
    standing, _ = trained(corpus, tmp_path)
    assert json.loads(json.dumps(standing.history, allow_nan=False)) == standing.history
    assert [row["step"] for row in standing.history if "loss" in row] == [3, 6, 9, 12]
    assert [row["step"] for row in standing.history if "dev" in row] == [4, 8, 12]
