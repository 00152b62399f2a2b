"""Two processes under torchrun find what one finds; only the first writes; a stop and a death on the way change nothing."""

from __future__ import annotations

import ast
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from corpora import make_corpus, make_labels
from ranks import two_processes

from headwater.cli.run import main
from headwater.results.files import read_rows
from headwater.train.checkpoint import Checkpoint
from headwater.weights import read_safetensors

PLUGIN = '''
import torch
from torch import nn

from headwater.audio.frontends import build_frontend
from headwater.nn.lengths import zero_beyond
from headwater.nn.upstream import Upstream


class RanksModel(Upstream):
    """Two layers, of which one is read: the other has no gradient."""

    def __init__(self):
        frontend = build_frontend({"kaldi": {"feat_type": "fbank", "fbank": {"num_mel_bins": 40}}})
        super().__init__(frontend, (8, 8), ("first", "second"))
        generator = torch.Generator().manual_seed(0)
        self.first, self.second = nn.Linear(40, 8), nn.Linear(8, 8)
        for parameter in self.parameters():
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)

    def hidden_states(self, x, lengths):
        first = zero_beyond(self.first(x), lengths)
        return (first, zero_beyond(self.second(first), lengths)), lengths
'''

# Without clipping, which would hide a gradient of the wrong size.
PHONE = (
    "runner.total_steps=12,,runner.eval_step=4,,runner.save_step=5,,runner.log_step=3,,optimizer.name=SGD,,optimizer.lr=0.05,,runner.gradient_clipping=1e9,,"
    "runner.gradient_accumulate_steps=2,,batch.size=3"
)
RANDOM = PHONE.replace("total_steps=12", "total_steps=18") + ",,specaug.time_width=8,,optimizer.name=AdamW"


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("ranks")
    corpus = make_corpus(folder, speakers=3, utterances=5, seconds=0.3)
    labels = make_labels(folder, speakers=3, utterances=5, seconds=0.3)
    (folder / "ranks_model.py").write_text(PLUGIN, encoding="utf-8")
    data = ["--data", str(corpus)]
    phone = ["-d", "phone", *data, "-o", f"data.labels={labels}"]
    return {
        "phone": ["-u", "fbank", *phone, "-o", PHONE],
        # Nine utterances by two: the last batch of an epoch holds one, and a window may hold it beside a full one.
        "small": ["-u", "fbank", "-d", "speaker_frame", *data, "-o", f"{PHONE},,batch.size=2"],
        "tuned": [
            "-u",
            "RanksModel",
            "--plugin",
            str(folder / "ranks_model.py"),
            *phone,
            "-f",
            "-l",
            "0",
            "-o",
            f"{PHONE},,optimizer.lr=0.005",
        ],
        "grid": [
            *("-u", "RanksModel", "--plugin", str(folder / "ranks_model.py"), *phone, "-o", PHONE),
            *("--layers", "all", "--lr-grid", "0.005,0.05"),
        ],
        "random": ["-u", "fbank", *phone, "-o", RANDOM],
    }


@pytest.fixture(scope="module")
def ranks(jobs: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folders of all jobs under two processes, started once."""
    ways = [{"stop": 4}, {"die": 14}, {}, {}]
    runs, said = two_processes("run", jobs, tmp_path_factory.mktemp("two"), "random", ways)
    assert said.stderr.count("stopped at step 6 of 18, all saved") == 2, "both stop when one is asked to"
    return runs


def result(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize("name", ["phone", "small", "tuned", "grid"])
def test_two_processes_find_what_one_finds(name: str, jobs: dict[str, list[str]], ranks: Path, tmp_path: Path) -> None:
    assert main([*jobs[name], "-p", str(tmp_path / "one")]) == 0
    one, two = result(tmp_path / "one"), result(ranks / name)
    assert one["metrics"] == two["metrics"] and one.get("arms") == two.get("arms")
    for ours, theirs in zip(one["history"], two["history"], strict=True):
        assert ours.keys() == theirs.keys() and ours["step"] == theirs["step"]
        assert ours.get("dev") == theirs.get("dev")
        assert ours.get("loss", 0.0) == pytest.approx(theirs.get("loss", 0.0), rel=1e-6)
    for split in ("dev", "test"):
        rows = [read_rows(folder / "scores" / f"{split}.jsonl") for folder in (tmp_path / "one", ranks / name)]
        assert rows[0] == rows[1] and len(rows[0]) == 3
    weights = [read_safetensors(folder / "model.safetensors") for folder in (tmp_path / "one", ranks / name)]
    for key in weights[0]:
        assert (weights[0][key] - weights[1][key]).abs().max() < 1e-5, key


def test_a_stop_and_a_death_under_two_processes_change_nothing(ranks: Path) -> None:
    whole, disturbed = result(ranks / "random"), result(ranks / "again")
    for key in ("history", "metrics", "best_step", "steps"):
        assert whole[key] == disturbed[key]
    assert len(whole["history"]) == 6 + 5
    files = [(ranks / name / "model.safetensors").read_bytes() for name in ("random", "again")]
    assert files[0] == files[1]
    states = [Checkpoint(ranks / name / "checkpoint").load() for name in ("random", "again")]
    assert states[0] is not None and states[1] is not None
    generators = [[rank["rng"]["cpu"].tolist() for rank in state["ranks"]] for state in states if state is not None]
    assert generators[0] == generators[1]
    assert generators[0][0] != generators[0][1], "ranks draw masks of their own"


def test_the_number_of_processes_is_part_of_what_a_run_is(
    jobs: dict[str, list[str]], ranks: Path, tmp_path: Path
) -> None:
    assert json.loads((ranks / "phone" / "identity.json").read_text())["ranks"] == 2
    with pytest.raises(Exception, match="ranks: 2 there, 1 now"):
        main([*jobs["phone"], "-p", str(ranks / "phone")])


def test_only_the_first_process_writes(ranks: Path) -> None:
    # The driver ends a second process that opens a file for writing below the run folders; here is what the first left.
    for folder in ranks.iterdir():
        files = [file for file in folder.rglob("*") if file.is_file()]
        starts = 3 if folder.name == "again" else 1
        assert sum(file.name.startswith("events.") for file in files) == starts
        assert not [file for file in files if file.name.endswith(".tmp")]
        assert (folder / "report.html").is_file()


SHARE = """
import torch
from torch import nn
from headwater.train.distributed import World

world = World(torch.device("cpu"))
frozen = nn.Parameter(torch.full((2,), float(world.rank)), requires_grad=False)
module = nn.Sequential(nn.BatchNorm1d(2), nn.ParameterList([frozen]), nn.Linear(2, 1, bias=False))
nn.init.constant_(module[2].weight, world.rank)
module[0](torch.randn(8, 2, generator=torch.Generator().manual_seed(world.rank)))
world.share(module)
print(repr({name: value.tolist() for name, value in module.state_dict().items()}), flush=True)
world.close()
"""


def test_statistics_of_batch_norm_are_those_of_the_first_process_where_dev_is_scored() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SHARE], env={**place, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for rank in range(2)
    ]
    first, second = (ast.literal_eval(process.communicate(timeout=120)[0]) for process in started)
    assert first["0.running_mean"] != [0.0, 0.0]
    trained = {name for name in first if first[name] != second[name]}
    assert trained == {"2.weight"}
