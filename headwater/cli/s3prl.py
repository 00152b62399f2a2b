"""S3PRL's words in ours: its command lines since 2020, and the keys of its configs. docs/from_s3prl.md is the same table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headwater.errors import UsageError

# v0.1 `--run` -> task
RUNS = {
    "phone_linear": "phone_linear",
    "phone_1hidden": "phone_1hidden",
    "phone_concat": "phone_concat",
    "speaker_frame": "speaker_frame",
    "speaker_utterance": "speaker_utterance",
}
# v0.1 flag -> flag; "" drops it
FLAGS_2020 = {
    "--name": "-n",
    "--ckpt": "-k",
    "--ckpdir": "-p",
    "--expdir": "-p",
    "--online_config": "-g",
    "--resume": "-e",
    "--config": "-c",
    "--input_dim": "",
    "--phone_set": "",
}
NO_EFFECT = "has no effect here"
# S3PRL runner keys that need no counterpart: only the best and the last checkpoint are kept, dev chooses and test is touched once.
DROPPED_RUNNER = {"max_keep", "eval_dataloaders", "train_dataloader", "evaluate_ratio"}
SCHEDULES = {
    "linear_schedule_with_warmup": "linear",
    "cosine_schedule_with_warmup": "cosine",
    "polynomial_decay_schedule_with_warmup": "polynomial",
    "noam_decay_schedule_with_warmup": "inverse_sqrt",
    "constant_decay_schedule_with_warmup": "constant_with_warmup",
}
WARMED_OPTIMIZERS = {"BertAdam_with_schedule", "AdamW_with_schedule"}
UNBOUNDED = 1e6  # seconds: the batches of S3PRL's pretraining are bounded by their size alone
DATA_KEYS = {
    "file_path": "path",
    "libri_root": "path",
    "data_root": "path",
    "phone_path": "labels",
    "train_list": "train_list",
    "test_list": "test_list",
}


def is_2020(arguments: Sequence[str]) -> bool:
    return any(argument == "--run" or argument.startswith("--run=") for argument in arguments)


def translate_2020(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """A v0.1 command line (`--run=phone_linear --upstream=baseline`) in today's words, and notes on what was changed."""
    translated: list[str] = []
    notes: list[str] = []
    words = [
        word
        for argument in arguments
        for word in (argument.split("=", 1) if argument.startswith("--") and "=" in argument else [argument])
    ]
    baseline = "--upstream" not in words or words[words.index("--upstream") + 1 : words.index("--upstream") + 2] == [
        "baseline"
    ]
    position = 0
    while position < len(words):
        word = words[position]
        if word == "--cpu":
            translated += ["--device", "cpu"]
        elif word in FLAGS_2020 or word == "--run":
            position += 1
            if position == len(words):
                raise UsageError(f"{word} needs a value")
            value = words[position]
            if word == "--run":
                if value not in RUNS:
                    raise UsageError(f"--run {value!r}: the 2020 command line had {', '.join(RUNS)}")
                translated += ["-d", RUNS[value]]
            elif word == "--ckpt" and baseline:
                notes.append(
                    "--ckpt is not needed for acoustic features and is ignored, as it was in 2020 but for its settings"
                )
            elif FLAGS_2020[word]:
                translated += [FLAGS_2020[word], value]
            else:
                notes.append(f"{word} {NO_EFFECT}: the data says it")
        else:
            translated.append(word)
        position += 1
    if "--upstream" not in words and "-u" not in words:
        translated += ["-u", "baseline"]
    if "--weighted_sum" not in words and not {"-s", "-l"} & set(words):
        translated += ["-s", "last_hidden_state"]
        notes.append("the 2020 command line reads the last layer unless --weighted_sum is given")
    return translated, notes


def translate_config(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """An S3PRL config (or overrides in its words) in ours, and notes on keys that were dropped. Settings already in our words stay as they are."""
    ours = {
        key: value
        for key, value in settings.items()
        if key not in ("downstream_expert", "runner", "optimizer", "scheduler")
    }
    notes: list[str] = []
    sections: dict[str, dict[str, Any]] = {
        name: dict(_group(settings.get(name), name)) for name in ("runner", "optimizer", "scheduler")
    }
    for key in sorted(DROPPED_RUNNER & set(sections["runner"])):
        del sections["runner"][key]
        notes.append(f"runner.{key} {NO_EFFECT}")
    if "fp16" in sections["runner"]:
        sections["runner"].setdefault("precision", "fp16" if sections["runner"].pop("fp16") else "fp32")
    _optimizer(sections, notes)
    schedule = sections["scheduler"].get("name")
    if isinstance(schedule, str) and schedule in SCHEDULES:
        sections["scheduler"]["name"] = SCHEDULES[schedule]
    if "num_warmup_steps" in sections["scheduler"]:
        sections["scheduler"]["warmup_steps"] = sections["scheduler"].pop("num_warmup_steps")
    sections["scheduler"].pop("num_training_steps", None)
    expert = _group(settings.get("downstream_expert"), "downstream_expert")
    _datarc(_group(expert.get("datarc"), "downstream_expert.datarc"), ours, notes)
    notes += [
        f"downstream_expert.{key} {NO_EFFECT}: the head is chosen by the task and `task.*`"
        for key in expert
        if key != "datarc"
    ]
    ours.update({name: section for name, section in sections.items() if section})
    return ours, notes


def is_pretraining(settings: Mapping[str, Any]) -> bool:
    """Whether this is S3PRL's config_runner.yaml."""
    return "pretrain_expert" in settings


def translate_pretraining(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """S3PRL's config_runner.yaml (or overrides in its words) in ours, and notes on keys that were dropped."""
    expert = _group(settings.get("pretrain_expert"), "pretrain_expert")
    runner = dict(_group(settings.get("runner"), "runner"))
    if "n_epochs" in runner:
        epochs = runner.pop("n_epochs")
        if isinstance(epochs, int) and epochs > 0:
            runner["epochs"] = epochs
    if expert and "save_step" in runner:
        runner.setdefault("eval_step", runner["save_step"])
    rest = {key: value for key, value in settings.items() if key not in ("pretrain_expert", "runner")}
    ours, notes = translate_config({**rest, **({"runner": runner} if runner else {})})
    for key, value in _group(expert.get("datarc"), "pretrain_expert.datarc").items():
        if key == "train_batch_size":
            ours["batch"] = {"size": value, "seconds": UNBOUNDED, **_group(ours.get("batch"), "batch")}
        elif key == "libri_root" and value:
            ours.setdefault("data", {}).setdefault("path", value)
        elif key == "max_timestep" and isinstance(value, int) and value:
            # Frames of 10 ms: at least so many where negative, at most where positive.
            ours.setdefault(*(("min_seconds", -value / 100) if value < 0 else ("crop_seconds", value / 100)))
            if value > 0:
                notes.append("pretrain_expert.datarc.max_timestep: longer utterances are cut to it here, not left out")
        else:
            notes.append(f"pretrain_expert.datarc.{key} {NO_EFFECT}: --data says what is trained on")
    return ours, notes


def _group(settings: Any, name: str) -> Mapping[str, Any]:
    """A section as it was given; empty where it was not. `UsageError` for a single value."""
    if settings is not None and not isinstance(settings, Mapping):
        raise UsageError(f"setting {name!r} is a group of settings (key: value), not {settings!r}")
    return settings or {}


def _optimizer(sections: dict[str, dict[str, Any]], notes: list[str]) -> None:
    optimizer = sections["optimizer"]
    if optimizer.get("name") == "TorchOptim":
        optimizer["name"] = optimizer.pop("torch_optim_name", "Adam")
    elif isinstance(optimizer.get("name"), str) and optimizer["name"] in WARMED_OPTIMIZERS:
        notes.append(
            f"optimizer {optimizer['name']} becomes AdamW with weight decay 0.01 and a linear schedule; docs/from_s3prl.md says what differs"
        )
        optimizer.update(name="AdamW", weight_decay=optimizer.get("weight_decay", 0.01))
        sections["scheduler"].setdefault("name", "linear")
        sections["scheduler"].setdefault("warmup_ratio", optimizer.pop("warmup_proportion", 0.07))


def _datarc(datarc: Mapping[str, Any], ours: dict[str, Any], notes: list[str]) -> None:
    for key, value in datarc.items():
        if key == "train_batch_size":
            ours.setdefault("batch", {}).setdefault("size", value)
        elif key in DATA_KEYS:
            ours.setdefault("data", {}).setdefault(DATA_KEYS[key], value)
        else:
            notes.append(f"downstream_expert.datarc.{key} {NO_EFFECT}")
