"""Wrong use of pretraining: the exit code, words that name the culprit, no traceback, and a folder that is what it was before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import soundfile
import torch
from conftest import ROOT
from corpora import make_corpus
from faults import AUDIO, FIRST, OTHER, USAGE, WRONG_DATA, command, tree, whole, write
from filelock import FileLock
from test_pretrain import TINY, result_of

BASE = ("pretrain", "-u", "tera", "--data", "csv/corpus.csv", "--device", "cpu", "-p", "run", "-o", TINY)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory with a corpus in it."""
    monkeypatch.chdir(tmp_path)
    make_corpus(Path("csv"), speakers=3, utterances=5)


def silence(samples: int) -> Callable[[], object]:
    def fault() -> None:
        for file in Path("csv").rglob("*.wav"):
            soundfile.write(file, torch.zeros(samples).numpy(), 16000)

    return fault


@dataclass(frozen=True)
class Row:
    """A fault: what is changed first, what is given besides, and how it ends."""

    name: str
    code: int
    words: tuple[str, ...]
    more: tuple[str, ...] = ()
    fault: Callable[[], object] = field(default=lambda: None)


ROWS = [
    Row("unknown objective", USAGE, ("unknown objective 'terra'", "tera"), ("-u", "terra")),
    Row("unknown recipe", USAGE, ("'base_960'", "base_960hr", "Recipes:"), ("-c", "base_960")),
    Row("a recipe of another", USAGE, ("large_360hr", "recipe of 'tera'"), ("-c", "large_360hr")),
    Row("no such file", USAGE, ("mine.yaml", "no such file"), ("-c", "mine.yaml")),
    Row("unknown setting", USAGE, ("model.task.mask_share", "mask_proportion"), ("-o", "model.task.mask_share=0.1")),
    Row(
        "unknown group", USAGE, ("pretraining", "Known here"), ("-c", "mine.yaml"), write("mine.yaml", "pretraining: 1")
    ),
    Row("no group", USAGE, ("'runner' is a group",), ("-c", "mine.yaml"), write("mine.yaml", "runner: 1")),
    Row(
        "nothing to alter",
        USAGE,
        ("alters nothing", "mask_proportion", "noise_proportion"),
        ("-o", "model.task.mask_proportion=0,,model.task.mask_frequency=0,,model.task.noise_proportion=0"),
    ),
    Row("sizes that do not fit", USAGE, ("num_attention_heads 3",), ("-o", "model.transformer.num_attention_heads=3")),
    Row("another front-end", USAGE, ("feat_type",), ("-o", "model.audio.input.feat_type=mels")),
    Row("no target", USAGE, ("model.audio.target", "5"), ("-o", "model.audio.target=5")),
    Row("an endless seed", USAGE, ("seed",), ("--seed", str(2**64))),
    Row("no level", USAGE, ("target_level",), ("-o", "model.audio.target_level=loud")),
    Row("no front-end", USAGE, ("audio is empty",), ("-o", "model.audio=null")),
    Row("other dims", USAGE, ("input_dim is 40", "80 dims"), ("-o", "model.transformer.input_dim=40")),
    Row("a model for reading", USAGE, ("downsample_rate",), ("-o", "model.transformer.downsample_rate=3")),
    Row("name and folder", USAGE, ("-n", "-p", "one of them"), ("-n", "mine")),
    Row("no run to go on with", USAGE, ("no run there",), ("-e", "nowhere")),
    Row("no data", USAGE, ("nowhere.csv",), ("--data", "nowhere.csv")),
    Row("no such column", WRONG_DATA, ("data.where", "sex"), ("-o", "data.where.sex=f")),
    Row("all too short", WRONG_DATA, ("corpus.csv", "too short to learn from"), fault=silence(160 * 22)),
    Row("crops too short", WRONG_DATA, ("corpus.csv", "too short to learn from"), ("-o", "crop_seconds=0.1")),
    Row("all left out", WRONG_DATA, ("no utterance is left", "min_seconds"), ("-o", "min_seconds=9")),
    Row("no device", USAGE, ("--device",), ("--device", "quantum")),
    Row("a foreign folder", USAGE, ("run holds other things", "letter"), fault=write("run/letter", "Dear")),
    Row("a dry run of it", WRONG_DATA, ("too short to learn from",), ("--dry-run", "-o", "crop_seconds=0.1")),
    *(
        Row(f"audio: {name}", WRONG_DATA, ("spk00-00.wav", *words), fault=lambda fault=fault: fault(FIRST["csv"]))  # type: ignore[misc]
        for name, (fault, words) in AUDIO.items()
        if name != "NaN"
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=[row.name.replace(" ", "-") for row in ROWS])
def test_wrong_use_ends_with_its_code_in_words_and_changes_nothing(row: Row) -> None:
    row.fault()
    before = tree()
    said = command(*BASE, *row.more)
    assert said.code == row.code, said
    assert [word for word in row.words if word not in said.err] == [], said.err
    assert "Traceback" not in said.out + said.err
    assert tree() == before


def test_without_a_name_the_objectives_are_listed() -> None:
    said = command("pretrain")
    assert said.code == USAGE and "objectives: apc, audio_albert, " in said.err


@pytest.mark.parametrize("fault", AUDIO)
def test_skip_bad_audio_goes_on_and_the_result_says_how_many(fault: str) -> None:
    AUDIO[fault][0](FIRST["csv"])
    said = command(*BASE, "--skip-bad-audio")
    assert said.code == 0, said.err
    result = result_of(Path("run"))
    assert [one["path"].endswith("spk00-00.wav") for one in result["data"]["skipped"]] == [True]
    assert any("1 broken file(s) skipped" in note for note in result["notes"])
    assert result["data"]["splits"]["train"]["utterances"] == 8


def test_what_shows_itself_only_in_training_is_named_and_leaves_nothing_half_written() -> None:
    file = Path(FIRST["csv"])
    good = file.read_bytes()
    AUDIO["NaN"][0](str(file))
    said = command(*BASE)
    assert said.code == WRONG_DATA and "spk00-00.wav" in said.err and "NaN" in said.err
    assert whole("run") and not Path("run/result.json").exists() and not Path("run/model.safetensors").exists()
    file.write_bytes(good)
    assert "data.sha256" in command(*BASE).err, "what was mended is other data"
    assert command(*BASE, "--fresh").code == 0


@pytest.mark.parametrize(
    ("level", "says"), [("optimizer.lr=1e30", "diverged"), ("model.transformer.initializer_range=1e30", "diverged")]
)
def test_a_diverged_run_has_no_number(level: str, says: str) -> None:
    said = command(*BASE, "-o", level)
    assert said.code == OTHER and says in said.err and "lower optimizer.lr" in said.err
    assert whole("run") and not Path("run/result.json").exists() and not Path("run/model.safetensors").exists()


def test_changed_settings_are_refused_with_the_difference() -> None:
    assert command(*BASE).code == 0
    before = tree()
    said = command(*BASE, "-o", "model.task.mask_proportion=0.2,,runner.log_step=3")
    assert said.code == USAGE
    assert "model.task.mask_proportion: 0.15 there, 0.2 now" in said.err and "log_step" not in said.err
    assert "--fresh" in said.err and tree() == before
    assert command(*BASE, "-o", "runner.log_step=3,,runner.save_step=2").code == 0, (
        "how often something is said is free"
    )
    said = command(*BASE, "-u", "mockingjay")
    assert "objective: 'tera' there, 'mockingjay' now" in said.err
    assert command(*BASE, "--fresh", "-o", "runner.total_steps=2").code == 0
    assert result_of(Path("run"))["steps"] == 2


def test_two_processes_cannot_write_one_run() -> None:
    assert command(*BASE).code == 0
    Path("run/result.json").unlink()
    with FileLock("run/.lock"):
        before = tree()
        said = command(*BASE)
        assert said.code == USAGE and "another process" in said.err
        assert tree() == before
    assert command(*BASE).code == 0


def test_a_dry_run_checks_all_and_writes_nothing() -> None:
    before = tree()
    said = command(*BASE, "--dry-run")
    assert said.code == 0 and "nothing was trained or written" in said.out and tree() == before


def test_a_run_is_called_after_its_objective_where_nothing_else_is_said() -> None:
    arguments = [word for word in BASE if word not in ("-p", "run")]
    assert command(*arguments).code == 0
    assert result_of(Path("result/pretrain/tera"))["status"] == "done"
    assert command(*arguments, "-n", "mine").code == 0
    assert command(*arguments, "-n", "../mine").code == USAGE
    assert sorted(path.name for path in Path("result/pretrain").iterdir()) == ["mine", "tera"]


def test_a_probe_in_the_place_of_a_pretraining_is_refused_by_name() -> None:
    probe = ("run", "-u", "fbank_no_cmvn", "-d", "speaker", "--data", "csv/corpus.csv", "--device", "cpu")
    assert command(*probe, "-p", "run", "-o", "runner.total_steps=2,,runner.eval_step=2").code == 0
    before = tree()
    said = command(*BASE)
    assert said.code == USAGE and "holds a run with other settings" in said.err and tree() == before
    said = command("table", "run", "run")
    assert command(*BASE, "-p", "pretrained").code == 0
    said = command("table", "run", "pretrained")
    assert said.code == WRONG_DATA and "pretrained" in said.err and "Traceback" not in said.err


def test_a_plugin_that_is_no_objective_is_named(fresh_registry: None) -> None:
    write("mine.py", "class MineObjective: pass\nclass Mine(MineObjective): pass\n")()
    said = command(*BASE, "--plugin", "mine.py", "-u", "Mine")
    assert said.code == USAGE and "'Mine'" in said.err and "no headwater Objective" in said.err


def test_every_flag_of_pretraining_is_in_the_documentation() -> None:
    import re

    from headwater.cli.pretrain import parser

    page = (ROOT / "docs" / "pretrain.md").read_text(encoding="utf-8")
    flags = {flag for action in parser()._actions for flag in action.option_strings}
    assert not [flag for flag in sorted(flags) if not re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", page)]


def test_another_source_of_a_plugin_is_another_pretraining(fresh_registry: None) -> None:
    source = "from headwater.mam.objective import MaskedReconstruction\n\n\nclass Mine(MaskedReconstruction):\n    upstream = 'tera'\n"
    Path("mine.py").write_text(source)
    front_end = "model.audio.input.feat_type=mel,,model.audio.input.log=true"
    arguments = (*BASE, "--plugin", "mine.py", "-u", "Mine", "-o", front_end, "-o", "runner.total_steps=1")
    said = command(*arguments)
    assert said.code == 0, said.err
    Path("mine.py").write_text(f"{source}    # another\n")
    said = command(*arguments)
    assert said.code == USAGE and "plugins" in said.err, said
