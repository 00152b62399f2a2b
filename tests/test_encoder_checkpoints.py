"""Checkpoints of encoders: what does not fit is refused by name, what is read is all used or named, and `headwater convert`."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Answer

import headwater
from headwater.checks import noises
from headwater.errors import DataError
from headwater.fairseq import read_fairseq
from headwater.hf.files import empty, read_encoder
from headwater.hf.settings import EncoderSettings
from headwater.registry import upstreams

DATA = ROOT / "tests/data/encoders"
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": [8] * 7,
}


def content(case: str) -> dict[str, Any]:
    """What S3PRL's converter would have written of a case, to be changed."""
    file = read_fairseq(DATA / f"{case}.pt")
    nested: dict[str, Any] = {key: value for key, value in file.weights.items() if not key.startswith("_ema.")}
    return {"task_cfg": dict(file.task), "model_cfg": dict(file.model), "model_weight": nested}


@pytest.fixture()
def saved(tmp_path: Path) -> Callable[[Any], Path]:
    def save(value: Any) -> Path:
        path = tmp_path / "states.pt"
        torch.save(value, path)
        return path

    return save


def weights(key: str, value: Any = None) -> Callable[[dict[str, Any]], Any]:
    def change(file: dict[str, Any]) -> None:
        if value is None:
            del file["model_weight"][key]
        else:
            file["model_weight"][key] = value

    return change


def setting(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda file: file["model_cfg"].update({key: value})


ENDLESS: list[Any] = []
ENDLESS.extend([ENDLESS, ENDLESS])
FFN = "encoder.layers.0.fc1.bias"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (weights(FFN), r"encoder\.layers\.0\.fc1\.bias is missing"),
        (weights("encoder.layers.1.fc1.bias"), r"lacks encoder\.layers\.1\.feed_forward\.intermediate_dense\.bias"),
        (weights("layer_norm.bias"), r"lacks feature_projection\.layer_norm\.bias"),
        (weights("pooler.weight", torch.ones(2)), r"tensors that no model of this family has: pooler\.weight"),
        (weights("encoder.layers.999999999.fc1.bias", torch.ones(2)), "num_hidden_layers is 1000000000"),
        (weights("encoder.layers.x.fc1.bias", torch.ones(2)), r"no model of this family has: encoder\.layers\.x"),
        (weights("post_extract_proj.bias", torch.ones(3)), r"projection\.bias has the shape \(3,\)"),
        (weights("post_extract_proj.bias", torch.full((32,), torch.nan)), "holds NaN or infinity"),
        (weights("post_extract_proj.bias", torch.ones(1).expand(32)), "holds fewer numbers than its shape"),
        (weights("post_extract_proj.bias", [0.0]), "is no plain tensor"),
        (weights("encoder.layer_norm.weight", 3), r"encoder\.layer_norm\.weight is missing, or no tensor"),
        (weights("second.feature_extractor.conv_layers.0.0.weight", torch.ones(1)), "2 convolutional encoders"),
        (weights("feature_extractor.conv_layers.0.0.weight"), "no convolutional encoders"),
        (setting("encoder_attention_heads", 5), "divisible"),
        (setting("encoder_attention_heads", "many"), "invalid literal"),
        (setting("encoder_attention_heads", 0), "describe no model"),
        (setting("conv_feature_layers", "__import__('os').system('true')"), "is no list of"),
        (setting("conv_feature_layers", "[(8, 10, 5)] * 10 ** 9"), "is no list of"),
        (setting("conv_feature_layers", "(" * 900), "is no list of"),
        (setting("conv_feature_layers", "[(24, 10, 5)]"), "describe no model|lacks|does not belong"),
        (setting("activation_fn", "nothing"), "describe no model"),
        (setting("extractor_mode", ENDLESS), "nested too deeply"),
        (lambda file: file.update(model_weight=[1]), "is no checkpoint of fairseq or S3PRL"),
    ],
)
def test_weights_and_settings_that_do_not_fit_are_refused_by_name(
    saved: Callable[[Any], Path], change: Callable[[dict[str, Any]], Any], says: str
) -> None:
    file = content("hubert_base")
    change(file)
    with pytest.raises(DataError, match=rf"states\.pt(.|\n)*({says})"):
        read_encoder(saved(file))


def test_models_that_transformers_cannot_have_are_refused(saved: Callable[[Any], Path]) -> None:
    file = content("data2vec")
    file["model_cfg"]["layer_norm_first"] = True
    with pytest.raises(DataError, match="transformers has no such model"):
        read_encoder(saved(file))


def test_a_checkpoint_with_a_call_in_it_is_refused(saved: Callable[[Any], Path], tmp_path: Path) -> None:
    class Call:
        def __reduce__(self) -> Any:
            return exec, (f"open({str(tmp_path / 'written')!r}, 'w')",)

    for place in ("model_cfg", "task_cfg", "model_weight"):
        file = copy.deepcopy(content("hubert_base"))
        file[place]["x"] = Call()
        with pytest.raises(DataError, match=r"asks for 'exec'.*nothing in it was run"):
            read_encoder(saved(file))
    assert not (tmp_path / "written").exists()


def test_what_the_tensors_show_goes_before_what_the_settings_say(saved: Callable[[Any], Path]) -> None:
    expected = read_encoder(DATA / "hubert_base.pt").settings
    file = content("hubert_base")
    for key in ("extractor_mode", "encoder_layers", "encoder_embed_dim", "conv_bias", "conv_pos"):
        del file["model_cfg"][key]
    assert read_encoder(saved(file)).settings == expected
    file["model_cfg"]["extractor_mode"] = "layer_norm"
    assert read_encoder(saved(file)).settings == expected


def test_both_spellings_of_a_weight_norm_are_read(saved: Callable[[Any], Path]) -> None:
    file = content("hubert_base")
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        file["model_weight"][f"encoder.pos_conv.0.parametrizations.weight.{new}"] = file["model_weight"].pop(
            f"encoder.pos_conv.0.{old}"
        )
    again, expected = read_encoder(saved(file)).weights, read_encoder(DATA / "hubert_base.pt").weights
    assert all(torch.equal(again[name], value) for name, value in expected.items())


def test_a_fine_tuned_model_is_read_to_its_encoder(saved: Callable[[Any], Path]) -> None:
    """fairseq's recognisers keep the settings of pretraining inside their own, as a namespace or a configuration."""
    file = content("wav2vec2_base")
    inside = {f"w2v_encoder.w2v_model.{key}": value for key, value in file["model_weight"].items()}
    inside |= {"w2v_encoder.proj.weight": torch.ones(5, 32), "w2v_encoder.proj.bias": torch.ones(5)}
    expected = read_encoder(DATA / "wav2vec2_base.pt")
    pretraining = argparse.Namespace(**{**file["model_cfg"], "normalize": False})
    old = {"model": inside, "args": argparse.Namespace(arch="wav2vec_ctc", w2v_args=pretraining, normalize=False)}
    groups = {"model": file["model_cfg"], "task": {"normalize": False}}
    new = {"model": inside, "cfg": {"model": {"_name": "wav2vec_ctc", "w2v_args": groups}, "task": {"normalize": True}}}
    for form, normalize in ((old, None), (new, 1e-5)):
        read = read_encoder(saved(form))
        assert read.settings.architecture == expected.settings.architecture and read.settings.normalize == normalize
        assert all(torch.equal(read.weights[name], value) for name, value in expected.weights.items())
        assert {"w2v_encoder.proj.weight", "w2v_encoder.proj.bias"} <= set(read.unused)


@pytest.mark.parametrize(
    ("case", "unused"),
    [
        ("wav2vec2_base", {"quantizer.vars", "project_q.weight", "final_proj.bias"}),
        ("hubert_base", {"label_embs_concat", "final_proj.weight"}),
        ("data2vec", {"_ema.layers.0.fc1.weight"}),
        ("wavlm_base", set()),
    ],
)
def test_every_tensor_is_used_or_named_as_left_out(case: str, unused: set[str]) -> None:
    encoder, held = read_encoder(DATA / f"{case}.pt"), read_fairseq(DATA / f"{case}.pt").weights
    assert unused <= set(encoder.unused) <= set(held)
    assert len(encoder.unused) + len(encoder.weights) == len(held)


def test_a_conformer_of_fairseq_is_read(saved: Callable[[Any], Path]) -> None:
    """No original file was at hand: the names are those that transformers' own converter has."""
    architecture = {
        "model_type": "wav2vec2-conformer",
        "position_embeddings_type": "rotary",
        "feat_extract_norm": "layer",
        "conv_bias": True,
        **SIZES,
    }
    model = empty(EncoderSettings(architecture=architecture))
    drawn = {name: torch.rand(value.shape) for name, value in model.state_dict().items() if value.is_floating_point()}
    names = (
        (".conv.parametrizations.weight.original0", ".weight_g"),
        (".conv.parametrizations.weight.original1", ".weight_v"),
        ("encoder.pos_conv_embed.conv", "encoder.pos_conv.0"),
        ("encoder.pos_conv_embed", "encoder.pos_conv.0"),
        (".conv.", ".0."),
        ("feature_projection.layer_norm", "layer_norm"),
        ("feature_projection.projection", "post_extract_proj"),
        ("masked_spec_embed", "mask_emb"),
        ("encoder.embed_positions.inv_freq", "encoder.layers.0.self_attn.rotary_emb.inv_freq"),
        ("ffn1_layer_norm", "ffn1.layer_norm"),
        ("ffn2_layer_norm", "ffn2.layer_norm"),
        ("intermediate_dense", "w_1"),
        ("output_dense", "w_2"),
    )
    theirs = {}
    for name, value in drawn.items():
        for ours, old in names:
            name = name.replace(ours, old)
        if name.startswith("feature_extractor"):
            name = name.replace(".layer_norm.", ".2.1.")
        theirs[name] = value
    theirs["encoder.layers.0.conv_module.batch_norm.num_batches_tracked"] = torch.tensor(7)
    said = {
        "_name": "wav2vec2",
        "layer_norm_first": True,
        "encoder_attention_heads": 2,
        "pos_enc_type": "rope",
        "conv_feature_layers": "[(8, 10, 5)] + [(8, 3, 2)] * 4 + [(8, 2, 2)] * 2",
    }
    file = {"model_cfg": said, "task_cfg": {"normalize": True}, "model_weight": theirs}
    encoder = read_encoder(saved(file))
    assert all(torch.equal(encoder.weights[name], value) for name, value in drawn.items()) and encoder.unused == ()
    found = headwater.load("wav2vec2_local", ckpt=str(saved(file))).extract(noises(0, 3000))
    assert bool(torch.isfinite(found.last_hidden_state).all())
    said["pos_enc_type"] = "abs"
    with pytest.raises(DataError, match="a conformer with pos_enc_type 'abs'"):
        read_encoder(saved(file))


def test_names_of_s3prl_are_registered() -> None:
    for name in (
        "wav2vec2_base_960",
        "hubert_base",
        "wavlm_base_plus",
        "data2vec_base_960",
        "unispeech_sat_base_plus",
        "xlsr_53",
    ):
        assert upstreams[name].load()


def test_a_missing_weight_file_is_not_looked_for_on_the_net() -> None:
    with pytest.raises(DataError, match=r"my/model\.pt: no such file"):
        headwater.load("wav2vec2_local", ckpt="my/model.pt")


# `headwater convert`.


@pytest.mark.parametrize("case", ["wav2vec2_base", "hubert_base", "wavlm_base", "unispeech_sat_base", "data2vec"])
def test_a_converted_checkpoint_is_the_same_model_for_us_and_for_transformers(
    case: str, command: Callable[..., Answer], tmp_path: Path
) -> None:
    answer = command("convert", DATA / f"{case}.pt", "out")
    assert answer.code == 0, answer.err
    out = tmp_path / "out"
    wavs = noises(6, 6000)
    expected = headwater.load("hf", ckpt=str(DATA / f"{case}.pt")).extract(wavs)
    for name in (f"hf:{out}", f"ckpt:{out}"):
        found = headwater.load(name).extract(wavs)
        assert all(torch.equal(a, b) for a, b in zip(found.hidden_states, expected.hidden_states))
    import transformers

    model, about = transformers.AutoModel.from_pretrained(out, output_loading_info=True)
    assert not any(about.values())
    with torch.no_grad():
        x, _ = headwater.load(f"hf:{out}").inputs(wavs)
        theirs = model.eval()(x[..., 0]).last_hidden_state
    torch.testing.assert_close(theirs, expected.last_hidden_state, atol=1e-5, rtol=1e-4)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(out)
    assert extractor.do_normalize == (case == "data2vec")


def test_convert_names_what_it_left_out_and_overwrites_only_when_told(command: Callable[..., Answer]) -> None:
    assert "label_embs_concat" in command("convert", DATA / "hubert_base.pt", "out").out
    again = command("convert", DATA / "hubert_base.pt", "out")
    assert again.code == 2 and "--force" in again.err
    assert command("convert", DATA / "hubert_base.pt", "out", "--force", "-u", "contentvec").code == 0
    assert command("check", "upstream", "ckpt:out").out.endswith("10 of 10 points hold\n")


@pytest.mark.parametrize(
    ("arguments", "says", "code"),
    [
        (["missing.pt", "new"], "no such file", 3),
        ([DATA / "expected.npz", "new"], "expected.npz", 3),
        ([DATA, "new"], "is a directory already", 2),
        ([DATA / "hubert_base.pt", "new", "-u", "tera"], "no speech encoder of transformers", 2),
    ],
)
def test_convert_refuses_what_it_cannot_read(
    command: Callable[..., Answer], arguments: list[Any], says: str, code: int
) -> None:
    answer = command("convert", *arguments)
    assert answer.code == code and says in answer.err and "Traceback" not in answer.err
    assert not Path("new").exists()
