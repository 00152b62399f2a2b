"""Grids as a user meets them: flags, refusals, what a run folder holds, and going on after a kill."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from corpora import make_corpus, make_labels
from grids import SMALL, grid_config, prepared
from test_resume import Died

from headwater.cli.run import main as run_downstream
from headwater.cli.run_settings import parser, settings_of
from headwater.cli.shell import guarded
from headwater.config import RunConfig
from headwater.identity import numbers
from headwater.metrics import Metric
from headwater.results.report import render
from headwater.results.run import RunFolder
from headwater.results.table import entries, table
from headwater.settings import validate
from headwater.train import runner
from headwater.train.checkpoint import Checkpoint
from headwater.train.grid import Raced
from headwater.train.loop import Trainer
from headwater.weights import read_safetensors

TINY = ",,".join(f"upstream.config.transformer.{name}={value}" for name, value in SMALL.items())
TERA = ["-u", "tera", "-o", f"upstream.config.random_weights=0,,{TINY}"]
QUICK = ["-o", "runner.total_steps=12,,runner.eval_step=4,,runner.log_step=4,,batch.size=4"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    make_labels(folder, speakers=3, utterances=10, seconds=0.3)
    return make_corpus(folder, speakers=3, utterances=10, seconds=0.3)


def command(corpus: Path, folder: Path, *more: str, task: str = "phone") -> list[str]:
    labels = ["-o", f"data.labels={corpus.parent / 'phones.txt'}"] if task == "phone" else []
    return [*TERA, "-d", task, "--data", str(corpus), *labels, *QUICK, "--no-cache", "-p", str(folder), *more]


@pytest.fixture(scope="module")
def raced(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished grid of all layers, two rates and three seeds that was asked for layer 1."""
    folder = tmp_path_factory.mktemp("grid") / "run"
    grid = ["--layers", "all", "--lr-grid", "3e-2,1e-3", "--seeds", "3", "-l", "1"]
    assert guarded(run_downstream, command(corpus, folder, *grid)) == 0
    return folder


def result_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return content


def test_the_result_is_about_the_asked_selection_and_holds_all_arms(raced: Path) -> None:
    result = result_of(raced)
    arms, seeds = result["arms"], result["seeds"]
    assert len(arms) == 4 * 2 * 3
    assert {(arm["selection"], arm["lr"], arm["seed"]) for arm in arms} == {
        (selection, lr, seed)
        for selection in ("weighted_sum", "layer 0", "layer 1", "layer 2")
        for lr in (1e-3, 3e-2)
        for seed in (1337, 1338, 1339)
    }
    (asked,) = [arm for arm in arms if arm["asked"]]
    assert (asked["selection"], asked["seed"]) == ("layer 1", 1337) and result["upstream"]["selection"] == "layer 1"
    assert asked["metrics"] == result["metrics"] and asked["best_step"] == result["best_step"]
    assert result["metrics"]["dev"]["accuracy"]["value"] == pytest.approx(asked["dev"])
    assert [point["step"] for point in result["history"] if "loss" in point] == [4, 8, 12]
    assert max(point["dev"]["accuracy"] for point in result["history"] if "dev" in point) == asked["dev"]
    assert all(isinstance(point["lr"], float) for point in result["history"] if "loss" in point)
    for arm in arms:
        assert (
            (arm["metrics"] is not None) == arm["chosen"] and arm["diverged"] is None and arm["best_step"] in (4, 8, 12)
        )
    for group in seeds:
        own = [arm for arm in arms if arm["selection"] == group["selection"]]
        chosen = [arm for arm in own if arm["chosen"]]
        assert group["n"] == len(chosen) == 3 and {arm["lr"] for arm in chosen} == {group["lr"]}
        means = {lr: sum(arm["dev"] for arm in own if arm["lr"] == lr) for lr in (1e-3, 3e-2)}
        assert means[group["lr"]] == max(means.values())
        values = torch.tensor([arm["metrics"]["test"]["accuracy"]["value"] for arm in chosen], dtype=torch.float64)
        found = group["metrics"]["test"]["accuracy"]
        assert found["mean"] == pytest.approx(float(values.mean())) and found["sd"] == pytest.approx(
            float(values.std())
        )
        assert found["best"] == float(values.max())
    assert any("at the edge of the grid (0.001 to 0.03)" in note for note in result["notes"])
    json.dumps(result, allow_nan=False)


def test_the_saved_model_is_the_asked_arm_and_evaluates_and_predicts_alone(
    raced: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(read_safetensors(raced / "model.safetensors")) == {"head.layers.weight", "head.layers.bias"}
    metric = Metric.from_json(result_of(raced)["metrics"]["test"]["accuracy"])
    assert guarded(run_downstream, ["-m", "evaluate", "-e", str(raced), "--no-cache"]) == 0
    assert metric.describe() in capsys.readouterr().out
    wav = next(corpus.parent.rglob("*.wav"))
    assert guarded(run_downstream, ["-m", "predict", "-e", str(raced), str(wav)]) == 0
    assert json.loads(capsys.readouterr().out)["prediction"]


def test_the_report_and_the_plots_show_the_grid(raced: Path) -> None:
    assert (raced / "plots" / "layer_curve.svg").is_file()
    page = render(raced)
    for words in ("layer curve", "Learning rates on dev", "weighted_sum", "layer 2", "±", ", chosen"):
        assert words in page, words
    (raced / "plots" / "layer_curve.svg").unlink()
    runner.illustrate(RunFolder(raced))
    assert (raced / "plots" / "layer_curve.svg").is_file()


def test_the_table_shows_mean_and_deviation_over_seeds(raced: Path) -> None:
    (group,) = [row for row in result_of(raced)["seeds"] if row["selection"] == "layer 1"]
    found = group["metrics"]["test"]["accuracy"]
    text = table([raced], width=200)
    assert f"{found['mean']:.2f} ± {found['sd']:.2f}" in text and "±: standard deviation over seeds" in text
    assert "1337 to 1339" in text and "95 % interval" not in text
    assert entries([raced])[0].spreads["accuracy"] == (found["mean"], found["sd"], 3)
    head, row = (line.split(",") for line in table([raced], "csv").splitlines())
    cells = dict(zip(head, row, strict=True))
    assert float(cells["accuracy_mean"]) == found["mean"] and cells["accuracy_seeds"] == "3"
    assert "±" in table([raced], "html")


def test_the_same_command_gives_the_finished_grid(
    raced: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["--layers", "all", "--lr-grid", "1e-3,3e-2", "--seeds", "3", "-l", "1"]
    assert guarded(run_downstream, command(corpus, raced, *grid)) == 0
    assert "holds this run already" in capsys.readouterr().out
    assert guarded(run_downstream, command(corpus, raced, *grid[:-2])) == 2
    assert "holds a run with other settings" in capsys.readouterr().err


def test_settings_of_one_are_the_plain_run(corpus: Path, tmp_path: Path) -> None:
    def config_of(*flags: str) -> RunConfig:
        return validate(RunConfig, settings_of(parser().parse_args(command(corpus, tmp_path, *flags)))[0])

    one = config_of("--seeds", "1", "--lr-grid", "2e-3")
    assert not one.grid.many and numbers(one) == numbers(config_of("-o", "optimizer.lr=2e-3"))
    many = config_of("--lr-grid")
    assert many.grid.lrs == [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1]
    folders = [tmp_path / name for name in ("plain", "one")]
    for folder, flags in zip(folders, ([], ["--lr-grid", "1e-3"]), strict=True):
        assert guarded(run_downstream, command(corpus, folder, *flags)) == 0
    plain, grid = (result_of(folder) for folder in folders)
    assert "arms" not in grid and grid["metrics"] == plain["metrics"] and grid["history"] == plain["history"]
    assert (folders[0] / "model.safetensors").read_bytes() == (folders[1] / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("task", "flags", "code", "words"),
    [
        ("phone", ["--layers", "all", "-f"], 2, ("--layers all", "-f (--fine_tune)")),
        ("phone", ["--seeds", "2", "--probe", "ridge"], 2, ("--seeds", "--probe ridge")),
        ("phone", ["--lr-grid", "-o", "runner.precision=fp16"], 2, ("--lr-grid", "fp16")),
        ("phone", ["--lr-grid", "1e-3,fast"], 2, ("--lr-grid 1e-3,fast", "separated by commas")),
        ("phone", ["--lr-grid", "1e-3,0"], 2, ("grid.lrs", "greater than 0")),
        ("phone", ["--lr-grid", "1e-8,1e-3", "-o", "scheduler.name=polynomial"], 2, ("--lr-grid", "1e-07")),
        ("phone", ["--seeds", "0"], 2, ("grid.seeds",)),
        ("phone", ["--seeds", "2", "-i", "run"], 2, ("-i", "--seeds")),
        ("phone", ["-m", "evaluate", "-e", "run", "--seeds", "2"], 2, ("--seeds has no meaning with -m evaluate",)),
        ("speaker_verification", ["--seeds", "2"], 2, ("trains nothing", "--seeds")),
    ],
    ids=["fine-tuning", "probe", "fp16", "words", "zero", "polynomial", "no-seed", "init", "evaluate", "untrained"],
)  # fmt: skip
def test_what_a_grid_cannot_do_is_refused_by_name(
    task: str,
    flags: list[str],
    code: int,
    words: tuple[str, ...],
    corpus: Path,
    raced: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = [str(raced) if flag == "run" else flag for flag in flags]
    if task == "speaker_verification":
        (tmp_path / "trials.txt").write_text("1 spk00-04 spk00-09\n0 spk00-04 spk01-04\n")
        flags += ["-o", f"data.trials={tmp_path / 'trials.txt'}"]
    arguments = flags if "-m" in flags else command(corpus, tmp_path / "new", *flags, task=task)
    assert guarded(run_downstream, arguments) == code
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert not (tmp_path / "new" / "result.json").exists()


def test_a_grid_without_dev_chooses_no_rate(corpus: Path, tmp_path: Path) -> None:
    parts = prepared(grid_config(corpus))
    parts.items["dev"] = []
    with pytest.raises(Exception, match="--lr-grid chooses on dev"):
        runner.train(parts, RunFolder(tmp_path))
    parts = prepared(grid_config(corpus, grid={"layers": "all", "seeds": 2}))
    parts.items["dev"] = []
    raced = runner.train(parts, RunFolder(tmp_path))
    assert isinstance(raced, Raced) and {best.best_step for best in raced.bests} == {12} and len(raced.chosen) == 8


def test_a_dry_run_takes_all_arms_forwards_and_backwards(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded(run_downstream, command(corpus, tmp_path / "run", "--layers", "all", "--dry-run")) == 0
    assert "all parts fit together" in capsys.readouterr().out and not (tmp_path / "run").exists()


def test_an_upstream_of_one_layer_has_one_selection(corpus: Path, tmp_path: Path) -> None:
    arguments = ["-u", "fbank_no_cmvn", "-d", "speaker", "--data", str(corpus), *QUICK, "-p", str(tmp_path / "run")]
    assert guarded(run_downstream, [*arguments, "--layers", "all", "--no-cache"]) == 0
    result = result_of(tmp_path / "run")
    assert [arm["selection"] for arm in result["arms"]] == ["layer 0"] and not (
        tmp_path / "run/plots/layer_curve.svg"
    ).exists()


def test_the_error_of_float16_is_said_of_all_layers_whichever_was_asked_for(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert (
        guarded(run_downstream, command(corpus, folder, "--layers", "all", "-l", "1", "--cache-dtype", "float16")) == 0
    )
    error = result_of(folder)["features"]["error"]
    assert len(error) > 1 and all(0 <= value < 1e-3 for value in error.values())


STEP = Trainer._step
DRAWING = "specaug.time_width=10,,specaug.frequency_width=6"
CADENCE = f"runner.save_step=3,,runner.log_step=4,,runner.eval_step=7,,batch.size=2,,runner.total_steps=20,,{DRAWING}"


def test_a_grid_resumes_exactly_with_an_arm_that_diverged(corpus: Path, tmp_path: Path) -> None:
    def until(folder: Path, deaths: list[int]) -> tuple[Raced, dict[str, Any]]:
        for step in [*deaths, None]:
            parts = prepared(
                grid_config(corpus, CADENCE, "task.hidden=8", grid={"layers": "all", "seeds": 2, "lrs": [1e-2, 1e30]})
            )

            def deadly(trainer: Trainer, window: Any, step: int | None = step) -> None:
                if trainer.standing.step == step:
                    raise Died
                STEP(trainer, window)

            Trainer._step = deadly  # type: ignore[method-assign]
            try:
                raced = runner.train(parts, RunFolder(folder))
            except Died:
                continue
            finally:
                Trainer._step = STEP  # type: ignore[method-assign]
        state = Checkpoint(folder / "checkpoint").load()
        assert state is not None and isinstance(raced, Raced)
        return raced, state

    whole, state = until(tmp_path / "whole", [])
    again, resumed = until(tmp_path / "broken", [2, 8, 16])
    assert whole.bests == again.bests and whole.history == again.history and whole.chosen == again.chosen
    assert any(best.diverged for best in whole.bests) and not all(best.diverged for best in whole.bests)
    for name in state["module"]:
        assert torch.equal(state["module"][name].nan_to_num(7), resumed["module"][name].nan_to_num(7)), name
    for one, other in zip(whole.states, again.states, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_grid_killed_while_training_and_while_scoring_ends_as_an_undisturbed_one(
    kill: ModuleType, corpus: Path, tmp_path: Path
) -> None:
    more = ["--layers", "all", "--lr-grid", "1e-3,1e-2", "-o", f"{DRAWING},,runner.save_step=3"]
    arguments = ["run", *command(corpus, tmp_path / "unused", *more, task="speaker")]
    place = arguments.index("-p")
    arguments = arguments[:place] + arguments[place + 2 :]
    done, counts = kill.start(arguments, tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    for phase, share in (("training", 0.6), ("evaluation", 0.5), ("writing", 0.3)):
        done, _ = kill.start(arguments, tmp_path / "run", (phase, max(1, int(share * counts[phase] / 3))))
        assert done.returncode == -signal.SIGKILL, f"{phase}: {done.stderr}"
    done, _ = kill.start(arguments, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert kill.differences(tmp_path / "run", tmp_path / "whole") == []
