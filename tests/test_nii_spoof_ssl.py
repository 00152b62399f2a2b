"""Files of NII's project 07 that hold an SSL model and the back-end it was fine-tuned with: one file serves as upstream and as countermeasure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Answer
from countermeasures import SSL, filled, settings, ssl_keys
from headwater.downstream.asv_spoof import nii
from headwater.downstream.asv_spoof.systems import build
from spoof_corpora import make_table, spoof_clips
from torch import Tensor

import headwater
from headwater.checks import noises
from headwater.errors import DataError
from headwater.fairseq import tuned_countermeasure
from headwater.hf.architectures import config_of
from headwater.hf.files import read_encoder
from headwater.registry import upstreams

DIM, CHANNELS, INNER = 768, 8, 16
KERNELS = (10, 3, 3, 3, 3, 2, 2)
PREFIX = {"LLGF": "ssl_model.", "LGF": "m_ssl.", "GF": "m_ssl."}
HEADS = {
    "wav2vec2": {"quantizer.vars": [1, 8, 4], "project_q.weight": [4, 8], "final_proj.weight": [4, DIM]},
    "hubert": {"label_embs_concat": [5, 4], "final_proj.weight": [4, DIM]},
    "neither": {},
}


def fairseq_keys(pre_norm: bool, kind: str) -> dict[str, list[int]]:
    """Names and shapes of a small model as fairseq has it, of the least width whose attention heads are known."""
    keys: dict[str, list[int]] = {"mask_emb": [DIM], **HEADS[kind]}
    for layer, kernel in enumerate(KERNELS):
        place = f"feature_extractor.conv_layers.{layer}"
        keys[f"{place}.0.weight"] = [CHANNELS, CHANNELS if layer else 1, kernel]
        norm = f"{place}.2.1" if pre_norm else f"{place}.2"
        if pre_norm:
            keys[f"{place}.0.bias"] = [CHANNELS]
        if pre_norm or not layer:
            keys |= {f"{norm}.weight": [CHANNELS], f"{norm}.bias": [CHANNELS]}
    keys |= {"layer_norm.weight": [CHANNELS], "layer_norm.bias": [CHANNELS]}
    keys |= {"post_extract_proj.weight": [DIM, CHANNELS], "post_extract_proj.bias": [DIM]}
    keys |= {"encoder.pos_conv.0.bias": [DIM], "encoder.pos_conv.0.weight_g": [1, 1, 4]}
    keys |= {"encoder.pos_conv.0.weight_v": [DIM, DIM // 16, 4]}
    keys |= {"encoder.layer_norm.weight": [DIM], "encoder.layer_norm.bias": [DIM]}
    inner = "encoder.layers.0"
    for part in ("q", "k", "v", "out"):
        keys |= {f"{inner}.self_attn.{part}_proj.weight": [DIM, DIM], f"{inner}.self_attn.{part}_proj.bias": [DIM]}
    keys |= {f"{inner}.fc1.weight": [INNER, DIM], f"{inner}.fc1.bias": [INNER]}
    keys |= {f"{inner}.fc2.weight": [DIM, INNER], f"{inner}.fc2.bias": [DIM]}
    for name in ("self_attn_layer_norm", "final_layer_norm"):
        keys |= {f"{inner}.{name}.weight": [DIM], f"{inner}.{name}.bias": [DIM]}
    return keys


def halves(
    kind: str = "GF", *, pre_norm: bool = True, pretrained: str = "wav2vec2"
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights by rule of a fairseq model, and of a back-end that fits it."""
    back_end = {name: [128, DIM] if name == "m_frontend.0.weight" else shape for name, shape in ssl_keys(kind).items()}
    return filled(fairseq_keys(pre_norm, pretrained)), filled(back_end)


def tuned(kind: str = "GF", **how: Any) -> dict[str, Tensor]:
    model, back_end = halves(kind, **how)
    return {**back_end, **{f"{PREFIX[kind]}model.{name}": value for name, value in model.items()}}


def save(path: Path, state: Mapping[str, Any]) -> Path:
    torch.save(state, path)
    return path


def fairseq_file(path: Path, model: Mapping[str, Tensor], pre_norm: bool) -> Path:
    """The same model as fairseq saves it, which says its settings."""
    cfg = {
        "_name": "wav2vec2",
        "layer_norm_first": pre_norm,
        "encoder_attention_heads": 12,
        "conv_feature_layers": f"[({CHANNELS}, 10, 5)] + [({CHANNELS}, 3, 2)] * 4 + [({CHANNELS}, 2, 2)] * 2",
    }
    return save(path, {"model": dict(model), "cfg": {"model": cfg, "task": {"normalize": False}}})


@pytest.mark.parametrize("kind", SSL)
@pytest.mark.parametrize("pre_norm", [True, False])
def test_one_file_scores_what_its_halves_score_that_are_loaded_apart(kind: str, pre_norm: bool, tmp_path: Path) -> None:
    model, back_end = halves(kind, pre_norm=pre_norm)
    one = save(tmp_path / "tuned.pt", tuned(kind, pre_norm=pre_norm))
    apart = fairseq_file(tmp_path / "model.pt", model, pre_norm), save(tmp_path / "back_end.pt", back_end)
    scores, wavs = [], noises(3, 6000, 4200)
    for upstream, weights in ((one, one), apart):
        features = headwater.load("wav2vec2", ckpt=str(upstream)).extract(wavs)
        system = build(settings(f"ssl-{kind.lower()}", weights=str(weights)), DIM).eval()
        with torch.no_grad():
            _, activation = system(features.last_hidden_state, features.lengths)
            scores.append(system.criterion.score(activation))
    assert torch.equal(*scores) and scores[0].unique().numel() == len(wavs)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_settings_are_seen_from_names_and_shapes(pre_norm: bool, tmp_path: Path) -> None:
    expected = read_encoder(fairseq_file(tmp_path / "model.pt", halves(pre_norm=pre_norm)[0], pre_norm))
    state = tuned(pre_norm=pre_norm)
    for content in (state, {"state_dict": state, "optimizer": {}, "info": "epoch 3"}):
        found = read_encoder(save(tmp_path / "tuned.pt", content))
        assert found.settings == expected.settings and found.settings.normalize is None
        assert all(torch.equal(found.weights[name], value) for name, value in expected.weights.items())
        assert {"m_frontend.0.weight", "m_output_act.0.bias", "input_mean"} <= set(found.unused)
    from safetensors.torch import save_file

    save_file(state, tmp_path / "tuned.safetensors")
    assert read_encoder(tmp_path / "tuned.safetensors").settings == expected.settings


@pytest.mark.parametrize("card", ["wav2vec2", "wav2vec2_large_960", "wav2vec2_large_lv60_cv_swbd_fsh", "xlsr_53"])
def test_what_no_shape_tells_is_that_of_the_published_models(card: str) -> None:
    expected = upstreams[card].config["architecture"]
    layered = expected["feat_extract_norm"] == "layer"
    state = {f"m_ssl.model.{name}": torch.zeros(shape) for name, shape in fairseq_keys(layered, "wav2vec2").items()}
    state["m_ssl.model.encoder.layer_norm.weight"] = torch.zeros(expected["hidden_size"])
    found = tuned_countermeasure(state, "tuned.pt")
    assert found is not None and found.model["encoder_attention_heads"] == expected["num_attention_heads"]
    assert found.model["layer_norm_first"] == expected["do_stable_layer_norm"]
    published = config_of({"model_type": "wav2vec2"})  # transformers' default is the base model
    strides = [stride for _, _, stride in found.model["conv_feature_layers"]]
    assert strides == list(published.conv_stride) and list(KERNELS) == list(published.conv_kernel)


@pytest.mark.parametrize(
    ("pretrained", "named", "is_of"),
    [
        ("wav2vec2", "hubert", "wav2vec2"),
        ("hubert", "wav2vec2", "hubert"),
        ("neither", "hubert", "hubert"),
        ("neither", "wav2vec2", "wav2vec2"),
        ("neither", "hf", "wav2vec2"),
    ],
)
def test_what_pretraining_left_in_a_file_goes_before_the_name_that_the_user_gives(
    pretrained: str, named: str, is_of: str, tmp_path: Path
) -> None:
    path = save(tmp_path / "tuned.pt", tuned(pretrained=pretrained))
    model = headwater.load(named, ckpt=str(path))
    assert model.facts()["config"]["architecture"]["model_type"] == is_of


@pytest.mark.parametrize("named", [(), ("-u", "hubert")])
def test_a_converted_file_is_the_same_model_without_the_back_end(
    named: tuple[str, ...], tmp_path: Path, command: Callable[..., Answer]
) -> None:
    path = save(tmp_path / "tuned.pt", tuned(pretrained="neither"))
    said = command("convert", path, "out", *named)
    assert said.code == 0, said.err
    assert "a countermeasure needs them" in said.out and "m_frontend.0.weight" in said.out
    found, expected = (
        headwater.load(name, ckpt=ckpt).extract(noises(3, 5000)).last_hidden_state
        for name, ckpt in (("ckpt:out", None), ("wav2vec2", str(path)))
    )
    assert torch.equal(found, expected)
    assert headwater.load("ckpt:out").name.startswith("ckpt:")
    model_type = json.loads((tmp_path / "out/config.json").read_text())["model_type"]
    assert model_type == ("hubert" if named else "wav2vec2")


Change = Callable[[dict[str, Any]], None]
MODEL = "m_ssl.model."


def setting(name: str, value: Any) -> Change:
    return lambda state: state.update({MODEL + name: value})


def without(name: str) -> Change:
    return lambda state: state.__delitem__(MODEL + name)


def no_model(state: dict[str, Any]) -> None:
    for name in [name for name in state if name.startswith(MODEL)]:
        del state[name]
    state["m_ssl.x"] = torch.ones(1)


def two_models(state: dict[str, Any]) -> None:
    state |= {name.replace("m_ssl.", "ssl_model."): value for name, value in state.items() if name.startswith(MODEL)}


REFUSED: dict[str, tuple[Change, str]] = {
    "a width of unknown heads": (
        setting("encoder.layer_norm.weight", torch.ones(512)),
        r"m_ssl\.model\.encoder has 512 dims .*12 for 768 dims, 16 for 1024 dims, 16 for 1280 dims",
    ),
    "no width": (without("encoder.layer_norm.weight"), "has no dims"),
    "kernels of unknown strides": (
        setting("feature_extractor.conv_layers.1.0.weight", torch.ones(CHANNELS, CHANNELS, 4)),
        r"kernels of \[10, 4, 3, 3, 3, 2, 2\];.*known for \[10, 3, 3, 3, 3, 2, 2\]",
    ),
    "a WavLM": (setting("encoder.layers.0.self_attn.grep_a", torch.ones(1, 12, 1, 1)), "is a WavLM"),
    "no model": (no_model, r"kernels of \[\]"),
    "two models": (two_models, "2 convolutional encoders"),
    "a tensor of no such model": (setting("pooler.weight", torch.ones(1)), "no model of this family has: pooler"),
    "a layer without a bias": (without("encoder.layers.0.fc2.bias"), r"lacks encoder\.layers\.0"),
    "not a number": (setting("post_extract_proj.bias", torch.full((DIM,), torch.nan)), "NaN or infinity"),
    "no tensor": (setting("post_extract_proj.bias", "text"), "no plain tensor"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_models_that_cannot_be_told_or_do_not_fit_are_refused_by_name(case: str, tmp_path: Path) -> None:
    change, says = REFUSED[case]
    state: dict[str, Any] = tuned()
    change(state)
    path = save(tmp_path / "tuned.pt", state)
    with pytest.raises(DataError, match=rf"tuned\.pt(.|\n)*({says})"):
        headwater.load("wav2vec2", ckpt=str(path))


def test_other_models_of_fairseq_and_conversion_refuse_a_file_without_a_traceback(
    tmp_path: Path, command: Callable[..., Answer]
) -> None:
    save(tmp_path / "tuned.pt", tuned())
    said = command("convert", "tuned.pt", "out", "-u", "wav2vec_local")
    assert said.code == 3 and "tuned.pt" in said.err and "Traceback" not in said.err
    state = tuned()
    state["m_ssl.model.encoder.layer_norm.weight"] = torch.ones(512)
    save(tmp_path / "narrow.pt", state)
    said = command("convert", "narrow.pt", "out")
    assert said.code == 3 and "has 512 dims" in said.err and not Path("out").exists()


def test_a_file_with_a_call_in_it_is_refused_by_both_readers(tmp_path: Path) -> None:
    class Call:
        def __reduce__(self) -> Any:
            return exec, (f"open({str(tmp_path / 'written')!r}, 'w')",)

    path = save(tmp_path / "tuned.pt", {**tuned(), "m_ssl.model.x": Call()})
    for read in (read_encoder, nii.read):
        with pytest.raises(DataError, match=r"asks for 'exec'.*nothing in it was run"):
            read(path)
    assert not (tmp_path / "written").exists()


def test_the_back_end_of_a_file_is_read_without_its_model(tmp_path: Path) -> None:
    for kind in SSL:
        found, back_end = nii.read(save(tmp_path / "tuned.pt", tuned(kind))), halves(kind)[1]
        assert found.tuned and found.state.keys() == back_end.keys()
        apart = nii.read(save(tmp_path / "back_end.pt", back_end))
        assert not apart.tuned and apart.settings == found.settings and apart.unused == found.unused


AS_IT_STANDS = ("-d", "asv_spoof", "-v", "ssl-gf", "--device", "cpu", "-o", "task.train=false")


def scores(folder: str) -> dict[str, float]:
    rows = map(json.loads, Path(folder, "scores", "test.jsonl").read_text().splitlines())
    return {row["id"]: row["score"] for row in rows}


def test_a_run_scores_one_file_as_its_halves_and_refuses_its_back_end_on_another_model(
    tmp_path: Path, command: Callable[..., Answer]
) -> None:
    model, back_end = halves()
    data = make_table(tmp_path / "table", spoof_clips())
    fairseq_file(tmp_path / "model.pt", model, True)
    save(tmp_path / "tuned.pt", tuned())
    save(tmp_path / "back_end.pt", back_end)

    def run(upstream: str, weights: str, out: str) -> Answer:
        named = ("-o", f"task.system.weights={weights}")
        return command("run", "-u", "wav2vec2", "-k", upstream, *AS_IT_STANDS, *named, "--data", data, "-p", out)

    for upstream, weights, out in (("tuned.pt", "tuned.pt", "one"), ("model.pt", "back_end.pt", "apart")):
        said = run(upstream, weights, out)
        assert said.code == 0, said.err
    assert scores("one") == scores("apart") and len(set(scores("one").values())) > 1
    assert "last hidden state" in Path("one", "result.json").read_text()
    said = run("model.pt", "tuned.pt", "wrong")
    assert said.code == 2 and "Traceback" not in said.err
    assert "-u wav2vec2 -k tuned.pt" in said.err and "task.system.weights=tuned.pt" in said.err
    assert not Path("wrong", "result.json").exists()
    said = command(
        "run", "-u", "fbank", *AS_IT_STANDS, "-o", "task.system.weights=tuned.pt", "--data", data, "-p", "wrong"
    )
    assert said.code == 2 and "-u wav2vec2 -k tuned.pt" in said.err
    predicted = command(
        "run", "-m", "predict", "-e", "one", tmp_path / "table", "--out", "again.jsonl", "--device", "cpu"
    )
    assert predicted.code == 0, predicted.err
