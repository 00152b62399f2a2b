"""Which weights a name means: the official ones, the small ones on the demo corpus, or a file of the user's; and that a result says which."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT
from corpora import make_corpus
from safetensors.torch import save_file

import headwater
from headwater.config import RunConfig
from headwater.download import standing
from headwater.errors import DataError, UsageError
from headwater.identity import anchored
from headwater.loading import find
from headwater.registry import add_plugin, upstreams
from headwater.settings import validate

Command = Callable[..., Any]
OFFICIAL = yaml.safe_load((ROOT / "tests/data/s3prl_checkpoints.yaml").read_text())
QUICK = ("-o", "runner.total_steps=2,,runner.eval_step=2")

EXPERT = """
import torch
from headwater.audio.frontends import build_frontend
from headwater.nn.lengths import zero_beyond
from headwater.nn.upstream import Upstream
from headwater.weights import read_safetensors

class Scale(Upstream):
    def __init__(self, random_weights=None):
        super().__init__(build_frontend({"input": {"feat_type": "mel"}}), (40,), ("scaled",))
        self.scale = torch.nn.Parameter(torch.zeros(40))

    @classmethod
    def from_card(cls, card, ckpt, config):
        model = cls(**config)
        if ckpt is not None:
            model.load_state_dict(read_safetensors(ckpt))
        return model

    def facts(self):
        return {"upstream": "scale"}

    def hidden_states(self, x, lengths):
        return (zero_beyond(x * self.scale, lengths),), lengths
"""
CARDS = """
scale:
  expert: Scale
  summary: mel bins, scaled
  aliases: [scale_960hr]
  demo: scale.demo
  weights: {url: "https://nowhere.invalid/big.safetensors", file: scale/big.safetensors}
scale.demo: {expert: Scale, summary: the small one, weights: {bundled: demo.safetensors}}
scale_local: {expert: Scale, summary: yours, needs_ckpt: true}
"""


def write_weights(path: Path, value: float, **header: str) -> Path:
    """A weight file of `Scale`, all of whose numbers are `value`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"headwater": json.dumps(header)} if header else None
    save_file({"scale": torch.full((40,), value)}, path, metadata)
    return path


@pytest.fixture()
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_registry: None) -> Path:
    """A family with official weights (5.0, in the cache once `have_official` is called), small ones (1.0), and a name for the user's."""
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "cards.yaml").write_text(CARDS)
    (folder / "expert.py").write_text(EXPERT)
    write_weights(folder / "demo.safetensors", 1.0)
    add_plugin(folder)
    return folder


def have_official(cache: Path) -> Path:
    return write_weights(cache / "weights" / "scale" / "big.safetensors", 5.0)


def scale_of(name: str, **arguments: Any) -> float:
    return float(headwater.load(name, **arguments).scale.detach().unique())


# --- names


def test_a_name_means_its_official_weights_or_an_error_that_says_what_to_do(plugin: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"(?s)nowhere\.invalid/big\.safetensors.*/cache/weights/scale/big\.safetensors.*-u scale\.demo"
    ):
        headwater.load("scale")
    file = have_official(tmp_path / "cache")
    assert scale_of("scale") == scale_of("scale_960hr") == 5.0
    assert headwater.load("scale").weight_file == {
        "name": "big.safetensors",
        "url": "https://nowhere.invalid/big.safetensors",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }


def test_official_weights_that_changed_are_not_used(plugin: Path, tmp_path: Path) -> None:
    have_official(tmp_path / "cache")
    headwater.load("scale")
    write_weights(tmp_path / "cache" / "weights" / "scale" / "big.safetensors", 6.0)
    with pytest.raises(DataError, match="when it first came"):
        headwater.load("scale")


def test_bundled_weights_lie_beside_the_card_and_are_missed_by_name(plugin: Path) -> None:
    assert scale_of("scale.demo") == 1.0
    (plugin / "demo.safetensors").unlink()
    with pytest.raises(DataError, match=r"mine/demo\.safetensors, which its card names, is missing"):
        headwater.load("scale.demo")


def test_a_file_of_the_users_goes_first_and_is_not_taken_for_the_official_model(plugin: Path, tmp_path: Path) -> None:
    file = write_weights(tmp_path / "states-1.safetensors", 3.0)
    model = headwater.load("scale", ckpt=str(file))
    assert (model.scale[0].item(), model.name, model.card.name) == (3.0, "scale:states-1", "scale:states-1")
    assert upstreams["scale"].name == "scale"


def test_random_weights_need_no_file_and_are_called_random(plugin: Path) -> None:
    assert headwater.load("scale", config={"random_weights": 0}).name == "scale:random"
    assert headwater.load("scale_local", config={"random_weights": 0}).name == "scale_local:random"


def test_a_name_for_files_of_the_users_needs_one(plugin: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'scale_local' needs a weight file: -k FILE"):
        headwater.load("scale_local")
    assert scale_of("scale_local", ckpt=str(write_weights(tmp_path / "x.safetensors", 2.0))) == 2.0


def test_a_url_for_a_weight_file_is_fetched(plugin: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)HEADWATER_OFFLINE.*https://nowhere\.invalid/mine\.ckpt.*by_address"):
        headwater.load("scale_local", ckpt="https://nowhere.invalid/mine.ckpt")


@pytest.mark.parametrize("place", ["runs/first", "runs/first/model.safetensors"])
def test_a_weight_file_names_its_upstream(plugin: Path, tmp_path: Path, place: str) -> None:
    write_weights(tmp_path / "runs/first/model.safetensors", 4.0, upstream="scale")
    model = headwater.load(f"ckpt:{tmp_path / place}")
    assert (model.scale[0].item(), model.name) == (4.0, "ckpt:first")


def test_a_checkpoint_that_names_no_upstream_says_how_to(plugin: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "states-1.ckpt"
    pickled.write_bytes(b"PK\x03\x04 and so on")
    plain = write_weights(tmp_path / "plain.safetensors", 1.0)
    for file in (pickled, plain):
        with pytest.raises(UsageError, match=rf"-u tera -k {file}"):
            headwater.load(f"ckpt:{file}")
    with pytest.raises(DataError, match="no such file"):
        headwater.load(f"ckpt:{tmp_path / 'nothing'}")
    with pytest.raises(UsageError, match="unknown upstream 'tara'"):
        headwater.load(f"ckpt:{write_weights(tmp_path / 'other.safetensors', 1.0, upstream='tara')}")


def test_paths_are_kept_in_full_and_addresses_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def kept(name: str, ckpt: str | None = None) -> tuple[str, str | None]:
        config = validate(RunConfig, {"upstream": {"name": name, "ckpt": ckpt}, "downstream": "phone"})
        upstream = anchored(config).upstream
        return upstream.name, upstream.ckpt

    assert kept("ckpt:runs/one") == (f"ckpt:{tmp_path}/runs/one", None)
    assert kept("tera", "one.ckpt") == ("tera", f"{tmp_path}/one.ckpt")
    assert kept("tera", "https://a.org/one.ckpt") == ("tera", "https://a.org/one.ckpt")
    assert kept("ckpt:https://a.org/one") == ("ckpt:https://a.org/one", None)


# --- runs


@pytest.fixture()
def corpus(tmp_path: Path) -> Path:
    return make_corpus(tmp_path / "corpus")


def result_of(folder: str) -> dict[str, Any]:
    return dict(json.loads((Path(folder) / "result.json").read_text()))


def only_run() -> Path:
    return next(Path("result/downstream").iterdir())


def test_on_the_demo_a_name_means_its_small_weights_and_says_so(command: Command, plugin: Path) -> None:
    answer = command("run", "-u", "scale_960hr", "-d", "speaker", "--plugin", plugin, "--limit", 2, *QUICK)
    assert answer.code == 0, answer.err
    line = (
        "scale_960hr: the small demo weights (scale.demo), as no --data was given; with --data it is the official model"
    )
    assert line in answer.out
    assert only_run().name.startswith("scale.demo-speaker-")
    assert result_of(str(only_run()))["upstream"]["name"] == "scale.demo"
    assert yaml.safe_load((only_run() / "config.yaml").read_text())["upstream"]["name"] == "scale.demo"


def test_with_data_it_means_the_official_ones_and_nothing_else(
    command: Command, plugin: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    line = ("run", "-u", "scale", "-d", "speaker", "--plugin", plugin, "--data", corpus, *QUICK)
    answer = command(*line)
    assert answer.code == 3
    assert "big.safetensors" in answer.err
    have_official(tmp_path / "cache")
    assert command(*line, "-p", "run").code == 0
    upstream = result_of("run")["upstream"]
    assert (upstream["name"], upstream["weights_file"]["url"]) == ("scale", "https://nowhere.invalid/big.safetensors")


def test_a_run_on_a_checkpoint_of_the_users_is_called_so_and_opens_again(
    command: Command, plugin: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_weights(Path("pretrained/first try/model.safetensors"), 4.0, upstream="scale")
    answer = command(
        "run", "-u", "ckpt:pretrained/first try", "-d", "speaker", "--plugin", plugin, "--data", corpus, *QUICK
    )
    assert answer.code == 0, answer.err
    run = only_run().resolve()
    assert run.name.startswith("ckpt-first-try-speaker-")
    assert result_of(str(run))["upstream"]["name"] == "ckpt:first try"
    monkeypatch.chdir(corpus.parent)
    assert command("run", "-m", "evaluate", "-e", run).code == 0
    shutil.move(tmp_path / "pretrained/first try/model.safetensors", "moved.safetensors")
    assert command("run", "-m", "evaluate", "-e", run).code == 3
    assert command("run", "-m", "evaluate", "-e", run, "-k", "moved.safetensors").code == 0
    write_weights(Path("moved.safetensors"), 3.0, upstream="scale")
    changed = command("run", "-m", "evaluate", "-e", run, "-k", "moved.safetensors")
    assert "has other weights now" in changed.err


def test_a_bundled_run_opens_without_the_weights_it_was_made_with(
    command: Command, plugin: Path, corpus: Path, tmp_path: Path
) -> None:
    file = write_weights(tmp_path / "states.safetensors", 3.0)
    line = ("run", "-u", "scale_local", "-k", file, "-d", "speaker", "--plugin", plugin, "--data", corpus, *QUICK)
    assert command(*line, "-p", "plain").code == 0
    assert command(*line, "-p", "bundled", "--bundle").code == 0
    file.unlink()
    assert command("run", "-m", "evaluate", "-e", "plain").code != 0
    answer = command("run", "-m", "evaluate", "-e", "bundled", "--out", "again.jsonl")
    assert answer.code == 0, answer.err
    assert Path("again.jsonl").read_bytes() == Path("bundled/scores/test.jsonl").read_bytes()


def test_one_weight_file_is_enough(command: Command, corpus: Path) -> None:
    answer = command("run", "-u", "ckpt:one", "-k", "two.safetensors", "-d", "speaker", "--data", corpus)
    assert (answer.code, "give one of them" in answer.err) == (2, True)


# --- the command line


def test_listing_says_how_weights_stand(
    command: Command, plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    said = command("ls", "upstreams").out
    assert "mel bins, scaled [to be downloaded]" in said
    assert "the small one [bundled]" in said
    assert "yours [yours (-k FILE)]" in said
    shown = command("show", "scale").out
    assert "to be downloaded: " in shown and "https://nowhere.invalid/big.safetensors" in shown
    have_official(tmp_path / "cache")
    assert "[in the cache]" in command("ls", "upstreams").out
    assert "40 dims" in command("show", "scale").out


def test_fetch_names_file_and_sha256_and_needs_the_network_only_once(
    command: Command, plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    assert command("fetch", "scale").code == 3
    file = have_official(tmp_path / "cache")
    answer = command("fetch", "scale", "scale.demo", "mel")
    assert answer.out.splitlines() == [
        f"scale: {file}, sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}",
        "scale.demo: nothing to download (bundled)",
        "mel: nothing to download (it has no weights)",
    ]
    assert command("fetch", "--refresh", "scale").code == 3
    assert command("run", "-r", "-u", "scale", "-d", "speaker", "--data", "x.csv").code == 3
    assert f"{tmp_path / 'cache' / 'weights'} (scale; HEADWATER_OFFLINE is set" in command("doctor").out


def test_the_hub_means_the_official_weights_and_refreshes_as_s3prls_does(plugin: Path, tmp_path: Path) -> None:
    have_official(tmp_path / "cache")
    assert torch.hub.load(str(ROOT), "scale", source="local").scale[0].item() == 5.0
    with pytest.raises(DataError, match="HEADWATER_OFFLINE"):
        torch.hub.load(str(ROOT), "scale", source="local", refresh=True)


# --- the cards


@pytest.mark.parametrize(("name", "url"), OFFICIAL.items())
def test_a_name_of_s3prl_leads_to_the_file_it_leads_to_there(name: str, url: str) -> None:
    weights = upstreams[name].weights
    assert weights is not None
    assert weights.url == url


def test_every_download_has_a_place_of_its_own() -> None:
    places = [card.weights.file for card in upstreams if card.weights is not None and card.weights.file]
    assert len(set(places)) == len(places) > 10


@pytest.mark.parametrize("family", ["mockingjay", "tera", "audio_albert"])
def test_a_family_has_an_official_a_small_and_an_open_name(family: str) -> None:
    small = upstreams[str(upstreams[family].demo)]
    assert (small.name, small.folder) == (f"{family}.demo", upstreams[family].folder)
    assert small.weights is not None and small.weights.bundled
    assert upstreams[f"{family}_url"] is upstreams[f"{family}_local"]
    assert standing(upstreams[f"{family}_local"]) == "yours (-k FILE)"


@pytest.mark.parametrize("name", [card.name for card in upstreams if card.weights and card.weights.parameters])
def test_a_card_counts_the_parameters_of_its_model(name: str) -> None:
    weights = upstreams[name].weights
    with torch.device("meta"):  # the largest would fill the memory
        model = headwater.load(name, config={"random_weights": 0}, device="meta")
    assert weights is not None
    assert sum(parameter.numel() for parameter in model.parameters()) == weights.parameters


def test_a_demo_card_must_be_there() -> None:
    assert all(card.demo is None or card.demo in upstreams.cards for card in upstreams)


def test_find_leaves_the_registry_as_it_was(plugin: Path, tmp_path: Path) -> None:
    find("scale", str(write_weights(tmp_path / "x.safetensors", 1.0)))
    assert upstreams["scale"].name == "scale"
