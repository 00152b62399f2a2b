"""`headwater analyze`: what it writes, what it says, how it ends."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Answer
from corpora import make_corpus
from test_tables import classification_rows, make_run

Command = Callable[..., Answer]
SIZES = ("hidden_size=24", "num_hidden_layers=2", "num_attention_heads=4", "intermediate_size=32")
SMALL = ",,".join(["upstream.config.random_weights=0", *(f"upstream.config.transformer.{size}" for size in SIZES)])
TERA = ("-u", "tera", "-o", SMALL)


def facts(folder: str) -> dict[str, Any]:
    found = json.loads((Path(folder) / "analysis.json").read_text())
    assert found["schema"] == 1 and (found["kind"] == "layers" or "torch" in found["versions"])
    return found


def table(file: str) -> list[dict[str, str]]:
    with open(file, newline="") as lines:
        return list(csv.DictReader(lines))


def names(folder: str) -> set[str]:
    return {file.name for file in Path(folder).iterdir()}


def rows(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "rows.jsonl").read_text().splitlines()]


def run_with(folder: Path, **upstream: Any) -> None:
    """A finished run whose result says this of its upstream."""
    make_run(folder, classification_rows())
    result = json.loads((folder / "result.json").read_text())
    result["upstream"].update(upstream)
    (folder / "result.json").write_text(json.dumps(result))


def test_lnsr_of_two_upstreams_on_the_demo(command: Command) -> None:
    answer = command("analyze", "lnsr", *TERA, "-u", "mockingjay", "--limit", 4)
    assert answer.code == 0, answer.err
    folder = "result/analysis/lnsr-tera-random+mockingjay-random"
    assert names(folder) == {"analysis.json", "lnsr.csv", "lnsr.svg", "rows.jsonl", "report.html"}
    found = facts(folder)
    assert found["perturbation"] == {"kind": "noise", "db": 20.0, "seed": 1337}
    assert [system["name"] for system in found["upstream"]] == ["tera:random", "mockingjay:random"]
    assert found["data"]["splits"]["test"]["utterances"] == 4
    assert any("this is the demo" in note for note in found["notes"])
    cells = table(f"{folder}/lnsr.csv")
    assert [cell["layer"] for cell in cells[:4]] == ["features", "input", "layer 1", "layer 2"]
    assert all(float(cell["low"]) <= float(cell["LNSR"]) <= float(cell["high"]) for cell in cells)
    assert [row["upstream"] for row in rows(folder)] == ["tera:random"] * 4 + ["mockingjay:random"] * 4
    # Both hear the same noise, through the same front-end.
    assert len({(row["id"], row["features"]) for row in rows(folder)}) == 4
    assert "tera:random" in answer.out and "report.html shows it" in answer.out
    page = (Path(folder) / "report.html").read_text()
    assert "white noise at 20 dB" in page and "data:image/svg+xml" in page


def test_the_same_command_gives_the_same_files_and_another_seed_another_answer(command: Command) -> None:
    asked = ("analyze", "lnsr", "-u", "fbank", "--limit", 2)
    for flags in (("-p", "a"), ("-p", "b"), ("-p", "c", "--seed", 2)):
        assert command(*asked, *flags).code == 0
    contents = [(Path(folder) / "lnsr.csv").read_bytes() for folder in "abc"]
    assert contents[0] == contents[1] != contents[2]
    assert command(*asked, "-p", "a").code == 0  # again into the same folder


def test_pairs_of_files(command: Command, tmp_path: Path) -> None:
    lines = make_corpus(tmp_path / "clean", "csv", speakers=2, utterances=2).read_text().splitlines()
    shutil.copytree(tmp_path / "clean" / "wav", tmp_path / "clean" / "attack")
    header, body = lines[0], [line.split(",") for line in lines[1:]]
    pairs = [f"{header},perturbed", *(",".join([*row, row[0].replace("wav/", "attack/", 1)]) for row in body)]
    (tmp_path / "clean" / "pairs.csv").write_text("\n".join(pairs) + "\n")
    asked = ("analyze", "lnsr", "-u", "fbank", "--pairs", "clean/pairs.csv", "--split", "train", "-p", "out")
    assert command(*asked).code == 0
    assert facts("out")["perturbation"] == {"kind": "pairs"}
    assert {row["features"] for row in rows("out")} == {0.0}
    shutil.copy(
        tmp_path / "clean" / "wav" / "spk01" / "spk01-00.wav", tmp_path / "clean" / "attack" / "spk00" / "spk00-00.wav"
    )
    answer = command(*asked)
    changed = {row["id"]: row["features"] > 0 for row in rows("out")}
    assert answer.code == 0 and changed == {"spk00-00": True, "spk00-01": False, "spk01-00": False, "spk01-01": False}
    assert "1 pair(s) differ in length" in answer.out
    (tmp_path / "clean" / "attack" / "spk00" / "spk00-00.wav").unlink()
    answer = command(*asked)
    assert answer.code == 3 and "attack/spk00/spk00-00.wav" in answer.err


def test_attention_heads(command: Command) -> None:
    answer = command("analyze", "attention", *TERA, "--limit", 2, "--max-seconds", 1)
    assert answer.code == 0, answer.err
    folder = "result/analysis/attention-tera-random"
    assert names(folder) == {
        "analysis.json",
        "attention.csv",
        "attention.png",
        "heads.svg",
        "rows.jsonl",
        "report.html",
    }
    found = facts(folder)
    assert [(head["id"], head["layer"], head["head"]) for head in found["heads"]] == [
        (number, number // 4 + 1, number % 4 + 1) for number in range(8)
    ]
    assert {head["category"] for head in found["heads"]} <= {"global", "vertical", "diagonal"}
    assert any("the first 1 s are examined" in note for note in found["notes"])
    cells = table(f"{folder}/attention.csv")
    assert [float(cell["globalness"]) for cell in cells] == [head["globalness"]["value"] for head in found["heads"]]
    assert len(rows(folder)) == 2 and "globalness_7" in rows(folder)[0]
    assert (Path(folder) / "attention.png").read_bytes().startswith(b"\x89PNG")


def test_layer_weights_of_runs(command: Command, tmp_path: Path) -> None:
    run_with(tmp_path / "one")
    run_with(tmp_path / "two", layer_weights=[0.1, 0.1, 0.8])
    answer = command("analyze", "layers", "one", "two", "one")
    assert answer.code == 0, answer.err
    folder = "result/analysis/layers-one+two"
    assert names(folder) == {"analysis.json", "layers.csv", "layers.svg", "report.html"}
    assert [run["weights"] for run in facts(folder)["runs"]] == [[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]
    assert [(cell["run"], cell["layer"], cell["weight"]) for cell in table(f"{folder}/layers.csv")][-1] == (
        "two",
        "block 2",
        "0.8",
    )
    assert "block 2" in answer.out and "0.8000" in answer.out


def test_a_run_of_one_hidden_state_has_no_layer_weights(command: Command, tmp_path: Path) -> None:
    run_with(tmp_path / "run", layer_names=["last"], layer_weights=[1.0])
    answer = command("analyze", "layers", "run")
    assert answer.code == 3 and "run has no layer weights" in answer.err and not Path("result").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        pytest.param(["lnsr"], 2, "-u", id="no upstream"),
        pytest.param([], 2, "KIND", id="no kind"),
        pytest.param(["layers"], 2, "RUN", id="no run"),
        pytest.param(["layers", "nowhere"], 3, "nowhere is not a folder", id="no such run"),
        pytest.param(["attention", "-u", "fbank", "--limit", "1"], 2, "fbank' has no attention maps", id="no maps"),
        pytest.param(["attention", "-u", "fbank", "-u", "mfcc"], 2, "one upstream at a time", id="two upstreams"),
        pytest.param(["attention", "-u", "fbank", "--max-seconds", "0"], 2, "--max-seconds 0", id="no seconds"),
        pytest.param(["attention", "-u", "fbank", "--max-seconds", "nan"], 2, "--max-seconds nan", id="nan seconds"),
        pytest.param(["lnsr", "-u", "fbank", "--snr", "nan"], 2, "--snr nan", id="nan"),
        pytest.param(["lnsr", "-u", "fbank", "--snr", "99999"], 2, "--snr 99999", id="out of range"),
        pytest.param(["lnsr", "-u", "fbnk"], 2, "fbank", id="near miss"),
        pytest.param(["lnsr", "-u", "fbank", "--gain", "3"], 2, "--gain has no meaning", id="gain of noise"),
        pytest.param(["lnsr", "-u", "fbank", "--perturb", "gain", "--snr", "3"], 2, "--snr has no", id="snr of gain"),
        pytest.param(["lnsr", "-u", "fbank", "--pairs", "a.csv", "--data", "b"], 2, "--data has no", id="two lists"),
        pytest.param(["lnsr", "-u", "fbank", "--pairs", "a.csv"], 2, "a.csv", id="no such list"),
        pytest.param(["lnsr", "-u", "fbank", "-o", "task.x=1"], 2, "-o task.x", id="setting of a task"),
        pytest.param(["lnsr", "-u", "fbank", "-o", "data.trials=x"], 2, "-o data.trials", id="setting of another task"),
        pytest.param(
            ["lnsr", "-u", "fbank", "-o", "data.limt=1"], 2, "'data.limt'. Did you mean 'limit'", id="misspelt setting"
        ),
        pytest.param(
            ["lnsr", "-u", "fbank", "-u", "mfcc", "-k", "x.pt"], 2, "-k is the weight file", id="one file, two"
        ),
        pytest.param(["lnsr", "-u", "fbank", "--split", "tset"], 3, "it has train, dev, test", id="no such split"),
        pytest.param(["lnsr", "-u", "fbank", "--limit", "0"], 2, "data.limit", id="limit"),
    ],
)
def test_wrong_use_is_explained_and_writes_nothing(
    command: Command, arguments: list[str], code: int, words: str
) -> None:
    answer = command("analyze", *arguments)
    assert (answer.code, words in answer.err) == (code, True), answer.err
    assert not Path("result").exists()


def test_a_folder_of_something_else_is_left_alone(command: Command, tmp_path: Path) -> None:
    make_run(tmp_path / "run", classification_rows())
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    answer = command("analyze", "layers", "run", "-p", "run")
    assert answer.code == 2 and "holds other things" in answer.err
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before


def test_noise_on_precomputed_features_is_refused(command: Command, tmp_path: Path) -> None:
    (tmp_path / "features.json").write_text(
        json.dumps({"kind": "fbank80", "dim": 80, "sample_rate": 16000, "stride": 160, "offset": 200})
    )
    generator = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", generator.standard_normal((50, 80)).astype(np.float32))
    np.save(tmp_path / "b.npy", 2 * np.load(tmp_path / "a.npy"))
    (tmp_path / "list.csv").write_text("path,perturbed\na.npy,b.npy\n")
    asked = ("analyze", "lnsr", "-u", "features")
    answer = command(*asked, "--data", "list.csv")
    assert answer.code == 2 and "give --pairs" in answer.err
    answer = command(*asked, "--pairs", "list.csv", "-p", "out")
    assert answer.code == 0, answer.err
    assert [row["features"] for row in rows("out")] == pytest.approx([1.0])
