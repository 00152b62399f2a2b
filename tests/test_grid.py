"""A grid: every arm is its own run, whatever its neighbours do; dev chooses, and test is scored for what was chosen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from corpora import make_corpus, make_labels
from grids import ALL, grid_config, prepared, probing, relative, separate, trainer_of
from torch import Tensor, nn

from headwater.errors import HeadwaterError
from headwater.nn.heads import FrameClassifier, PooledLinear
from headwater.registry import add_plugin, registries
from headwater.results.run import RunFolder
from headwater.train import grid, runner
from headwater.train.arms import Arm
from headwater.train.grid import Raced, SideBySide, chosen_rates, history_of, probe_of
from headwater.train.loop import Best

HEADS: dict[str, tuple[str, str]] = {
    "pooled": ("speaker", "seed=1337"),
    "projector": ("speaker", "task.projector=8"),
    "by frame": ("speaker_frame", "seed=1337"),
    "every frame pooled, by SpecAugment that masks nothing": (
        "speaker",
        "specaug.time_masks=0,,specaug.frequency_masks=0",
    ),
    "phone": ("phone", "seed=1337"),
    "hidden layer": ("phone", "task.hidden=16"),
    "nine frames": ("phone", "task.context=9"),
    "normalised": ("phone", "upstream.normalize=true"),
    "accumulated": ("phone", "runner.gradient_accumulate_steps=2,,optimizer.name=SGD,,optimizer.momentum=0.9"),
    "decay": ("phone", "optimizer.name=Adam,,optimizer.weight_decay=0.01"),
}

PLUGIN = '''
import torch
from torch import nn

from headwater.config import Section
from headwater.registry import downstreams

PhoneTask = downstreams["phone"].load()


class Dropping(PhoneTask):
    """Phones behind dropout of the frames."""

    def head(self, upstream):
        class Head(nn.Module):
            def __init__(self, dims, classes):
                super().__init__()
                self.drop, self.linear = nn.Dropout(0.5), nn.Linear(dims, classes)

            def forward(self, frames, lengths, inputs):
                return self.linear(self.drop(frames))

        return Head(upstream.out_dim, len(self.classes))


class Recurrent(PhoneTask):
    """Phones by a head that is more than linear layers, and a loss that looks at its value."""

    def head(self, upstream):
        class Head(nn.Module):
            def __init__(self, dims, classes):
                super().__init__()
                self.memory, self.linear = nn.GRU(dims, 6, batch_first=True), nn.Linear(6, classes)

            def forward(self, frames, lengths, inputs):
                return self.linear(self.memory(frames)[0])

        return Head(upstream.out_dim, len(self.classes))

    def loss(self, output, batch):
        total, count = super().loss(output, batch)
        return (total if float(total.detach()) > 0 else 0 * total), count


class Averaging(PhoneTask):
    """Phones behind a batch norm, which keeps statistics of what it has seen."""

    def head(self, upstream):
        class Head(nn.Module):
            def __init__(self, dims, classes):
                super().__init__()
                self.norm, self.linear = nn.BatchNorm1d(dims), nn.Linear(dims, classes)

            def forward(self, frames, lengths, inputs):
                return self.linear(self.norm(frames.transpose(1, 2)).transpose(1, 2))

        return Head(upstream.out_dim, len(self.classes))
'''


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    make_labels(folder, speakers=3, utterances=10, seconds=0.3)
    return make_corpus(folder, speakers=3, utterances=10, seconds=0.3)


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    file = tmp_path_factory.mktemp("plugin") / "grid_heads.py"
    file.write_text(PLUGIN, encoding="utf-8")
    add_plugin(file)
    yield
    for name in ("Dropping", "Recurrent", "Averaging"):
        registries["downstream"].cards.pop(name, None)


def race(config: Any, folder: Path) -> Raced:
    standing = runner.train(prepared(config), RunFolder(folder))
    assert isinstance(standing, Raced)
    return standing


def weights(work: SideBySide) -> list[dict[str, Tensor]]:
    return [work.module.state_of(number) for number in range(len(work.arms))]


def flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def test_every_arm_starts_as_the_separate_run_of_its_selection_and_seed(corpus: Path) -> None:
    config = grid_config(corpus, task="speaker_sid")
    work = SideBySide(prepared(config))
    assert len(work.arms) == 16 and len(set(work.arms)) == 16
    for arm, state in zip(work.arms, weights(work), strict=True):
        own = separate(config, arm)
        alone = prepared(own.model_copy(update={"seed": arm.seed})).probe.state_dict()
        assert state.keys() == alone.keys() and all(torch.equal(state[name], alone[name]) for name in alone)


@pytest.mark.parametrize("head", HEADS)
def test_side_by_side_is_one_by_one_in_every_gradient_and_in_the_weights_after_50_steps(
    head: str, corpus: Path, tmp_path: Path
) -> None:
    task, overrides = HEADS[head]
    grid_of = {"layers": "all", "seeds": 1, "lrs": [3e-3, 3e-2]}
    config = grid_config(corpus, "runner.total_steps=50,,batch.size=2", overrides, task=task, grid=grid_of)
    parts = prepared(config)
    work = SideBySide(parts)
    assert work.vectorised and all(family.folded is not None for family in work.module.families)
    before: list[list[dict[str, Tensor]]] = []
    found: list[dict[str, Tensor]] = []
    clip = work.clip

    def spied(parameters: Any, limit: float) -> Tensor:
        before.append(weights(work))
        found.append({name: p.grad.clone() for name, p in work.module.named_parameters() if p.grad is not None})
        return clip(parameters, limit)

    work.clip = spied  # type: ignore[method-assign]
    together = trainer_of(work, parts, tmp_path / "together")
    stream = together._stream()
    for _ in range(50):
        together._step(next(stream))
    assert len(found) == 50
    ends = weights(work)
    for number in (
        1,
        2,
        7,
    ):  # the weighted sum at the high rate, the first layer at the low one, the last at the high one
        arm, last = work.arms[number], ends[number]
        alone = prepared(separate(config, arm))
        alone.probe.load_state_dict(probe_of(parts, arm.layer, arm.seed).state_dict())
        trainer = trainer_of(probing(alone), alone, tmp_path / str(number))
        checked = _checked(trainer, before, found, number, work)
        own = trainer._stream()
        for _ in range(50):
            trainer._step(next(own))
        assert checked.count(True) == 50
        ours, theirs = last, alone.probe.state_dict()
        assert relative(flat(ours[name] for name in theirs), flat(theirs.values())) < 1e-4
        assert relative(flat(ours[name] for name in theirs), flat(before[0][number][name] for name in theirs)) > 0.01


def _checked(
    trainer: Any, before: list[list[dict[str, Tensor]]], found: list[dict[str, Tensor]], number: int, work: SideBySide
) -> list[bool]:
    """Compare the gradient of every step to come, taken at the weights that the arm had before it."""
    checked: list[bool] = []
    step, probe = trainer._step, trainer.work.module
    family, rate, selection, seed = work.module._places[number]

    def compared(window: Any) -> None:
        kept = {name: value.clone() for name, value in probe.state_dict().items()}
        probe.load_state_dict(before[len(checked)][number])
        sums = [trainer.work.loss(probe, ready) for ready, _ in window]
        count = sum(int(count) for _, count in sums)
        own = torch.autograd.grad(sum(total for total, _ in sums) / count, list(probe.parameters()))
        names = [name for name, _ in probe.named_parameters()]
        key = f"families.{family}.rates.{rate}."
        ours = [found[len(checked)][key + name.replace(".", "/")][selection, seed] for name in names]
        checked.append(relative(flat(ours), flat(own)) < 1e-6)
        probe.load_state_dict(kept)
        step(window)

    trainer._step = compared
    return checked


def test_an_arm_that_diverges_leaves_the_bits_of_its_neighbours_and_is_not_chosen(corpus: Path, tmp_path: Path) -> None:
    calm, wild = (
        race(grid_config(corpus, "task.hidden=8", grid={"layers": "all", "seeds": 1, "lrs": [1e-2, 3e-2, lr]}), folder)
        for lr, folder in ((0.1, tmp_path / "calm"), (1e30, tmp_path / "wild"))
    )
    for one, other in zip(calm.bests, wild.bests, strict=True):
        assert one == other or other.diverged
    broken = {arm.lr for arm, best in zip(wild.arms, wild.bests, strict=True) if best.diverged}
    assert broken == {1e30} and 1e30 not in {wild.arms[number].lr for number in wild.chosen}
    states = {wild.arms[number]: state for number, state in zip(wild.chosen, wild.states, strict=True)}
    same = [number for number in calm.chosen if calm.arms[number] in states]
    assert same, "the same arms must be chosen, or nothing is compared"
    for number in same:
        state = calm.states[calm.chosen.index(number)]
        assert all(torch.equal(state[name], states[calm.arms[number]][name]) for name in state)
    assert any("4 of 12 arms diverged and were not chosen" in note for note in wild.notes())


def test_a_grid_whose_arms_all_diverge_is_an_error(corpus: Path, tmp_path: Path) -> None:
    config = grid_config(corpus, "task.hidden=8", grid={"lrs": [1e30, 1e31]})
    with pytest.raises(HeadwaterError, match=r"training diverged: .* of every arm was NaN or infinite"):
        race(config, tmp_path)


@pytest.mark.parametrize("overrides", ["seed=1337", "specaug.time_width=10,,specaug.frequency_width=8"])
@pytest.mark.parametrize("task", ["phone", "Dropping"])
def test_dropout_and_masks_are_drawn_for_each_arm(
    overrides: str, task: str, corpus: Path, tmp_path: Path, plugins: None
) -> None:
    """Arms that differ in nothing but the rate have one gradient at the first step, unless something is drawn."""
    parts = prepared(grid_config(corpus, overrides, task=task, grid={"layers": "all", "lrs": [1e-3, 1e-2]}))
    work = SideBySide(parts)
    drawn = task == "Dropping" or "specaug" in overrides
    assert all(family.folded is not None and family.draws == drawn for family in work.module.families)
    work.module.train()
    work.loss(work.module, next(iter(parts.feed([parts.items["train"][:4]]))))[0].sum().backward()
    for family in work.module.families:
        one, other = (flat(p.grad for p in family.parameters_at(rate)) for rate in range(2))
        assert torch.equal(one, other) != drawn
        rows = one.view(family.shape[0], -1)
        assert len(torch.unique(rows, dim=0)) == len(rows)


@pytest.mark.parametrize("task", ["Recurrent", "Averaging"])
def test_a_head_that_is_more_than_linear_layers_runs_arm_by_arm_and_gives_the_same(
    corpus: Path, tmp_path: Path, plugins: None, task: str
) -> None:
    config = grid_config(corpus, task=task, grid={"layers": "all", "lrs": [1e-2, 3e-2]})
    parts = prepared(config)
    work = SideBySide(parts)
    assert work.vectorised is (task == "Averaging")  # the loss of the other looks at its value
    assert all(family.folded is None for family in work.module.families)
    trainer_of(work, parts, tmp_path / "together").fit()
    for number in (0, 5):
        arm = work.arms[number]
        alone = prepared(separate(config, arm))
        trainer_of(probing(alone), alone, tmp_path / str(number)).fit()
        ours, theirs = weights(work)[number], alone.probe.state_dict()
        assert relative(flat(ours[name] for name in theirs), flat(theirs.values())) < 1e-4


def test_a_head_whose_batch_is_no_batch_is_found_out(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scaled by the largest of the batch, frames of several arms side by side would be another thing."""
    forward = FrameClassifier.forward
    monkeypatch.setattr(
        FrameClassifier,
        "forward",
        lambda self, x, lengths, inputs=None: forward(self, x / x.abs().amax(), lengths, inputs),
    )
    work = SideBySide(prepared(grid_config(corpus)))
    assert [family.folded is None for family in work.module.families] == [True, True]


def test_the_lowest_rate_of_the_best_mean_over_seeds_is_chosen_and_diverged_ones_are_last() -> None:
    arms = [Arm(None, lr, seed) for lr in (0.1, 0.2, 0.3) for seed in (1, 2)]

    def chosen(*values: float | None, higher: bool = True) -> float | None:
        bests = [Best(best=value, diverged=0 if value is not None else 7) for value in values]
        return chosen_rates(arms, bests, higher).get(None)

    assert chosen(50, 70, 61, 61, 40, 80) == 0.2
    assert chosen(50, 70, 60, 60, 40, 80) == 0.1
    assert chosen(50, 70, 61, 61, 40, 80, higher=False) == 0.1
    assert chosen(50, 70, None, 100, 40, 81) == 0.3
    assert chosen(None, 70, 99, None, None, None) == 0.2
    assert chosen(*[None] * 6) is None


def test_the_history_of_an_arm_is_that_of_its_own_run() -> None:
    history: list[dict[str, Any]] = [
        {"step": 2, "loss": [1.0, None], "lr": [0.1, 0.2]},
        {"step": 4, "dev": {"accuracy": [50.0, None]}},
    ]
    assert history_of(history, 0, 1) == [
        {"step": 2, "loss": 1.0, "lr": 0.2},
        {"step": 4, "dev": {"accuracy": 50.0}},
    ]


def test_patience_is_each_arm_s_own(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of two arms on dev: the first stops getting better at once, and must not take the late 99."""
    values = iter([[50.0, 10.0], [40.0, 20.0], [30.0, 30.0], [99.0, 20.0], [99.0, 20.0], [99.0, 99.0]])
    monkeypatch.setattr(SideBySide, "evaluate", lambda self: ("accuracy", next(values)))
    overrides = "runner.total_steps=24,,runner.patience=2"
    raced = race(grid_config(corpus, overrides, grid={"lrs": [1e-3, 1e-2]}), tmp_path)
    assert [(best.best_step, best.best, best.done) for best in raced.bests] == [(4, 50.0, True), (12, 30.0, True)]
    assert raced.step == 20 and raced.done and raced.arms[raced.chosen[0]].lr == 1e-3


def test_each_arm_keeps_the_weights_of_its_own_best_step(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, held = iter([[10.0, 90.0], [50.0, 20.0], [30.0, 30.0]]), []

    def fixed(self: SideBySide) -> Any:
        held.append(weights(self))
        return "accuracy", next(values)

    monkeypatch.setattr(SideBySide, "evaluate", fixed)
    parts = prepared(grid_config(corpus, grid={"lrs": [1e-3, 1e-2]}))
    work = SideBySide(parts)
    standing = trainer_of(work, parts, tmp_path).fit()
    assert [part.best_step for part in standing.parts] == [8, 4] and standing.best_step == 8
    ends = weights(work)
    for number, evaluation in ((0, 1), (1, 0)):
        expected = held[evaluation][number]
        assert all(torch.equal(ends[number][name], expected[name]) for name in expected)
    assert [file.name for file in tmp_path.iterdir() if file.suffix != ".pt"] == ["best-8.safetensors"]


def test_test_is_scored_once_and_for_chosen_arms_only(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[tuple[str, int]] = []
    evaluate_each = grid.evaluate_each

    def counted(modules: Any, answer: Any, accumulators: Any, *rest: Any) -> Any:
        scored.append((rest[3], len(accumulators)))
        return evaluate_each(modules, answer, accumulators, *rest)

    monkeypatch.setattr(grid, "evaluate_each", counted)
    config = grid_config(corpus, grid=ALL)
    parts = prepared(config)
    raced = runner.train(parts, RunFolder(tmp_path))
    assert isinstance(raced, Raced) and scored == [("dev", 16)] * 3
    raced.score(parts, ["dev", "test"])
    # Four selections from two seeds each, at the rate that dev chose for each selection.
    assert scored[3:] == [("dev", 8), ("test", 8)] and len(raced.chosen) == 8
    for layer in (None, 0, 1, 2):
        own = [raced.arms[number] for number in raced.chosen if raced.arms[number].layer == layer]
        assert len({arm.lr for arm in own}) == 1 and {arm.seed for arm in own} == {1337, 1338}


@pytest.mark.parametrize("kind", [PooledLinear, FrameClassifier])
def test_shared_frames_meet_the_weights_of_all_arms_in_one_product(
    kind: type[nn.Module], corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What makes a grid cheap: frames are not copied for each arm."""
    task = "speaker" if kind is PooledLinear else "phone"
    parts = prepared(grid_config(corpus, "upstream.layer=1", task=task, grid={"lrs": [0.001 * n for n in range(1, 9)]}))
    work = SideBySide(parts)
    sizes: list[tuple[int, ...]] = []
    baddbmm = torch.baddbmm
    monkeypatch.setattr(torch, "baddbmm", lambda b, x, w: sizes.append((*x.shape, w.shape[2])) or baddbmm(b, x, w))
    ready = next(iter(parts.feed([parts.items["train"][:2]])))
    work.module(ready.states, ready.lengths, {})
    frames = 2 if kind is PooledLinear else 2 * int(ready.lengths.max())
    assert sizes == [(1, frames, 12, 8 * len(parts.task.spec.classes))]
