"""Where encoders come from: checkpoints that do not fit are refused by name, directories and names on huggingface.co, and `headwater convert`."""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Answer

import headwater
from headwater.checks import noises
from headwater.errors import DataError, UsageError
from headwater.fairseq import read_fairseq
from headwater.hf.architectures import KINDS, config_of
from headwater.hf.files import empty, read_encoder, write_directory
from headwater.hf.hub import locate
from headwater.hf.settings import EncoderSettings
from headwater.hf.waveform import TransformersUpstream
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


# Directories of transformers.


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
        (lambda folder: rewrite(folder / "config.json", hidden_size=10**9), "describe no model"),
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


@pytest.mark.parametrize("source", ["nothing", "a/b/c", "../up/down", "org/../model", "https://huggingface.co/a/b", ""])
def test_what_is_neither_a_path_nor_a_name_is_refused(source: str) -> None:
    with pytest.raises(UsageError, match=r"neither a directory on this machine nor ORG/MODEL|unknown upstream"):
        headwater.load(f"hf:{source}")


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
