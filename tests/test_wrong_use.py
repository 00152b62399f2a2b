"""Wrong commands, settings, run folders and plugins: the exit code, words that name the culprit, no traceback, and a folder that is what it was before."""
# ruff: noqa: E501 - a table: each fault stands in one line

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faults import (
    DATA,
    FIRST,
    OTHER,
    USAGE,
    WRONG_DATA,
    Owned,
    Row,
    both,
    csv,
    cut,
    drop_line,
    nothing,
    refused,
    remove,
    replace,
    sound,
    train,
    with_nan,
    write,
)
from test_wrong_data import ROWS as DATA_ROWS

MODULE = """import torch
class Mine(torch.nn.Module):
    out_dim, frontend = 7, "fbank_no_cmvn"
    def forward(self, x):
        return x[:, :, :7]
"""
MINE = ("run", "--plugin", "mine.py", "-u", "Mine", "-d", "speaker", "--data", DATA["csv"], "-p", "result")


def plugin(name: str, code: int, words: tuple[str, ...], old: str, new: str) -> Row:
    """`MODULE` with one change."""
    assert old in MODULE
    return Row(f"plugin: {name}", MINE, code, words, write("mine.py", MODULE.replace(old, new)))


def spoil_metrics(file: str) -> None:
    result = json.loads(Path(file).read_text())
    result["metrics"]["test"] = {"accuracy": "good"}
    Path(file).write_text(json.dumps(result))


ROWS = [
    # names
    Row("unknown upstream", csv("-u", "fbnak"), USAGE, ("unknown upstream 'fbnak'", "Did you mean 'fbank'")),
    Row("unknown task", csv("-d", "speeker"), USAGE, ("unknown downstream 'speeker'", "Did you mean 'speaker'")),
    Row("no task", ("run", "-u", "fbank"), USAGE, ("-d TASK", "speaker_verification")),
    Row("no upstream", ("run", "-d", "phone"), USAGE, ("-u UPSTREAM", "fbank")),
    Row("unknown flag", csv("--upstraem"), USAGE, ("--upstraem",)),
    Row("unknown mode", csv("-m", "tarin"), USAGE, ("'tarin'", "evaluate")),
    Row("unknown verb", ("rnu",), USAGE, ("no verb 'rnu'", "Did you mean 'run'")),
    Row("nothing to show", ("show", "fbnak"), USAGE, ("'fbnak'", "Did you mean 'fbank'")),
    Row("nothing to check", ("check", "upstream", "fbnak"), USAGE, ("Did you mean 'fbank'",)),
    Row("nothing to pretrain", ("pretrain", "-u", "teraa"), USAGE, ("teraa",)),
    Row("table of no run", ("table", "csv"), WRONG_DATA, ("csv holds no result.json",)),
    Row("comparison with no run", ("compare", "run-speaker", "nix"), WRONG_DATA, ("nix is not a folder",), uses=("run-speaker",)),
    Row("comparison of two tasks", ("compare", "run-speaker", "run-speaker_verification"), WRONG_DATA, ("run-speaker",), uses=("run-speaker", "run-speaker_verification")),
    # settings
    Row("unknown key", csv("-o", "runner.total_step=5"), USAGE, ("'runner.total_step'", "Did you mean 'total_steps'")),
    Row("unknown section", csv("-o", "optimiser.lr=1"), USAGE, ("'optimiser'", "Did you mean 'optimizer'")),
    Row("unknown key of the task", csv("-o", "task.levle=frame"), USAGE, ("'task.levle'", "Did you mean 'level'")),
    Row("unknown key of the front-end", csv("-o", "upstream.config.kaldi.fbank.num_mel_bin=7"), USAGE, ("num_mel_bin", "num_mel_bins")),
    Row("word for a number", csv("-o", "runner.total_steps=many"), USAGE, ("'runner.total_steps'", "integer", "'many'")),
    Row("negative steps", csv("-o", "runner.total_steps=-5"), USAGE, ("'runner.total_steps'", "greater than or equal to 1", "-5")),
    Row("no epochs", csv("-o", "runner.epochs=0"), USAGE, ("'runner.epochs'",)),
    Row("rate of nothing", csv("-o", "optimizer.lr=0"), USAGE, ("'optimizer.lr'", "greater than 0")),
    Row("infinite rate", csv("-o", "optimizer.lr=.inf"), USAGE, ("'optimizer.lr'", "finite")),
    Row("rate that is no number", csv("-o", "optimizer.lr=.nan"), USAGE, ("'optimizer.lr'", "finite")),
    Row("betas above one", csv("-o", "optimizer.betas=[2, 3]"), USAGE, ("'optimizer.betas.0'", "less than 1")),
    Row("unknown optimiser", csv("-o", "optimizer.name=Adagrad"), USAGE, ("'optimizer.name'", "'AdamW'", "Adagrad")),
    Row("list for a name", csv("-o", "scheduler.name=[1]"), USAGE, ("'scheduler.name'",)),
    Row("group for a name", csv("-o", "optimizer.name={a: 1}"), USAGE, ("'optimizer.name'",)),
    Row("value for a group", csv("-o", "optimizer=5"), USAGE, ("'optimizer' is a group", "5")),
    Row("list for a group", csv("-o", "runner=[1]"), USAGE, ("'runner' is a group",)),
    Row("value for the data", csv("-o", "data=5"), USAGE, ("'data' is a group",)),
    Row("value for S3PRL's group", csv("-o", "downstream_expert.datarc=3"), USAGE, ("'downstream_expert.datarc' is a group",)),
    Row("polynomial from below its end", csv("-o", "scheduler.name=polynomial,,optimizer.lr=1e-8"), USAGE, ("polynomial", "optimizer.lr")),
    Row("two warm-ups", csv("-o", "scheduler.name=linear,,scheduler.warmup_steps=2,,scheduler.warmup_ratio=0.1"), USAGE, ("not both",)),
    Row("channel in words", csv("-o", "data.channel=left"), USAGE, ("'data.channel'", "mean", "'left'")),
    Row("channel below zero", csv("-o", "data.channel=-1"), USAGE, ("'data.channel'", "from 0")),
    Row("channel that is not there", csv("-o", "data.channel=3"), WRONG_DATA, ("1 channel(s)", "no channel 3")),
    Row("even context", train("phone", "csv", "-o", "task.context=2"), USAGE, ("'task.context'", "odd")),
    Row("override without =", csv("-o", "runner.total_steps"), USAGE, ("'runner.total_steps'", "key=value")),
    Row("override without key", csv("-o", "=5"), USAGE, ("key=value",)),
    Row("value given twice over", csv("-o", "runner.total_steps=1", "-o", "runner.total_steps.x=1"), USAGE, ("was given a value before",)),
    Row("negative seed", csv("--seed", "-1"), USAGE, ("'seed'", "-1")),
    Row("limit of nothing", csv("--limit", "0"), USAGE, ("'data.limit'", "0")),
    Row("YAML: missing", csv("-c", "nix.yaml"), USAGE, ("nix.yaml: no such file",)),
    Row("YAML: syntax", csv("-c", "my.yaml"), USAGE, ("my.yaml: not YAML", "line 2"), write("my.yaml", "runner:\n  total_steps: [1\n")),
    Row("YAML: key twice", csv("-c", "my.yaml"), USAGE, ("my.yaml", "'lr' stands here twice", "line 1"), write("my.yaml", "optimizer: {lr: 1, lr: 2}\n")),
    Row("YAML: a list", csv("-c", "my.yaml"), USAGE, ("my.yaml: holds list",), write("my.yaml", "- a\n")),
    Row("YAML: number as key", csv("-c", "my.yaml"), USAGE, ("'1'",), write("my.yaml", "1: 2\n")),
    Row("YAML: bottomless", csv("-c", "my.yaml"), USAGE, ("my.yaml",), write("my.yaml", "a: " + "[" * 3000 + "]" * 3000)),
    Row("YAML: Python objects", csv("-c", "my.yaml"), USAGE, ("my.yaml: not YAML", "python/object"), write("my.yaml", "seed: !!python/object/apply:os.system ['touch owned']\n")),
    Row("YAML: bytes", csv("-c", "my.yaml"), USAGE, ("my.yaml: not readable",), write("my.yaml", b"\xff\x00\x81")),
    Row("unknown recipe", csv("-v", "nix"), USAGE, ("'nix' is neither a YAML file nor a recipe of 'speaker'",)),
    Row("-g missing", csv("-g", "nix.yaml"), USAGE, ("nix.yaml: no such file",)),
    Row("-g of another kind", csv("-g", "my.yaml"), USAGE, ("nonsense",), write("my.yaml", "nonsense: 1\n")),
    Row("-n and -p", csv("-n", "a"), USAGE, ("-n", "-p", "give one")),
    Row("-n out of the folder", ("run", "-u", "fbank", "-d", "speaker", "--data", DATA["csv"], "-n", "../../owned"), USAGE, ("../../owned", "-p")),
    Row("-l beyond the layers", csv("-l", "7"), USAGE, ("no layer 7", "numbered 0 to 0")),
    Row("-l in words", csv("-l", "last"), USAGE, ("'last'",)),
    Row("-s unknown", csv("-s", "last"), USAGE, ("'last'", "last_hidden_state")),
    Row("--weighted_sum and -l", csv("--weighted_sum", "-l", "0"), USAGE, ("--weighted_sum", "-l", "one of them")),
    Row("--upstream_lr without -f", csv("--upstream_lr", "1e-4"), USAGE, ("--upstream_lr", "-f")),
    Row("freeze without -f", csv("-o", "upstream.freeze=[a]"), USAGE, ("upstream.freeze", "-f")),
    Row("freeze of nothing", csv("-f", "-o", "upstream.freeze=[encoder]"), USAGE, ("starts with 'encoder'",)),
    Row("-k where nothing is read", csv("-k", "weights.pt"), USAGE, ("takes no weight file", "weights.pt")),
    Row("unknown device", csv("--device", "tpu"), USAGE, ("'tpu'", "cpu")),
    Row("files to train on", csv("a.wav"), USAGE, ("a.wav", "--data")),
    Row("-i missing", csv("-i", "nix"), WRONG_DATA, ("nix: no such file",)),
    Row("-i of another task", csv("-i", "run-phone"), USAGE, ("-i run-phone", "do not fit", "head."), uses=("csv", "run-phone")),
    Row("-e no run", csv("-e", "csv"), USAGE, ("-e csv", "no run there")),
    Row("-e with a broken config", ("run", "-e", "run-speaker"), USAGE, ("-u UPSTREAM",), write("run-speaker/config.yaml", "upstream: 5\n"), ("run-speaker",)),
    # the result folder
    Row("-p is a file", csv("-p", DATA["csv"]), USAGE, ("corpus.csv is a file",)),
    Row("-p below a file", csv("-p", DATA["csv"] + "/run"), USAGE, ("corpus.csv",)),
    Row("-p with others' files", csv("-p", "csv"), USAGE, ("csv holds other things", "corpus.csv")),
    Row("-p with others' files of our names", csv("-p", "theirs"), USAGE, ("theirs holds other things", "checkpoint"), write("theirs/checkpoint/last.pt", "theirs")),
    Row("-p with another's config.yaml", csv("-p", "theirs"), USAGE, ("theirs holds other things", "config.yaml"), write("theirs/config.yaml", "theirs: 1\n")),
    Row("--fresh in another's folder", csv("-p", "theirs", "--fresh"), USAGE, ("theirs holds other things",), write("theirs/checkpoint/last.pt", "theirs")),
    Row("resume with another config", csv("-p", "run-speaker", "-o", "optimizer.lr=0.5"), USAGE, ("other settings", "optimizer.lr", "0.5 now", "--fresh"), uses=("csv", "run-speaker")),
    Row("resume with another upstream", csv("-p", "run-speaker", "-u", "mfcc"), USAGE, ("upstream.name", "'mfcc' now"), uses=("csv", "run-speaker")),
    Row("resume with other data", csv("-p", "run-speaker"), USAGE, ("other settings", "data.sha256"), drop_line("csv/corpus.csv", 1), ("csv", "run-speaker")),
    Row("resume with a broken identity", csv("-p", "run-speaker"), WRONG_DATA, ("identity.json", "not readable as JSON"), write("run-speaker/identity.json", "{"), ("csv", "run-speaker")),
    Row("finished, result cut off", csv("-p", "run-speaker"), WRONG_DATA, ("result.json",), lambda: cut("run-speaker/result.json"), ("csv", "run-speaker")),
    Row("finished, result empty", csv("-p", "run-speaker"), WRONG_DATA, ("result.json",), write("run-speaker/result.json", "{}"), ("csv", "run-speaker")),
    Row("finished, metrics in words", csv("-p", "run-speaker"), WRONG_DATA, ("result.json", "test"), lambda: spoil_metrics("run-speaker/result.json"), ("csv", "run-speaker")),
    # evaluate
    Row("evaluate nothing", ("run", "-m", "evaluate"), USAGE, ("-m evaluate needs -e",)),
    Row("evaluate no run", ("run", "-m", "evaluate", "-e", "csv"), USAGE, ("-e csv", "config.yaml")),
    Row("evaluate an unfinished run", ("run", "-m", "evaluate", "-e", "run-speaker"), USAGE, ("no finished run", "result.json"), remove("run-speaker/result.json"), ("csv", "run-speaker")),
    *(
        Row(f"evaluate: {name}", ("run", "-m", "evaluate", "-e", "run-speaker", *more), code, words, fault, ("csv", "run-speaker", "run-phone"))
        for name, code, words, fault, *more in (
            ("model.json missing", WRONG_DATA, ("model.json",), remove("run-speaker/model.json")),
            ("model.json cut off", WRONG_DATA, ("model.json", "not readable as JSON"), lambda: cut("run-speaker/model.json")),
            ("model.json of another schema", WRONG_DATA, ("model.json", "schema 9"), write("run-speaker/model.json", '{"schema": 9}')),
            ("model.json of other kinds", WRONG_DATA, ("model.json", "'task'"), write("run-speaker/model.json", '{"schema": 1, "upstream": {}, "task": 5, "plugins": []}')),
            ("model.json without classes", WRONG_DATA, ("model.json", "classes"), write("run-speaker/model.json", '{"schema": 1, "upstream": {}, "task": {"level": "utterance"}, "plugins": []}')),
            ("plugin outside the run", WRONG_DATA, ("model.json", "../evil.py", "outside"), both(write("evil.py", "open('owned', 'w')"), replace("run-speaker/model.json", '"plugins": []', '"plugins": ["../evil.py"]'))),
            ("weights missing", WRONG_DATA, ("model.safetensors",), remove("run-speaker/model.safetensors")),
            ("weights cut off", WRONG_DATA, ("model.safetensors", "not a whole"), lambda: cut("run-speaker/model.safetensors")),
            ("weights that are a pickle", WRONG_DATA, ("model.safetensors",), lambda: Path("run-speaker/model.safetensors").write_bytes(pickle.dumps(Owned()))),
            ("weights of another run", WRONG_DATA, ("model.safetensors", "head."), lambda: shutil.copy("run-phone/model.safetensors", "run-speaker/model.safetensors")),
            ("config broken", USAGE, ("config.yaml",), write("run-speaker/config.yaml", "a: [\n")),
            ("config with an unknown key", USAGE, ("'downstraem'", "Did you mean 'downstream'"), replace("run-speaker/config.yaml", "downstream:", "downstraem:")),
            ("another upstream", USAGE, ("-u", "run folder"), nothing, "-u", "mfcc"),
            ("another setting", USAGE, ("optimizer.lr", "keeps its settings"), nothing, "-o", "optimizer.lr=1"),
            ("another layer", USAGE, ("upstream.layer", "keeps its settings"), nothing, "-l", "0"),
            ("another name", USAGE, ("-n",), nothing, "-n", "x"),
            ("a file", USAGE, ("a.wav", "-m predict"), nothing, "a.wav"),
            ("unknown split", USAGE, ("-t tset", "test"), nothing, "-t", "tset"),
            ("missing data", USAGE, ("there is no data at nix",), nothing, "--data", "nix"),
            ("its corpus is gone", USAGE, ("there is no data at", "corpus.csv"), remove("csv")),
            ("speakers of others", WRONG_DATA, ("'stranger'", "training data"), replace("csv/corpus.csv", "spk00-04.wav,spk00", "spk00-04.wav,stranger")),
            ("NaN in its corpus", WRONG_DATA, ("spk00-04.wav", "NaN"), lambda: with_nan("csv/wav/spk00/spk00-04.wav")),
            ("weights for an upstream without", USAGE, ("takes no weight file",), nothing, "-k", "weights.pt"),
        )
    ),
    # predict
    Row("predict with nothing", ("run", "-m", "predict", "a.wav"), USAGE, ("-m predict needs -e",)),
    *(
        Row(f"predict: {name}", ("run", "-m", "predict", "-e", run, *files), code, words, fault, ("csv", run))
        for name, run, code, words, fault, *files in (
            ("no files", "run-speaker", USAGE, ("needs audio files",), nothing),
            ("missing file", "run-speaker", WRONG_DATA, ("nix.wav: no such file",), nothing, FIRST["csv"], "nix.wav"),
            ("folder without audio", "run-phone", WRONG_DATA, ("empty: no audio files",), lambda: Path("empty").mkdir(), "empty"),
            ("text", "run-phone", WRONG_DATA, ("phones.txt cannot be read as audio",), nothing, "csv/phones.txt"),
            ("NaN", "run-speaker", WRONG_DATA, ("spk00-00.wav", "NaN", "--skip-bad-audio"), lambda: with_nan(FIRST["csv"]), "csv/wav"),
            ("cut off", "run-speaker_verification", WRONG_DATA, ("spk00-00.wav", "truncated"), lambda: cut(FIRST["csv"]), FIRST["csv"]),
            ("8 kHz", "run-speaker", WRONG_DATA, ("spk00-00.wav", "8000 Hz", "data.resample=true"), lambda: sound(FIRST["csv"], np.ones(99), 8000), FIRST["csv"]),
            ("output of another kind", "run-speaker", USAGE, ("--out answers.txt", ".jsonl or .csv"), nothing, FIRST["csv"], "--out", "answers.txt"),
            ("output below a file", "run-speaker", OTHER, ("answers.csv", "cannot be written"), nothing, FIRST["csv"], "--out", "csv/corpus.csv/answers.csv"),
            ("another setting", "run-speaker", USAGE, ("task.level", "keeps its settings"), nothing, FIRST["csv"], "-o", "task.level=frame"),
            ("another seed", "run-speaker", USAGE, ("seed", "keeps its settings"), nothing, FIRST["csv"], "--seed", "2"),
        )
    ),
    # plugins
    Row("plugin: missing", (*MINE, "--plugin", "nix.py"), USAGE, ("nix.py", "neither a Python file nor a folder"), write("mine.py", MODULE)),
    Row("plugin: folder without cards", ("run", "--plugin", "csv", *MINE[3:]), USAGE, ("csv", "no cards.yaml")),
    Row("plugin: card that is no card", ("run", "--plugin", "mine", *MINE[3:]), USAGE, ("cards.yaml", "'Mine'", "expert"), write("mine/cards.yaml", "Mine: {summary: a}\n")),
    Row("plugin: card without its module", ("run", "--plugin", "mine", *MINE[3:]), USAGE, ("expert.py is missing",), write("mine/cards.yaml", "Mine: {summary: a, expert: Mine}\n")),
    Row("plugin: card without its class", ("run", "--plugin", "mine", *MINE[3:]), USAGE, ("no class 'Mine'",), both(write("mine/cards.yaml", "Mine: {summary: a, expert: Mine}\n"), write("mine/expert.py", ""))),
    Row("plugin: zero bytes", MINE, USAGE, ("mine.py", "not a Python file"), write("mine.py", "a = 1\0")),
    Row("plugin: no class", MINE, USAGE, ("mine.py", "no class"), write("mine.py", "a = 1\n")),
    Row("plugin: near miss", (*MINE, "-u", "mine"), USAGE, ("Did you mean 'Mine'",), write("mine.py", MODULE)),
    Row("plugin: weights", (*MINE, "-k", "a.pt"), USAGE, ("takes no weight file",), write("mine.py", MODULE)),
    Row("plugin: unknown setting", (*MINE, "-o", "upstream.config.size=3"), USAGE, ("Mine(size) failed", "size"), write("mine.py", MODULE)),
    Row("plugin: upstream as a task", (*MINE, "-d", "Mine"), USAGE, ("unknown downstream 'Mine'",), write("mine.py", MODULE)),
    plugin("syntax", USAGE, ("mine.py", "not a Python file", "line 5"), "return x", "return return x"),
    plugin("exception at import", USAGE, ("mine.py:1", "ZeroDivisionError"), "import torch", "import torch; 1 / 0"),
    plugin("exit at import", USAGE, ("mine.py:1", "SystemExit"), "import torch", "import torch, sys; sys.exit(0)"),
    plugin("module that is not installed", USAGE, ("No module named 'nix'",), "import torch", "import torch, nix"),
    plugin("exception in the constructor", USAGE, ("Mine() failed", "ValueError: no luck", "mine.py:5"), "    def forward(self, x):\n", "    def __init__(self):\n        raise ValueError('no luck')\n    def forward(self, x):\n"),
    plugin("exception in forward", USAGE, ("Mine.forward failed", "ZeroDivisionError", "mine.py:5"), "return x[:, :, :7]", "1 / 0"),
    plugin("no out_dim", USAGE, ("Mine", "`out_dim`"), "out_dim, ", "width, "),
    plugin("out_dim in words", USAGE, ("Mine", "`out_dim`", "'7'"), "= 7, ", "= '7', "),
    plugin("wrong shape", USAGE, ("Mine.forward gave", "7)"), ":7]", ":6]"),
    plugin("fewer frames", USAGE, ("Mine.forward gave", "7)"), "x[:, :, :7]", "x[:, ::2, :7]"),
    plugin("a list instead of a tensor", USAGE, ("Mine.forward gave list",), "x[:, :, :7]", "[x]"),
    plugin("no front-end", USAGE, ("names no front-end", "frontend"), '= 7, "fbank_no_cmvn"', "= 7, None"),
    plugin("unknown front-end", USAGE, ("'fbnak'", "Did you mean 'fbank'"), "fbank_no_cmvn", "fbnak"),
    plugin("no module", USAGE, ("neither a headwater Upstream nor an nn.Module",), "(torch.nn.Module)", ""),
    plugin("a name that is taken", USAGE, ("'mfcc' is registered twice", "mine.py"), "class Mine", "class mfcc"),
    plugin("NaN features", OTHER, ("NaN",), "x[:, :, :7]", "x[:, :, :7] * float('nan')"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[row.name.replace(" ", "-") for row in ROWS])
def test_wrong_use_ends_with_its_code_in_words_and_changes_nothing(row: Row, place: Callable[..., None]) -> None:
    refused(row, place)


def test_every_row_has_a_name_of_its_own() -> None:
    assert len({row.name for row in [*DATA_ROWS, *ROWS]}) == len(DATA_ROWS) + len(ROWS)
