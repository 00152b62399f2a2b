"""Directories of transformers, found by their path or by a name on huggingface.co."""

from __future__ import annotations

import json
import shutil
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

import headwater
from headwater.checks import noises
from headwater.errors import DataError, UsageError
from headwater.hf.architectures import KINDS, config_of
from headwater.hf.files import read_encoder, write_directory
from headwater.hf.hub import locate
from headwater.hf.waveform import TransformersUpstream

DATA = ROOT / "tests/data/encoders"


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """The directory that `headwater convert` makes of a case, without what is ours in it."""
    encoder = read_encoder(DATA / "wav2vec2_large_ll60k.pt")
    write_directory(tmp_path / "model", "wav2vec2", encoder.settings, encoder.weights)
    from safetensors.torch import save_file

    save_file(encoder.weights, tmp_path / "model/model.safetensors", metadata={"format": "pt"})
    return tmp_path / "model"


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def same_as_the_file(found: Any) -> bool:
    """But for the epsilon of normalisation, in which fairseq and transformers differ."""
    wavs = noises(4, 5000)
    expected = headwater.load("wav2vec2_local", ckpt=str(DATA / "wav2vec2_large_ll60k.pt")).extract(wavs)
    return all(
        torch.allclose(a, b, atol=1e-2) for a, b in zip(found.extract(wavs).hidden_states, expected.hidden_states)
    )


def test_a_directory_loads_by_its_path_and_says_what_its_weights_are(folder: Path) -> None:
    model = headwater.load(f"hf:{folder}")
    assert isinstance(model, TransformersUpstream) and same_as_the_file(model)
    assert model.name == f"hf:{folder}" and model.settings.normalize == 1e-7
    assert len(model.weight_file["sha256"]) == 64
    twin = headwater.load(f"hf:{folder}", config={"random_weights": 1})
    assert twin.name == f"hf:{folder}:random" and not same_as_the_file(twin)
    assert same_as_the_file(headwater.load("wav2vec2_local", ckpt=str(folder)))
    assert same_as_the_file(headwater.load("hf_wav2vec2_custom", ckpt=str(folder)))


@pytest.mark.parametrize("form", ["bin", "sharded", "with a head", "weight norm of transformers 4", "half precision"])
def test_a_directory_may_have_other_forms(folder: Path, form: str) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    state = load_file(path)
    path.unlink()
    if form == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    elif form == "sharded":
        names = sorted(state)
        parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
        for file, held in parts.items():
            save_file({name: state[name] for name in held}, folder / file)
        index = {name: file for file, held in parts.items() for name in held}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    elif form == "with a head":
        save_file(
            {**{f"wav2vec2.{name}": value for name, value in state.items()}, "lm_head.weight": torch.ones(2)}, path
        )
    elif form == "weight norm of transformers 4":
        old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
        for new, name in old.items():
            state = {key.replace(new, name): value for key, value in state.items()}
        save_file(state, path)
    else:
        save_file({name: value.bfloat16() for name, value in state.items()}, path)
    model = headwater.load(f"hf:{folder}")
    assert isinstance(model, TransformersUpstream)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert form == "half precision" or same_as_the_file(model)
    assert model.unused == (("lm_head.weight",) if form == "with a head" else ())


def unlink(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (unlink("config.json"), r"config\.json: no such file"),
        (unlink("preprocessor_config.json"), r"preprocessor_config\.json is missing: it says whether waveforms are"),
        (unlink("model.safetensors"), r"no model\.safetensors or pytorch_model\.bin"),
        (lambda folder: (folder / "config.json").write_text("{"), "not readable as JSON"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "not a JSON object"),
        (lambda folder: rewrite(folder / "config.json", model_type="llama"), "'llama' is no speech encoder"),
        (lambda folder: rewrite(folder / "config.json", num_hidden_layers=2), r"has encoder\.layers\.2\."),
        (lambda folder: rewrite(folder / "config.json", num_hidden_layers=4), r"lacks encoder\.layers\.3\."),
        (lambda folder: rewrite(folder / "config.json", num_hidden_layers=10**9), "may be 1 to 1000"),
        (lambda folder: rewrite(folder / "config.json", hidden_size="big"), "describe no model"),
        (lambda folder: rewrite(folder / "config.json", hidden_size=10**9), "may be 1 to 100000"),
        (lambda folder: rewrite(folder / "config.json", num_attention_heads=-2), "num_attention_heads is -2"),
        (lambda folder: rewrite(folder / "config.json", conv_stride=[5, 0, 2, 2, 2, 2, 2]), r"conv_stride is \[5, 0"),
        (lambda folder: rewrite(folder / "config.json", conv_stride=[10**9] * 7), "may be 1 to 1000"),
        (
            lambda folder: rewrite(folder / "preprocessor_config.json", do_normalize="false"),
            r"preprocessor_config\.json.*do_normalize is 'false'; it is true or false",
        ),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"12345678{"), "not a whole safetensors file"),
    ],
)
def test_a_directory_that_is_not_whole_is_refused(folder: Path, change: Callable[[Path], Any], says: str) -> None:
    change(folder)
    with pytest.raises(DataError, match=says):
        headwater.load(f"hf:{folder}")


def test_shards_outside_the_directory_are_not_read(folder: Path) -> None:
    shutil.move(folder / "model.safetensors", folder.parent / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    with pytest.raises(DataError, match="names files outside its directory"):
        headwater.load(f"hf:{folder}")


def test_what_a_config_could_have_fetched_or_run_is_ignored(folder: Path) -> None:
    (folder / "modeling.py").write_text("raise SystemExit('was run')")
    rewrite(
        folder / "config.json",
        auto_map={"AutoModel": "modeling.Model", "AutoConfig": "modeling.Config"},
        attn_implementation="kernels-community/flash-attn",
        _attn_implementation="kernels-community/flash-attn",
        quantization_config={"quant_method": "bitsandbytes"},
    )
    model = headwater.load(f"hf:{folder}")
    assert isinstance(model, TransformersUpstream) and same_as_the_file(model)
    assert model.model.config._attn_implementation == "sdpa"


def test_normalisation_is_asked_for_only_where_nothing_says_it(folder: Path) -> None:
    with pytest.raises(UsageError, match="says otherwise"):
        headwater.load(f"hf:{folder}", config={"normalize": 0})
    (folder / "preprocessor_config.json").unlink()
    assert same_as_the_file(headwater.load(f"hf:{folder}", config={"normalize": 1e-7}))
    assert not same_as_the_file(headwater.load(f"hf:{folder}", config={"normalize": 0}))
    with pytest.raises(UsageError, match="says by itself"):
        headwater.load("hubert_local", ckpt=str(DATA / "hubert_base.pt"), config={"normalize": 0})


def test_what_does_not_say_whether_waveforms_are_normalised_means_what_it_does_in_transformers(folder: Path) -> None:
    from transformers import AutoFeatureExtractor

    said = json.loads((folder / "preprocessor_config.json").read_text())
    del said["do_normalize"]
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    assert AutoFeatureExtractor.from_pretrained(folder).do_normalize is True
    assert same_as_the_file(headwater.load(f"hf:{folder}"))


def test_the_settings_of_waveforms_may_be_those_of_a_processor(folder: Path) -> None:
    said = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": {**said, "do_normalize": False}}))
    assert not same_as_the_file(headwater.load(f"hf:{folder}"))
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": {**said, "do_normalize": True}}))
    assert same_as_the_file(headwater.load(f"hf:{folder}"))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"intermediate_size": -5}, "intermediate_size is -5"),
        ({"conv_kernel": [10, 0, 3, 3, 3, 2, 2]}, "conv_kernel"),
        ({"conv_dim": [16, 16]}, "settings of hubert"),
        ({"model_type": "wavlm", "max_bucket_distance": 0}, "max_bucket_distance is 0"),
        ({"model_type": "wavlm", "max_bucket_distance": 60}, "with 320 buckets it is above 80"),
    ],
)
def test_settings_that_describe_no_model_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        headwater.load("hubert", config={"random_weights": 0, "architecture": wrong})


def test_an_architecture_is_for_random_weights_alone(folder: Path) -> None:
    with pytest.raises(UsageError, match="has its own"):
        headwater.load(f"hf:{folder}", config={"architecture": {"hidden_size": 16}})
    with pytest.raises(UsageError, match="its architecture is known from its weights alone"):
        headwater.load("wav2vec2_base_s2st_es_voxpopuli", config={"random_weights": 0})
    with pytest.raises(UsageError, match="settings of hubert"):
        headwater.load("hubert", config={"random_weights": 0, "architecture": {"num_attention_heads": 7}})


@pytest.mark.parametrize("name", KINDS)
def test_every_known_model_has_its_class(name: str) -> None:
    config = config_of({"model_type": name, "auto_map": {"AutoModel": "x.Y"}})
    assert config.model_type == name and not hasattr(config, "auto_map")


# Names on huggingface.co.


def hub(**functions: Any) -> types.SimpleNamespace:
    """What stands for huggingface_hub."""

    def missing(*args: Any, **kwargs: Any) -> str:
        raise FileNotFoundError("not in the cache")

    return types.SimpleNamespace(**{"snapshot_download": missing, **functions})


def install(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", module)


def test_offline_the_error_says_what_to_fetch_and_how_to_give_it(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, hub())
    with pytest.raises(DataError) as caught:
        headwater.load("hf:facebook/hubert-base-ls960@abc123")
    said = str(caught.value)
    assert "HEADWATER_OFFLINE is set" in said
    assert "hf download facebook/hubert-base-ls960 --revision abc123 --local-dir hubert-base-ls960" in said
    assert "-u hf:hubert-base-ls960" in said


def test_without_huggingface_hub_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None)
    with pytest.raises(UsageError, match="pip install huggingface_hub"):
        locate("facebook/hubert-base-ls960")


def test_what_the_cache_holds_is_used_offline(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    asked: list[dict[str, Any]] = []

    def snapshot(repo: str, **how: Any) -> str:
        asked.append({"repo": repo, **how})
        return str(folder)

    install(monkeypatch, hub(snapshot_download=snapshot))
    model = headwater.load("hf:me/model@v2")
    assert same_as_the_file(model) and model.name == "hf:me/model@v2"
    assert asked == [{"repo": "me/model", "revision": "v2", "local_files_only": True}]
    assert model.weight_file["url"] == "https://huggingface.co/me/model/tree/model"


@pytest.mark.parametrize("names", [["model.safetensors", "pytorch_model.bin"], ["pytorch_model.bin"]])
def test_settings_and_weights_of_one_commit_are_fetched_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, folder: Path, names: list[str]
) -> None:
    fetched: list[dict[str, Any]] = []

    def snapshot(repo: str, *, local_files_only: bool = False, **how: Any) -> str:
        if local_files_only:
            raise FileNotFoundError
        fetched.append({"repo": repo, **how})
        return str(folder)

    files = [types.SimpleNamespace(rfilename=name) for name in ["config.json", "modeling.py", *names]]
    about = types.SimpleNamespace(sha="0123abc", siblings=files)
    api = types.SimpleNamespace(model_info=lambda repo, revision: about)
    install(monkeypatch, hub(snapshot_download=snapshot, HfApi=lambda: api))
    monkeypatch.setenv("HEADWATER_OFFLINE", "0")
    assert locate("me/model").folder == folder
    (how,) = fetched
    assert how["revision"] == "0123abc"
    assert ("pytorch_model.bin" in how["allow_patterns"]) == (names == ["pytorch_model.bin"])
    assert not any(pattern.endswith((".py", "*")) for pattern in how["allow_patterns"])


@pytest.mark.parametrize("missing", ["preprocessor_config.json", "a shard"])
def test_what_others_left_half_in_the_cache_is_completed_where_there_is_a_network(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path, missing: str
) -> None:
    half = tmp_path / "half"
    shutil.copytree(folder, half)
    if missing == "a shard":
        (half / "model.safetensors").unlink()
        weight_map = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
        (half / "model.safetensors.index.json").write_text(json.dumps(weight_map))
    else:
        (half / missing).unlink()

    def snapshot(repo: str, *, local_files_only: bool = False, **how: Any) -> str:
        return str(half if local_files_only else folder)

    def unreachable(repo: str, revision: str | None) -> Any:
        raise OSError("no network")

    files = [types.SimpleNamespace(rfilename="model.safetensors")]
    reachable = types.SimpleNamespace(
        model_info=lambda repo, revision: types.SimpleNamespace(sha="0123abc", siblings=files)
    )
    monkeypatch.setenv("HEADWATER_OFFLINE", "0")
    install(monkeypatch, hub(snapshot_download=snapshot, HfApi=lambda: reachable))
    assert locate("me/model").folder == folder
    install(monkeypatch, hub(snapshot_download=snapshot, HfApi=lambda: types.SimpleNamespace(model_info=unreachable)))
    assert locate("me/model").folder == half, "what is there, so that the error names what is missing"
    monkeypatch.setenv("HEADWATER_OFFLINE", "1")
    assert locate("me/model").folder == half


@pytest.mark.parametrize("source", ["nothing", "a/b/c", "../up/down", "org/../model", "https://huggingface.co/a/b", ""])
def test_what_is_neither_a_path_nor_a_name_is_refused(source: str) -> None:
    with pytest.raises(UsageError, match=r"neither a directory on this machine nor ORG/MODEL|unknown upstream"):
        headwater.load(f"hf:{source}")
