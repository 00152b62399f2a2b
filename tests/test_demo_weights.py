"""The small weights that come with Headwater: they are there, they are small, they say where they come from, and the demo runs on them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import ROOT

import headwater
from headwater.cli.run import main as run
from headwater.registry import upstreams
from headwater.weights import read_header

NAMES = [card.name for card in upstreams if card.name.endswith(".demo")]
LIMIT, ALTOGETHER = 7_000_000, 40_000_000  # bytes


def file_of(name: str) -> Path:
    weights = upstreams[name].weights
    assert weights is not None and weights.bundled is not None
    return upstreams[name].folder / weights.bundled


@pytest.mark.parametrize("name", NAMES)
def test_demo_weights_are_small_and_say_what_they_were_trained_on(name: str) -> None:
    file, card = file_of(name), upstreams[name]
    assert file.stat().st_size <= LIMIT
    facts = read_header(file)
    trained = upstreams[facts["upstream"]]
    assert (trained.folder, trained.expert) == (card.folder, card.expert)
    assert facts["trained_on"]["splits"]["train"]["seconds"] > 3600
    assert card.weights is not None and card.weights.licence and "CC BY 4.0" in card.weights.licence
    assert "test-other" not in str(facts)


def test_demo_weights_are_small_altogether() -> None:
    assert sum(file_of(name).stat().st_size for name in NAMES) <= ALTOGETHER


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_demo_weights_load_without_a_network_and_are_no_random_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_OFFLINE", "1")
    wav = torch.randn(16000, generator=torch.Generator().manual_seed(0)) / 10
    model = headwater.load(name)
    twin = headwater.load(name, config={"random_weights": 1})
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in twin.parameters())
    found, other = (each.extract([wav]).last_hidden_state for each in (model, twin))
    assert found.shape == other.shape
    # Frames of two unrelated networks point nowhere in common.
    assert float(torch.cosine_similarity(found, other, dim=-1).abs().mean()) < 0.5


@pytest.mark.parametrize("name", [card.name for card in upstreams if card.demo])
def test_on_the_demo_corpus_the_name_means_the_small_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["-u", name, "-d", "speaker", "--limit", "24", "-o", "runner.total_steps=5,,runner.eval_step=5"]) == 0
    small = upstreams[name].demo
    assert small in NAMES and small in capsys.readouterr().out
    assert list(tmp_path.glob(f"result/downstream/{small}-speaker-*/result.json"))


def test_no_other_file_of_the_repository_is_above_a_megabyte() -> None:
    demo = {file_of(name) for name in NAMES}
    folders = ("upstream", "downstream", "pretrain", "preprocess", "config", "headwater", "tests", "docs", "bench")
    large = [
        file
        for folder in folders
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and file.stat().st_size > 1_000_000 and file not in demo
    ]
    assert not large
