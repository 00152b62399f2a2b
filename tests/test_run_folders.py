"""A run's folder is enough to evaluate and to predict: moved, from any folder, with its plugin and weights, on other data, and never on other classes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from corpora import make_corpus, make_labels
from task_runs import QUICK, Command, result_of, short_phones, short_run
from test_contract import PLUGIN

import headwater
from headwater import registry
from headwater.audio import read
from headwater.results.files import read_rows


def test_a_run_folder_is_enough_to_score_and_predict(command: Command, tiny_corpus: Path, tmp_path: Path) -> None:
    assert command(*short_run("fbank_no_cmvn", "speaker", "--data", tiny_corpus, "-p", "run")).code == 0
    Path("run").rename(tmp_path / "moved")
    again = command("run", "-m", "evaluate", "-e", tmp_path / "moved", "--out", "again.jsonl")
    assert again.code == 0, again.err
    assert Path("again.jsonl").read_bytes() == (tmp_path / "moved/scores/test.jsonl").read_bytes()
    rows = {row["id"]: row["prediction"] for row in read_rows(tmp_path / "moved/scores/test.jsonl")}
    wavs = {file.stem: file for file in tiny_corpus.parent.rglob("*.wav") if file.stem in rows}
    answer = command("run", "-m", "predict", "-e", tmp_path / "moved", *wavs.values(), "--out", "answers.csv")
    assert answer.code == 0, answer.err
    with open("answers.csv", newline="") as file:
        assert {Path(row["id"]).stem: row["prediction"] for row in csv.DictReader(file)} == rows


def test_predictions_of_frames_say_their_time(command: Command, tiny_corpus: Path) -> None:
    labels = make_labels(tiny_corpus.parent)
    assert command(*short_phones("stft_mag", tiny_corpus, labels, "-p", "run")).code == 0
    wav = next(tiny_corpus.parent.rglob("*.wav"))
    answer = command("run", "-m", "predict", "-e", "run", wav)
    (row,) = [json.loads(line) for line in answer.out.splitlines()]
    assert (row["first_centre_s"], row["step_s"]) == (0.0, 0.02)
    assert len(row["prediction"]) == headwater.load("stft_mag").frames(len(read(wav)))


def test_a_plugin_is_copied_into_the_run(
    command: Command, tiny_corpus: Path, tmp_path: Path, fresh_registry: None
) -> None:
    plugin = tmp_path / "my_model.py"
    plugin.write_text(PLUGIN)
    answer = command(
        "run", "--plugin", plugin, "-u", "MyModel", "-d", "speaker", "--data", tiny_corpus, "-p", "run", *QUICK
    )
    assert answer.code == 0, answer.err
    assert result_of(Path("run"))["upstream"]["weights_sha256"]
    plugin.unlink()
    for kind in registry.registries.values():
        kind.cards.pop("MyModel", None)
    again = command("run", "-m", "evaluate", "-e", "run", "--out", "again.jsonl")
    assert again.code == 0, again.err
    assert Path("again.jsonl").read_bytes() == Path("run/scores/test.jsonl").read_bytes()


def test_bundled_weights_stand_in_for_those_that_are_gone(
    command: Command, tiny_corpus: Path, tmp_path: Path, fresh_registry: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / "my_model.py"
    plugin.write_text(
        "import os\n" + PLUGIN.replace("torch.manual_seed(1)", 'torch.manual_seed(int(os.environ["MY_SEED"]))')
    )
    monkeypatch.setenv("MY_SEED", "1")
    line = ("run", "--plugin", plugin, "-u", "MyModel", "-d", "speaker", "--data", tiny_corpus, *QUICK)
    assert command(*line, "-p", "plain").code == 0
    assert command(*line, "-p", "bundled", "--bundle").code == 0
    monkeypatch.setenv("MY_SEED", "2")
    assert command("run", "-m", "evaluate", "-e", "plain").code == 1
    answer = command("run", "-m", "evaluate", "-e", "bundled", "--out", "again.jsonl")
    assert answer.code == 0, answer.err
    assert Path("again.jsonl").read_bytes() == Path("bundled/scores/test.jsonl").read_bytes()


def test_a_run_is_opened_from_any_folder_and_on_a_corpus_laid_out_otherwise(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_corpus(tmp_path / "tree", "librispeech", speakers=3, utterances=5)
    ids = sorted(file.stem for file in tree.rglob("*.*") if file.suffix in (".flac", ".wav"))
    for split, start in (("train", 0), ("dev", 3), ("test", 4)):
        step = [name for number, name in enumerate(ids) if (number % 5 < 3 if start == 0 else number % 5 == start)]
        (tmp_path / f"{split}.txt").write_text("\n".join(step) + "\n")
    lists = ",,".join(f"data.{split}_list={split}.txt" for split in ("train", "dev", "test"))
    folder = tree.relative_to(tmp_path)
    done = command(*short_run("fbank_no_cmvn", "speaker", "--data", folder, "-o", lists, "-n", "one"))
    assert done.code == 0, done.err
    rows = [f"{file},{file.parent.parent.name},test" for file in tree.rglob("*.*") if file.stem in ids[:1]]
    (tmp_path / "other.csv").write_text("path,speaker,split\n" + "\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path / "tree")
    run = tmp_path / "result" / "downstream" / "one"
    for line in (
        ("-m", "evaluate", "-e", run),
        ("-m", "evaluate", "-e", run, "--data", tmp_path / "other.csv"),
        ("-c", run / "config.yaml", "--dry-run"),
        ("-e", run),
    ):
        said = command("run", *line)
        assert said.code == 0, said.err


@pytest.mark.parametrize("flag", [("-t", "dev"), ("--out", "scores.jsonl")])
def test_a_flag_of_evaluation_is_not_ignored_in_training(
    flag: tuple[str, str], command: Command, tiny_corpus: Path
) -> None:
    done = command("run", "-u", "fbank", "-d", "speaker", "--data", tiny_corpus, *flag)
    assert done.code == 2 and flag[0] in done.err


def test_another_corpus_without_splits_is_scored_whole(command: Command, tiny_corpus: Path, tmp_path: Path) -> None:
    assert command(*short_run("fbank_no_cmvn", "speaker", "--data", tiny_corpus, "-p", "run")).code == 0
    rows = list(csv.DictReader(tiny_corpus.read_text().splitlines()))
    lines = [f"{row['path']},{row['speaker']}" for row in rows]
    (tiny_corpus.parent / "unsplit.csv").write_text("\n".join(["path,speaker", *lines]) + "\n")
    answer = command(
        "run", "-m", "evaluate", "-e", "run", "--data", tiny_corpus.parent / "unsplit.csv", "--out", "all.jsonl"
    )
    assert answer.code == 0, answer.err
    assert len(read_rows(Path("all.jsonl"))) == len(rows)


def test_labels_of_other_classes_are_refused_in_evaluation(command: Command, tiny_corpus: Path) -> None:
    """The same numbers under other names would be scored as if they were the same phones."""
    labels = make_labels(tiny_corpus.parent)
    line = short_phones("mel", tiny_corpus, labels, "-p", "run")
    assert command(*line).code == 0
    names = (tiny_corpus.parent / "phone_classes.txt").read_text()
    (tiny_corpus.parent / "phone_classes.txt").write_text(names.replace("AA", "ZZ"))
    answer = command("run", "-m", "evaluate", "-e", "run")
    assert answer.code == 3
    assert "trained on" in answer.err
