"""A run that was stopped, however roughly, ends as if nothing had happened."""

from __future__ import annotations

import json
import random
import shutil
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from corpora import make_corpus, make_labels
from loops import prepared, same, train, trainer_of

from headwater.errors import HeadwaterError
from headwater.train.checkpoint import Checkpoint
from headwater.train.loop import Standing, Trainer


class Died(Exception):
    """What stands for a dead process here."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    make_labels(folder, speakers=2, utterances=10, seconds=0.3)
    return make_corpus(folder, speakers=2, utterances=10, seconds=0.3)


@pytest.fixture(scope="module")
def undisturbed(kill: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path, dict[str, int]]:
    """Arguments, the run folder of a command that nobody stopped, and its calls by phase."""
    folder = tmp_path_factory.mktemp("kill")
    arguments = kill.commands(folder / "corpus")["phone"]
    done, counts = kill.start(arguments, folder / "undisturbed")
    assert done.returncode == 0, done.stderr
    assert set(counts) == set(kill.NAMES), "a phase has another name now; tell bench/kill.py"
    return arguments, folder / "undisturbed", counts


def test_a_run_killed_in_every_phase_ends_as_an_undisturbed_one(
    kill: ModuleType, undisturbed: tuple[list[str], Path, dict[str, int]], tmp_path: Path
) -> None:
    arguments, reference, counts = undisturbed
    chance = random.Random(2)
    for phase in ("extraction", "writing", "training", "evaluation"):
        # Early enough that a resumed run, which has less to do, comes by once more.
        done, _ = kill.start(arguments, tmp_path / "run", (phase, chance.randint(1, max(1, counts[phase] // 3))))
        assert done.returncode == -signal.SIGKILL, f"{phase}: {done.stderr}"
        assert not (tmp_path / "run" / "result.json").exists()
    done, _ = kill.start(arguments, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert kill.differences(tmp_path / "run", reference) == []
    assert not list((tmp_path / "run" / "checkpoint").glob(".*")), "what the killed process was writing is still there"


def test_ctrl_c_saves_says_how_to_go_on_and_the_same_command_does(
    kill: ModuleType, undisturbed: tuple[list[str], Path, dict[str, int]], tmp_path: Path
) -> None:
    arguments, reference, counts = undisturbed
    done, _ = kill.start(arguments, tmp_path / "run", ("training", counts["training"] // 3), signal.SIGINT)
    assert done.returncode == 1
    assert "all saved; the same command goes on from there" in done.stderr and "Traceback" not in done.stderr
    state = Checkpoint(tmp_path / "run" / "checkpoint").load()
    assert state is not None and f"stopped at step {state['standing']['step']} of 24" in done.stderr
    assert 0 < state["standing"]["step"] < 24
    done, _ = kill.start(arguments, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert kill.differences(tmp_path / "run", reference) == []


def test_the_comparison_sees_a_difference(
    kill: ModuleType, undisturbed: tuple[list[str], Path, dict[str, int]], tmp_path: Path
) -> None:
    _, reference, _ = undisturbed
    copy = shutil.copytree(reference, tmp_path / "run")
    assert kill.differences(copy, reference) == []
    result = json.loads((copy / "result.json").read_text())
    result["history"][0]["loss"] *= 1 + 1e-15
    (copy / "result.json").write_text(json.dumps(result))
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    (copy / "scores" / "test.jsonl").write_text("{}")
    (copy / "report.html").unlink()
    assert kill.differences(copy, reference) == ["report.html", "history", "model.safetensors", "scores/test.jsonl"]


def run(corpus: Path, folder: Path, dies_after: list[int], overrides: str, **kinds: Any) -> tuple[Standing, Any]:
    """Train; die after each of these steps (counted over the whole run) and start again."""
    for step in [*dies_after, None]:
        parts = prepared(corpus, overrides, **kinds)

        def deadly(trainer: Trainer, window: Any, step: int | None = step) -> None:
            if trainer.standing.step == step:
                raise Died
            STEP(trainer, window)

        Trainer._step = deadly  # type: ignore[method-assign]
        try:
            standing = train(parts, folder)
            assert step is None, f"it never came to step {step}"
        except Died:
            continue
        finally:
            Trainer._step = STEP  # type: ignore[method-assign]
    state = Checkpoint(folder / "checkpoint").load()
    assert state is not None
    return standing, (state, dict(parts.probe.state_dict()))


STEP = Trainer._step
# save_step divides neither an epoch (4 windows and a partial one), nor log_step, nor eval_step.
CADENCE = "runner.save_step=3,,runner.log_step=4,,runner.eval_step=7,,batch.size=2,,"


@pytest.mark.parametrize(
    "overrides",
    [
        "optimizer.name=AdamW,,optimizer.weight_decay=0.1",
        "optimizer.name=SGD,,optimizer.momentum=0.9,,scheduler.name=cosine,,scheduler.warmup_ratio=0.3",
        "runner.gradient_accumulate_steps=2,,scheduler.name=linear,,scheduler.warmup_steps=7",
        "runner.epochs=4,,runner.gradient_accumulate_steps=4,,scheduler.name=inverse_sqrt,,scheduler.warmup_steps=3",
        "runner.patience=2,,optimizer.lr=1e-4,,runner.eval_step=3,,runner.total_steps=90",
        "runner.precision=bf16",
    ],
    ids=["adamw", "momentum-cosine", "accumulation-warm-up", "epochs", "patience", "bf16"],
)
def test_resume_is_exact(overrides: str, corpus: Path, tmp_path: Path) -> None:
    settings = f"{CADENCE}runner.total_steps=20,,{overrides}"
    standing, (state, best) = run(corpus, tmp_path / "whole", [], settings)
    last = standing.step
    chance = random.Random(overrides)
    dies = sorted(chance.sample(range(1, last), 3))
    again, (resumed, same_best) = run(corpus, tmp_path / "broken", dies, settings)
    expected, found = ({**vars(each), "seconds": 0} for each in (standing, again))
    assert found == expected
    assert same(state["module"], resumed["module"]) and same(best, same_best)
    assert torch.equal(state["ranks"][0]["rng"]["cpu"], resumed["ranks"][0]["rng"]["cpu"])
    if "patience" in overrides:
        assert standing.done and last < 90, "patience must have ended this run"
    if "scheduler" in overrides:
        rates = [row["lr"] for row in standing.history if "lr" in row]
        assert len(set(rates)) > 1, "the rate must move, or nothing is shown of the schedule"


def test_a_fine_tuned_upstream_with_frozen_parts_resumes_exactly(corpus: Path, tmp_path: Path, loop_model: str) -> None:
    settings = (
        f"{CADENCE}runner.total_steps=9,,upstream.trainable=true,,upstream.freeze=[module.second],,upstream.lr=1e-3"
    )
    standing, (state, best) = run(corpus, tmp_path / "whole", [], settings, upstream=loop_model)
    again, (resumed, same_best) = run(corpus, tmp_path / "broken", [2, 7], settings, upstream=loop_model)
    assert again.history == standing.history
    assert same(state["module"], resumed["module"]) and same(best, same_best)
    assert "upstream.module.second.weight" in best


def test_saving_less_often_changes_nothing(corpus: Path, tmp_path: Path) -> None:
    one, (state, _) = run(corpus, tmp_path / "often", [8], "runner.save_step=1")
    two, (other, _) = run(corpus, tmp_path / "seldom", [8], "runner.save_step=100")
    assert same(state["module"], other["module"]) and one.history == two.history


def test_a_checkpoint_that_does_not_fit_says_so(corpus: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path, [], "runner.total_steps=2")
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    state = checkpoint.load()
    assert state is not None
    for change in (
        {"standing": {**state["standing"], "another": 1}},
        {"ranks": state["ranks"] * 2},
        {"module": {}},
    ):
        checkpoint.save({**state, **change}, state["standing"]["best_step"])
        with pytest.raises(HeadwaterError, match="this checkpoint does not fit"):
            trainer_of(prepared(corpus), tmp_path / "checkpoint").fit()
    checkpoint.last.write_bytes(b"half a fi")
    with pytest.raises(HeadwaterError, match=r"last\.pt: the checkpoint cannot be read .*--fresh"):
        trainer_of(prepared(corpus), tmp_path / "checkpoint").fit()


def test_the_checkpoint_names_best_weights_that_are_there_at_every_moment(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    weights = [{"w": torch.tensor([float(number)])} for number in range(3)]
    checkpoint.write_best(1, weights[1])
    checkpoint.save({"best": 1}, 1)
    checkpoint.write_best(2, weights[2])
    # A process that dies here has saved that 1 is the best.
    assert same(checkpoint.read_best(1), weights[1])
    checkpoint.save({"best": 2}, 2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best-2.safetensors", "last.pt"]
    assert same(checkpoint.read_best(2), weights[2]) and checkpoint.load() == {"best": 2}
