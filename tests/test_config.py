"""Settings: typed, layered, and never evaluated; wrong ones are named with what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from headwater.cli.s3prl import translate_2020, translate_config
from headwater.config import Place, RunConfig, Section
from headwater.errors import UsageError
from headwater.identity import anchored, numbers, places
from headwater.settings import flatten, merge, parse_overrides, read_yaml, validate

LEAST = {"upstream": {"name": "fbank"}, "downstream": "speaker"}


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("optimizer.lr=1e-3", "optimizer.lr", 1e-3),
        ("config.optimizer.lr=1e-3", "optimizer.lr", 1e-3),
        ("args.seed=2", "seed", 2),
        ("runner.total_steps=10", "runner.total_steps", 10),
        ("optimizer.betas=[0.8, 0.9]", "optimizer.betas", [0.8, 0.9]),
        ("data.path=a=b.csv", "data.path", "a=b.csv"),
        ("data.resample=true", "data.resample", True),
        ("upstream.layer=-1", "upstream.layer", -1),
    ],
)
def test_overrides_are_yaml_values_under_dotted_keys(text: str, key: str, value: object) -> None:
    assert flatten(parse_overrides([text])) == {key: value}


def test_overrides_are_never_evaluated(tmp_path) -> None:  # type: ignore[no-untyped-def]
    target = tmp_path / "touched"
    settings = parse_overrides([f"data.path=__import__('os').system('touch {target}')"])
    assert isinstance(settings["data"]["path"], str)
    assert not target.exists()


def test_several_overrides_in_one_argument() -> None:
    assert parse_overrides(["a.b=1,,a.c=2", "d=3"]) == {"a": {"b": 1, "c": 2}, "d": 3}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"optimiser": {}}, "'optimizer'"),
        ({"optimizer": {"learning_rat": 1}}, "optimizer.learning_rat"),
        ({"runner": {"total_step": 1}}, "'total_steps'"),
        ({"runner": {"total_steps": "many"}}, "runner.total_steps"),
        ({"runner": {"total_steps": -1}}, "runner.total_steps"),
        ({"optimizer": {"name": "AdamX"}}, "optimizer.name"),
        ({"specaug": {"time_mask": 1}}, "'time_masks'"),
        ({"scheduler": {"name": "linear", "warmup_steps": 3, "warmup_ratio": 0.1}}, "not both"),
        ({"upstream": {}}, "upstream.name"),
    ],
)
def test_wrong_settings_are_named_in_full(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match="(?s)" + words.replace(".", r"\.")):
        validate(RunConfig, merge(LEAST, settings) if settings != {"upstream": {}} else {**LEAST, **settings})


def test_later_layers_win_and_no_layer_is_changed() -> None:
    low, high = {"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}
    assert merge(low, high) == {"a": {"b": 3, "c": 2}}
    assert low == {"a": {"b": 1, "c": 2}}


def test_yaml_numbers_need_no_dot_and_keys_stand_once(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "a.yaml"
    file.write_text("optimizer: {lr: 1e-3}\n")
    assert read_yaml(file) == {"optimizer": {"lr": 0.001}}
    file.write_text("seed: 1\nseed: 2\n")
    with pytest.raises(UsageError, match="twice"):
        read_yaml(file)
    file.write_text("!!python/object/apply:os.system ['true']\n")
    with pytest.raises(UsageError, match="not YAML"):
        read_yaml(file)


def test_yaml_anchors_may_be_merged(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "a.yaml"
    file.write_text("base: &base {lr: 1e-3, name: Adam}\noptimizer:\n  <<: *base\n  name: SGD\n")
    assert read_yaml(file)["optimizer"] == {"lr": 0.001, "name": "SGD"}


def test_what_changes_no_number_does_not_enter_the_identity() -> None:
    one = validate(
        RunConfig, merge(LEAST, {"data": {"path": "a"}, "runner": {"log_step": 1}, "store": {"memory_gib": 1}})
    )
    two = validate(RunConfig, merge(LEAST, {"data": {"path": "b"}, "runner": {"log_step": 9}}))
    three = validate(RunConfig, merge(LEAST, {"seed": 3}))
    assert numbers(one) == numbers(two)
    assert numbers(one) != numbers(three)


class Inner(Section):
    files: Place = None
    size: int = 1


class Own(Section):
    """The settings of a task that the core knows nothing of."""

    inner: Inner = Inner()
    folder: Place = None
    weights: str | None = None


def test_a_task_says_of_its_own_settings_which_are_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"inner": {"files": "a", "size": 2}, "folder": "https://a.org/b", "weights": "c.pt"}
    config = validate(RunConfig, merge(LEAST, {"task": given}))
    kept = {"task.inner.size": 2, "task.weights": "c.pt"}
    assert {key: value for key, value in numbers(config, task=Own).items() if key.startswith("task")} == kept
    assert {"task.inner.files", "task.folder"} == {name for name in places(config, task=Own) if name[:4] == "task"}
    full = anchored(config, task=Own).task
    assert full == {**given, "inner": {"files": str(tmp_path / "a"), "size": 2}}
    assert config.task == given
    assert anchored(validate(RunConfig, LEAST), task=Own).task == {}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--run=phone_linear --upstream=baseline", ["-d", "phone_linear", "-u", "baseline", "-s", "last_hidden_state"]),
        (
            "--run speaker_utterance --cpu",
            ["-d", "speaker_utterance", "--device", "cpu", "-u", "baseline", "-s", "last_hidden_state"],
        ),
        (
            "--run=phone_1hidden --upstream=mel --weighted_sum --name=x",
            ["-d", "phone_1hidden", "-u", "mel", "--weighted_sum", "-n", "x"],
        ),
        (
            "--run=speaker_frame --upstream=baseline --ckpt=a.ckpt",
            ["-d", "speaker_frame", "-u", "baseline", "-s", "last_hidden_state"],
        ),
    ],
)
def test_the_2020_command_line_is_understood(line: str, expected: list[str]) -> None:
    said, _ = translate_2020(line.split())
    pairs = " ".join(said).replace("--upstream ", "-u ")
    assert sorted(pairs.split()) == sorted(expected)


def test_an_unknown_2020_run_is_refused() -> None:
    with pytest.raises(UsageError, match="phone_linear"):
        translate_2020(["--run=phones"])


def test_an_s3prl_config_is_translated() -> None:
    """The shape of S3PRL's shipped config.yaml of a LibriSpeech probe."""
    theirs = {
        "runner": {
            "total_steps": 500000, "gradient_clipping": 1, "gradient_accumulate_steps": 1, "log_step": 5000, "eval_step": 10000,
            "save_step": 10000, "max_keep": 1, "eval_dataloaders": ["dev", "test"], "fp16": True,
        },
        "optimizer": {"name": "TorchOptim", "torch_optim_name": "Adam", "lr": 2.0e-4},
        "scheduler": {"name": "linear_schedule_with_warmup", "num_warmup_steps": 1400},
        "downstream_expert": {"datarc": {"file_path": "/corpus", "train_batch_size": 16, "num_workers": 8}, "modelrc": {"hidden_size": 3}},
    }  # fmt: skip
    ours, notes = translate_config(theirs)
    config = validate(RunConfig, merge(LEAST, ours))
    assert (config.optimizer.name, config.optimizer.lr, config.scheduler.warmup_steps) == ("Adam", 2e-4, 1400)
    assert (config.runner.total_steps, config.runner.precision, config.batch.size) == (500000, "fp16", 16)
    assert config.data.path == "/corpus"
    assert any("num_workers" in note for note in notes)
    assert any("max_keep" in note for note in notes)
