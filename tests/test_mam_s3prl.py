"""S3PRL's files of every generation: the same hidden states as the original code, refused where they do not fit, and written back."""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from acoustic import KINDS, same, small, states_of
from conftest import ROOT
from torch import Tensor
from torch.nn import functional

import headwater
from headwater.errors import DataError, UsageError
from headwater.mam import s3prl
from headwater.mam.model import MaskedAcousticModel, read_weights
from headwater.mam.settings import build_head, build_transformer, input_dim_of

DATA = ROOT / "tests/data/s3prl"
BUNDLED = {
    "tera_chunked": ("HEAD", "wav"),
    "tera_preln": ("HEAD", "wav"),
    "tera_v01": ("v0.1", "fmllr"),
    "tera_v01_preln": ("v0.1", "fmllr"),
    "audio_albert_v01_dr3": ("v0.1", "mel160"),
}
SHARED_CASES = {
    "mockingjay": "HEAD",
    "mockingjay_fbank240": "HEAD",
    "tera": "HEAD",
    "tera_preln": "HEAD",
    "tera_chunked": "HEAD",
    "audio_albert": "HEAD",
    "tera_legacy": "2021",
    "tera_v01": "v0.1",
    "tera_v01_preln": "v0.1",
    "tera_v01_chunked": "v0.1",
    "tera_v01_online": "v0.1",
    "mockingjay_v01_dr3": "v0.1",
    "audio_albert_v01_dr3": "v0.1",
}
TOLERANCE = 1e-4


def stored() -> dict[str, Any]:
    arrays = np.load(DATA / "models.npz")
    return {"wav": np.load(DATA / "frontends.npz")["wav"], **{name: arrays[name] for name in arrays}}


def load(path: Path) -> MaskedAcousticModel:
    model = headwater.load("tera", ckpt=str(path))
    assert isinstance(model, MaskedAcousticModel)
    return model


@torch.no_grad()
def states(model: MaskedAcousticModel, *inputs: Any) -> list[np.ndarray]:
    """(states, frames, dim) of each input, all in one batch."""
    features = model.extract([torch.as_tensor(x) for x in inputs])
    stacked = torch.stack(features.hidden_states).numpy()
    return [stacked[:, row, :length] for row, length in enumerate(features.lengths.tolist())]


def assert_close(ours: np.ndarray, theirs: np.ndarray, tolerance: float = TOLERANCE) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance


@pytest.mark.parametrize("case", BUNDLED)
def test_hidden_states_are_those_of_s3prl(case: str) -> None:
    generation, source = BUNDLED[case]
    expected, path = stored(), DATA / f"{case}.ckpt"
    model = load(path)
    assert read_weights(path).generation == generation
    assert_close(states(model, expected[source])[0], expected[f"{case}.states"])
    if f"{case}.input" in expected:
        x, _ = model.inputs([torch.from_numpy(expected[source])])
        assert_close(x[0].numpy(), expected[f"{case}.input"])


@pytest.mark.parametrize("case", SHARED_CASES)
def test_every_utterance_of_a_batch_is_what_s3prl_gives_for_it_alone(case: str, shared: Path) -> None:
    folder = shared / "parity/s3prl" / case
    config = json.loads((folder / "config.json").read_text())
    path = folder / config["checkpoint"]
    arrays, expected = np.load(folder / config["input"]["file"]), np.load(folder / "expected.npz")
    inputs = [arrays[key] for key in config["input"]["keys"]]
    model = load(path)
    assert read_weights(path).generation == SHARED_CASES[case]
    for i, together in enumerate(states(model, *inputs)):
        (alone,) = states(model, inputs[i])
        assert_close(alone, expected[f"single_{i}"])
        assert_close(together, expected[f"single_{i}"])
        for a, b in zip(alone, together):
            assert np.abs(a - b).max() <= 1e-5 * np.sqrt(np.square(a).mean())
        if f"input_feature_{i}" in expected:
            x, _ = model.inputs([torch.from_numpy(inputs[i])])
            assert_close(x[0].numpy(), expected[f"input_feature_{i}"])


def test_the_2021_code_gave_the_same_for_an_utterance_alone(shared: Path) -> None:
    folder = shared / "parity/s3prl/tera_legacy"
    model = load(folder / "states-1000000.ckpt")
    wavs, expected = np.load(shared / "parity/s3prl/input.npz"), np.load(folder / "expected_2021_code.npz")
    for i in range(3):
        assert_close(states(model, wavs[f"wav{i}"])[0], expected[f"single_{i}"])


def assert_step(path: Path, step: dict[str, Any]) -> None:
    weights = read_weights(path)
    assert weights.head is not None
    transformer = build_transformer(weights.settings, input_dim_of(weights.settings)).eval()
    head = build_head(weights.settings, len(weights.head["output.bias"]))
    transformer.load_state_dict(weights.transformer)
    head.load_state_dict(weights.head)
    lengths = torch.from_numpy(step["attention_mask"]).sum(1).long()
    target, labelled = torch.from_numpy(step["spec_target"]), torch.from_numpy(step["mask_label"]).bool()
    with torch.no_grad():
        predicted = head(transformer.last(torch.from_numpy(step["spec_masked"]), lengths))
    for row, length in enumerate(lengths.tolist()):
        assert_close(predicted[row, :length].numpy(), step["pred_spec"][row, :length])
    for name, loss in (("loss_L1", functional.l1_loss), ("loss_MSE", functional.mse_loss)):
        assert float(loss(predicted[labelled], target[labelled])) == pytest.approx(float(step[name]), rel=1e-5)


def test_prediction_and_losses_of_a_pretraining_step_are_those_of_s3prl() -> None:
    step = {key.removeprefix("step."): value for key, value in stored().items() if key.startswith("step.")}
    assert_step(DATA / "tera_preln.ckpt", step)


@pytest.mark.parametrize("case", ["mockingjay", "tera", "tera_preln", "audio_albert"])
def test_prediction_and_losses_are_those_of_s3prl_in_every_case(case: str, shared: Path) -> None:
    folder = shared / "parity/s3prl" / case
    arrays = np.load(folder / "pretrain_step.npz")
    assert_step(next(folder.glob("*.ckpt")), {name: arrays[name] for name in arrays})


# Other layouts of the same weights.


@pytest.fixture()
def head_file() -> dict[str, Any]:
    """The content of a file of the present layout."""
    return s3prl.read_pickle(DATA / "tera_chunked.ckpt", s3prl.STAND_INS)  # type: ignore[no-any-return]


@pytest.fixture()
def v01_file() -> dict[str, Any]:
    """The content of a file of v0.1."""
    return s3prl.read_pickle(DATA / "tera_v01.ckpt", s3prl.STAND_INS)  # type: ignore[no-any-return]


@pytest.fixture()
def saved(tmp_path: Path) -> Callable[[Any], Path]:
    def save(content: Any) -> Path:
        path = tmp_path / "states.ckpt"
        if isinstance(content, dict):
            content = {key: value for key, value in content.items() if key not in ("Optimizer", "Args")}
            if "Settings" in content:
                content["Settings"] = {"Config": content["Settings"]["Config"], "Paras": argparse.Namespace(seed=1)}
        torch.save(content, path)
        return path

    return save


def test_a_file_of_2021_has_its_settings_under_config(head_file: dict[str, Any], saved: Callable[[Any], Path]) -> None:
    head_file["Config"] = head_file.pop("Upstream_Config")
    read, expected = s3prl.read(saved(head_file)), s3prl.read(DATA / "tera_chunked.ckpt")
    assert read.generation == "2021" and read.settings == expected.settings
    assert same(read.transformer, expected.transformer) and same(read.head, expected.head)


def test_a_file_before_2020_april_is_of_mockingjay_and_may_lack_much(
    v01_file: dict[str, Any], saved: Callable[[Any], Path]
) -> None:
    config = v01_file["Settings"]["Config"]["transformer"]
    for key in ("input_dim", "prune_headids", "share_layer", "pre_layer_norm", "max_input_length"):
        del config[key]
    content = {
        "Mockingjay": v01_file["Transformer"],
        "Settings": {
            "Config": {"mockingjay": {**config, "timer": argparse.Namespace()}, "timer": argparse.Namespace()}
        },
    }
    read, expected = s3prl.read(saved(content)), s3prl.read(DATA / "tera_v01.ckpt")
    assert read.generation == "v0.0" and read.settings == expected.settings and read.head is None
    assert same(read.transformer, expected.transformer)


def test_settings_that_are_text_in_old_files_are_read_as_what_they_mean(
    head_file: dict[str, Any], saved: Callable[[Any], Path]
) -> None:
    config = head_file["Upstream_Config"]
    config["transformer"]["layer_norm_eps"] = "1e-12"
    config["transformer"]["num_hidden_layers"] = "2"
    config["task"]["sequence_length"] = "40"
    config["audio"]["n_mels"] = "80"
    config["audio"]["input"]["delta"] = "0"
    assert s3prl.read(saved(head_file)).settings == s3prl.read(DATA / "tera_chunked.ckpt").settings
    config["audio"]["target_level"] = "None"
    assert "target_level" not in s3prl.read(saved(head_file)).settings.audio


def test_masked_dims_of_v01_are_a_share_of_the_dims(v01_file: dict[str, Any]) -> None:
    config = v01_file["Settings"]["Config"]["transformer"]
    settings = s3prl.read(DATA / "tera_v01.ckpt").settings
    assert settings.task.mask_frequency * config["input_dim"] == pytest.approx(config["mask_frequency"])


def test_pruned_heads_of_v01_stay_pruned(v01_file: dict[str, Any], saved: Callable[[Any], Path]) -> None:
    v01_file["Settings"]["Config"]["transformer"]["prune_headids"] = "0,4-6"
    assert s3prl.read(saved(v01_file)).settings.transformer.prune_headids == [0, 4, 5]


def test_the_level_in_the_online_settings_of_v01_is_that_of_its_pretraining(
    v01_file: dict[str, Any], head_file: dict[str, Any], saved: Callable[[Any], Path]
) -> None:
    online = {**head_file["Upstream_Config"]["audio"], "n_mels": 40, "libri_root": "/", "snrs": [3], "max_time": 1}
    v01_file["Settings"]["Config"]["online"] = online
    audio = s3prl.read(saved(v01_file)).settings.audio
    assert "target_level" not in audio and "snrs" not in audio and audio["input"] == online["input"]


# What does not fit is refused, by name.

PREFIX = "encoder.layer.0."
ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


def without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda file: file["Transformer"].pop(key)


def set_to(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    def change(file: dict[str, Any]) -> None:
        *groups, last = key.split("/")
        for group in groups:
            file = file[group]
        file[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without(PREFIX + "attention.self.key.bias"), r"lacks encoder\.layer\.0\.attention\.self\.key\.bias"),
        (without("input_representations.spec_transform.weight"), r"spec_transform\.weight is missing"),
        (set_to("Transformer/pooler.weight", torch.ones(2)), r"has pooler\.weight, which does not belong"),
        (set_to(f"Transformer/{PREFIX}output.dense.bias", torch.ones(3)), r"output\.dense\.bias has the shape \(3,\)"),
        (set_to(f"Transformer/{PREFIX}output.dense.bias", [0.0]), r"output\.dense\.bias is no plain tensor"),
        (set_to(f"Transformer/{PREFIX}output.dense.bias", torch.ones(32, device="meta")), "is no plain tensor"),
        (
            set_to(f"Transformer/{PREFIX}output.dense.bias", torch.ones(1).expand(32)),
            "holds fewer numbers than its shape",
        ),
        (set_to(f"Transformer/{PREFIX}output.dense.bias", torch.full((32,), torch.nan)), "holds NaN or infinity"),
        (set_to("SpecHead/extra", torch.ones(1)), "SpecHead: .* has extra"),
        (set_to("SpecHead", {}), r"SpecHead: .* lacks LayerNorm\.bias"),
        (set_to("SpecHead", 3), "no mapping"),
        (set_to("Transformer", [1]), "no mapping"),
        (set_to("Upstream_Config/transformer/num_hidden_layers", 3), r"lacks encoder\.layer\.2\.attention"),
        (set_to("Upstream_Config/transformer/num_hidden_layers", 10**9), "num_hidden_layers"),
        (set_to("Upstream_Config/transformer/num_attention_heads", 5), "hidden_size 32 is not a multiple"),
        (set_to("Upstream_Config/transformer/hidden_size", "large"), r"transformer\.hidden_size"),
        (set_to("Upstream_Config/transformer/hidden_act", "tanh"), r"transformer\.hidden_act"),
        (set_to("Upstream_Config/transformer", {}), "transformer lacks hidden_size, num_hidden_layers"),
        (set_to("Upstream_Config/audio/n_mels", 10**16), "no model that can be built"),
        (set_to("Upstream_Config/audio/input", ENDLESS), "nested too deeply"),
        (set_to("Upstream_Config/transformer", [1]), "'transformer' is a group of settings, not list"),
        (set_to("Upstream_Config/transformer/input_dim", 81), "gives 80 dims"),
        (set_to("Upstream_Config/audio/input/feat_type", "mell"), r"input\.feat_type"),
        (set_to("Upstream_Config/audio/n_mels", torch.ones(1)), "of the type Tensor"),
        (set_to("Upstream_Config/audio", {}), r"transformer\.input_dim must be the dims"),
        (set_to("Upstream_Config", 3), "no checkpoint of S3PRL's .* and holds Step, Config, SpecHead"),
    ],
)
def test_weights_and_settings_that_do_not_fit_are_refused_by_name(
    head_file: dict[str, Any], saved: Callable[[Any], Path], change: Callable[[dict[str, Any]], Any], says: str
) -> None:
    change(head_file)
    with pytest.raises(DataError, match=rf"states\.ckpt(.|\n)*{says}"):
        s3prl.read(saved(head_file))


def test_repeated_entries_of_one_layer_must_be_equal(saved: Callable[[Any], Path]) -> None:
    file = s3prl.read_pickle(DATA / "audio_albert_v01_dr3.ckpt", s3prl.STAND_INS)
    file["Transformer"] = copy.deepcopy(dict(file["Transformer"]))
    key = "encoder.layer.2.output.dense.weight"
    file["Transformer"][key] = file["Transformer"][key] + 1
    with pytest.raises(DataError, match=r"encoder\.layer\.0\.output\.dense\.weight and encoder\.layer\.2\.output"):
        s3prl.read(saved(file))


def test_aliases_of_a_norm_must_be_equal_and_may_be_absent(saved: Callable[[Any], Path]) -> None:
    file = s3prl.read_pickle(DATA / "tera_preln.ckpt", s3prl.STAND_INS)
    aliases = [key for key in file["Transformer"] if ".attention.LayerNorm." in key]
    assert aliases
    file["Transformer"] = {key: value.clone() for key, value in file["Transformer"].items() if key not in aliases}
    assert same(s3prl.read(saved(file)).transformer, s3prl.read(DATA / "tera_preln.ckpt").transformer)
    file["Transformer"]["encoder.layer.1.LayerNorm.bias"] += 1
    with pytest.raises(DataError, match=r"encoder\.layer\.1\.output\.LayerNorm\.bias and encoder\.layer\.1\.LayerNorm"):
        s3prl.read(saved(file))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"args": None, "model": {}, "optimizer_history": []}, "holds args, model, optimizer_history"),
        ({}, "holds nothing"),
        (torch.ones(3), "holds Tensor, not a checkpoint"),
    ],
    ids=["wav2vec", "empty", "tensor"],
)
def test_a_checkpoint_of_something_else_is_named_by_what_it_holds(
    saved: Callable[[Any], Path], content: Any, says: str
) -> None:
    with pytest.raises(DataError, match=says):
        read_weights(saved(content))


# Writing.

WRITABLE = ["post_norm", "pre_norm", "shared"]


@pytest.mark.parametrize("kind", WRITABLE)
@pytest.mark.parametrize("audio", [None, {}, {"kaldi": {"feat_type": "fbank"}, "cmvn": {"use_cmvn": True}}])
@pytest.mark.parametrize("with_head", [True, False])
def test_what_was_written_for_s3prl_is_read_again(tmp_path: Path, kind: str, audio: Any, with_head: bool) -> None:
    settings = small(kind)
    if audio is not None:
        dim = {} if audio else {"input_dim": 7}
        settings = type(settings).model_validate(
            {**settings.model_dump(), "audio": audio, "transformer": settings.transformer.model_dump() | dim}
        )
    transformer, head = states_of(settings)
    s3prl.write(tmp_path / "states.ckpt", settings, transformer, head if with_head else None)
    read = read_weights(tmp_path / "states.ckpt")
    assert read.generation == "HEAD" and read.settings == settings
    assert same(read.transformer, transformer) and same(read.head, head if with_head else None)


@pytest.mark.parametrize("case", ["tera_preln", "tera_chunked", "tera_v01"])
def test_a_written_file_has_the_entries_of_the_original(tmp_path: Path, case: str) -> None:
    weights = s3prl.read(DATA / f"{case}.ckpt")
    path = tmp_path / "states.ckpt"
    s3prl.write(path, weights.settings, weights.transformer, weights.head)
    written = torch.load(path, weights_only=True)  # without any stand-in
    original = s3prl.read_pickle(DATA / f"{case}.ckpt", s3prl.STAND_INS)
    for group in ("Transformer", "SpecHead"):
        theirs = {k.replace("gamma", "weight").replace("beta", "bias"): v for k, v in original[group].items()}
        assert set(written[group]) == set(theirs)
        assert all(torch.equal(written[group][name], theirs[name]) for name in theirs)
    if "Upstream_Config" in original:
        assert written["Upstream_Config"] == original["Upstream_Config"]


def test_repeated_layers_take_no_room_in_a_written_file(tmp_path: Path) -> None:
    def size(layers: int) -> int:
        settings = small("shared", transformer={"num_hidden_layers": layers, "hidden_size": 96})
        s3prl.write(tmp_path / "states.ckpt", settings, states_of(settings)[0])
        assert f"encoder.layer.{layers - 1}.output.dense.weight" in torch.load(tmp_path / "states.ckpt")["Transformer"]
        return (tmp_path / "states.ckpt").stat().st_size

    one_layer: Tensor = states_of(small("shared", transformer={"hidden_size": 96}))[0]["layers.0.attention.qkv.weight"]
    assert size(9) - size(1) < one_layer.nbytes


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in WRITABLE])
def test_a_model_that_s3prl_cannot_run_is_not_written(tmp_path: Path, kind: str) -> None:
    settings = small(kind)
    with pytest.raises(UsageError, match="S3PRL has no files for"):
        s3prl.write(tmp_path / "states.ckpt", settings, states_of(settings)[0])
    assert not (tmp_path / "states.ckpt").exists()
