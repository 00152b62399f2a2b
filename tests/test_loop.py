"""The training loop: what a step is, which features it learns from, what is frozen, what is tuned, and in which precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from loops import prepared, same, train, trained, trainer_of
from torch import Tensor, nn

from headwater.errors import UsageError
from headwater.train import classification, runner
from headwater.train.checkpoint import Checkpoint
from headwater.train.feed import Ready
from headwater.train.loop import Trainer

PLAIN = "specaug=null,,optimizer.name=SGD,,optimizer.lr=1.0,,runner.gradient_clipping=1e9"


def after_one_step(tone_corpus: Path, folder: Path, groups: list[list[int]], *overrides: str) -> dict[str, Tensor]:
    """The weights after a step over these micro-batches."""
    parts = prepared(tone_corpus, PLAIN, *overrides)
    trainer = trainer_of(parts, folder)
    items = [[parts.items["train"][number] for number in group] for group in groups]
    trainer._step([(ready, 1.0) for ready in parts.feed(items)])
    return dict(parts.probe.state_dict())


def test_accumulated_micro_batches_are_one_batch_of_their_union(tone_corpus: Path, tmp_path: Path) -> None:
    whole = after_one_step(tone_corpus, tmp_path, [[0, 1, 2, 3, 4, 5]])
    parts = after_one_step(tone_corpus, tmp_path, [[4], [0, 3, 5], [1, 2]])
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-6, atol=1e-6)
    assert not same(whole, after_one_step(tone_corpus, tmp_path, [[0, 1, 2, 3, 4]]))


def test_the_gradient_is_that_of_the_mean_over_all_labels_of_a_step(tone_corpus: Path, tmp_path: Path) -> None:
    parts = prepared(tone_corpus, PLAIN)
    groups = [parts.items["train"][:1], parts.items["train"][1:6]]
    logits, labels = [], []
    for ready in parts.feed(groups):
        output, _ = parts.probe(ready.states, ready.lengths, ready.batch.inputs)
        one, two, _ = classification.targets(output, ready.batch)
        logits.append(one), labels.append(two)
    assert len(labels[0]) != len(labels[1]) / 5, "frame counts must differ, or a mean of means would pass"
    nn.functional.cross_entropy(torch.cat(logits), torch.cat(labels)).backward()
    expected = {name: (p - p.grad).detach() for name, p in parts.probe.named_parameters() if p.grad is not None}
    found = after_one_step(tone_corpus, tmp_path, [[0], [1, 2, 3, 4, 5]])
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)


def test_the_last_partial_window_of_an_epoch_is_a_step_and_epochs_make_honest_totals(
    tone_corpus: Path, tmp_path: Path
) -> None:
    seen: list[list[str]] = []

    class Spy(Trainer):
        def _step(self, window: list[tuple[Ready, float]]) -> None:
            seen.append([name for ready, _ in window for name in ready.batch.ids])
            super()._step(window)

    parts = prepared(tone_corpus, "runner.epochs=2,,runner.gradient_accumulate_steps=2")
    trainer = trainer_of(parts, tmp_path, Spy)
    standing = trainer.fit()
    every = sorted(item.id for item in parts.items["train"])
    # 18 utterances are five batches, so three windows: 8, 8 and the rest.
    assert standing.step == trainer.total_steps == len(seen) == 6
    for epoch in (seen[:3], seen[3:]):
        assert sorted(name for window in epoch for name in window) == every
    assert seen[0] != seen[3]
    assert standing.history[-1]["step"] == 6


def test_features_computed_anew_give_the_same_run_as_kept_ones(tone_corpus: Path, tmp_path: Path) -> None:
    kept = trained(tone_corpus, tmp_path / "kept")
    anew = trained(tone_corpus, tmp_path / "anew", "store.memory_gib=0,,store.cache=false")
    filled = prepared(tone_corpus)
    runner.extract(filled)
    assert all(filled.feed.store.holds(item) for item in filled.utterances())
    train(filled, tmp_path / "filled")
    state = Checkpoint(tmp_path / "filled" / "checkpoint").load()
    assert state is not None
    assert same(kept[1], anew[1]) and same(kept[1], state["module"])
    assert kept[0].history == anew[0].history == state["standing"]["history"]


def test_a_pooled_run_is_the_run_on_frames(tone_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(name: str) -> tuple[bool, dict[str, Tensor]]:
        parts = prepared(tone_corpus, "specaug=null,,optimizer.name=SGD,,optimizer.lr=1e-3", task="speaker")
        train(parts, tmp_path / name)
        return parts.feed.store.pooled, dict(parts.probe.state_dict())

    pooled, on_means = run("pooled")
    monkeypatch.setattr("headwater.train.parts.pools", lambda config, task: False)
    framed, on_frames = run("frames")
    assert pooled and not framed
    for name in on_frames:
        torch.testing.assert_close(on_means[name], on_frames[name], rtol=1e-5, atol=1e-5)


def test_a_frozen_upstream_stays_in_eval_mode_and_unchanged(tone_corpus: Path, tmp_path: Path, loop_model: str) -> None:
    parts = prepared(tone_corpus, "optimizer.weight_decay=0.1", upstream=loop_model)
    before = {name: value.clone() for name, value in parts.upstream.state_dict().items()}
    modes = []
    parts.upstream.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    train(parts, tmp_path)
    assert not any(module.training for module in parts.upstream.modules())
    assert same(before, dict(parts.upstream.state_dict())) and len(before) == 9
    assert not any(parameter.requires_grad for parameter in parts.upstream.parameters())
    assert not any(name.startswith("upstream.") for name in parts.probe.state_dict())


def test_fine_tuning_changes_the_upstream_but_not_what_is_frozen_nor_its_batch_norm(
    tone_corpus: Path, tmp_path: Path, loop_model: str
) -> None:
    parts = prepared(tone_corpus, "upstream.trainable=true,,upstream.freeze=[module.second]", upstream=loop_model)
    before = {name: value.clone() for name, value in parts.upstream.state_dict().items()}
    train(parts, tmp_path)
    changed = {name for name, value in parts.upstream.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in changed if name.startswith("module.")} == {
        "module.first.weight", "module.first.bias", "module.norm.weight", "module.norm.bias",
    }  # fmt: skip
    with pytest.raises(UsageError, match="no parameter of 'LoopModel' starts with 'modules'"):
        prepared(tone_corpus, "upstream.trainable=true,,upstream.freeze=[modules]", upstream=loop_model)


def test_the_upstream_learns_at_its_own_rate(tone_corpus: Path, tmp_path: Path, loop_model: str) -> None:
    parts = prepared(
        tone_corpus,
        "upstream.trainable=true,,upstream.lr=1e-5,,optimizer.name=SGD,,optimizer.lr=0.5",
        upstream=loop_model,
    )
    rates = {
        id(parameter): group["lr"]
        for group in trainer_of(parts, tmp_path).optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in parts.probe.named_parameters():
        assert rates[id(parameter)] == (1e-5 if name.startswith("upstream.") else 0.5)
    assert len(rates) == len(list(parts.probe.parameters()))
    one_rate = trainer_of(prepared(tone_corpus, "upstream.trainable=true", upstream=loop_model), tmp_path).optimizer
    assert {group["lr"] for group in one_rate.param_groups} == {0.01}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_full_precision_weights_to_a_finite_result(
    precision: str, tone_corpus: Path, tmp_path: Path
) -> None:
    standing, weights = trained(tone_corpus, tmp_path, f"runner.precision={precision}", task="phone_1hidden")
    full, reference = trained(tone_corpus, tmp_path / "full", task="phone_1hidden")
    assert all(value.isfinite().all() and value.dtype == torch.float32 for value in weights.values())
    losses, expected = ([row["loss"] for row in each.history if "loss" in row] for each in (standing, full))
    assert losses == pytest.approx(expected, rel=0.05) and losses != expected
    assert not same(weights, reference)
