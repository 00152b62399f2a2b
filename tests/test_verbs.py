"""The command line around a run: verbs that tell, dry runs, tables and comparisons of runs, pooled folds, and the wheel that is installed."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from corpora import make_labels
from task_runs import Command, short_run

from headwater.results.files import read_rows


@pytest.mark.parametrize(
    "line", [["ls"], ["ls", "upstreams"], ["show", "fbank"], ["show", "phone"], ["doctor"], ["--help"], ["--version"]]
)
def test_verbs_answer(line: list[str], command: Command) -> None:
    answer = command(*line)
    assert answer.code == 0, answer.err
    assert answer.out.strip()


def test_check_names_what_holds(command: Command) -> None:
    answer = command("check", "upstream", "fbank")
    assert answer.code == 0
    assert "10 of 10" in answer.out


def test_a_dry_run_writes_nothing(command: Command, tiny_corpus: Path) -> None:
    before = set(Path().rglob("*"))
    answer = command(
        "run",
        "-u",
        "fbank",
        "-d",
        "phone",
        "--data",
        tiny_corpus,
        "-o",
        f"data.labels={make_labels(tiny_corpus.parent)}",
        "--dry-run",
    )
    assert answer.code == 0, answer.err
    assert {
        path for path in set(Path().rglob("*")) - before if path.name != "phones.txt" and "classes" not in path.name
    } == set()


def test_two_runs_make_a_table_and_a_comparison(command: Command, tiny_corpus: Path) -> None:
    for upstream in ("fbank_no_cmvn", "stft_mag"):
        assert command(*short_run(upstream, "speaker", "--data", tiny_corpus, "-p", upstream)).code == 0
    table = command("table", "fbank_no_cmvn", "stft_mag")
    assert table.code == 0, table.err
    assert "fbank_no_cmvn" in table.out
    assert command("table", "fbank_no_cmvn", "stft_mag", "--out", "t.csv").code == 0
    assert len(list(csv.DictReader(Path("t.csv").read_text().splitlines()))) == 2
    compared = command("compare", "fbank_no_cmvn", "stft_mag")
    assert compared.code == 0, compared.err
    assert "interval" in compared.out


def test_folds_pool_to_one_figure(command: Command, tiny_corpus: Path) -> None:
    rows = list(csv.DictReader(tiny_corpus.read_text().splitlines()))
    for fold in range(2):
        table = tiny_corpus.with_name(f"fold{fold}.csv")
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=["path", "speaker", "split"], extrasaction="ignore")
            writer.writeheader()
            for index, row in enumerate(rows):
                turn = (index + 2 * fold) % 5
                writer.writerow({**row, "split": "test" if turn in (0, 1) else "dev" if turn == 2 else "train"})
        assert command(*short_run("fbank_no_cmvn", "speaker", "--data", table, "-p", f"run{fold}")).code == 0
    rows_of = [read_rows(Path(f"run{fold}/scores/test.jsonl")) for fold in range(2)]
    answer = command("table", "--pool", "run0", "run1", "--format", "csv")
    assert answer.code == 0, answer.err
    pooled = next(csv.DictReader(answer.out.splitlines()))
    joined = [row for part in rows_of for row in part]
    assert float(pooled["accuracy"]) == pytest.approx(100 * np.mean([row["correct"] for row in joined]))


def test_the_wheel_installs_and_works_from_an_empty_folder(tmp_path: Path) -> None:
    """The wheel holds experts and recipes under one name; nothing of the clone is on the path."""
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv", "result", "__pycache__", "*cache*"))
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    shutil.rmtree(source)
    (tmp_path / "empty").mkdir()
    program = (
        "import sys; sys.argv = ['headwater', *sys.argv[1:]]; from headwater.cli.main import entry; sys.exit(entry())"
    )
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    for line in (["ls"], ["show", "fbank"], ["run", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *line],
            cwd=tmp_path / "empty",
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
