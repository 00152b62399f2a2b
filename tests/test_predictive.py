"""APC, VQ-APC, NPC, CPC, wav2vec, vq-wav2vec, DistilHuBERT and DeCoAR 2.0: what the original code says, from its files, alone and in padded batches."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file
from torch import Tensor

import headwater
from headwater.errors import DataError, UsageError
from headwater.pickles import read_pickle
from headwater.pretrained.upstream import Pretrained
from headwater.registry import upstreams
from headwater.settings import merge
from headwater.weights import read_header

Command = Callable[..., Any]
DATA = ROOT / "tests/data/predictive"
# A name that its file is loaded by, and what the user has to say of it.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "vq_apc": ("apc_local", {}),
    "npc": ("npc_local", {}),
    "cpc": ("cpc_local", {}),
    "wav2vec": ("wav2vec_local", {}),
    "vq_wav2vec_gumbel": ("vq_wav2vec_local", {}),
    "vq_wav2vec_kmeans": ("wav2vec_local", {}),
    "distilhubert": ("distiller_local", {}),
    "decoar2": ("decoar2_local", {"encoder_attention_heads": 4}),
}
WHOLE = CASES | {"apc": ("apc_local", {}), "wav2vec_noskip": ("wav2vec_local", {})}
ON_FEATURES = ("apc", "vq_apc", "npc", "decoar2")
TOLERANCE = 1e-4
FROM_WAVEFORM = 5e-4  # two correct filter banks differ by up to 1.4e-4 after normalisation


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    arrays = np.load(DATA / "expected.npz")
    return {name: arrays[name] for name in arrays}


def load(case: str, path: Path | None = None, **config: Any) -> Pretrained:
    name, said = WHOLE[case]
    model = headwater.load(name, ckpt=str(path or DATA / f"{case}.pt"), config={**said, **config})
    assert isinstance(model, Pretrained)
    return model


def samples(wav: np.ndarray) -> Tensor:
    return torch.from_numpy(wav.astype(np.float32) / 32768 if wav.dtype == np.int16 else wav)


@torch.no_grad()
def states(model: Pretrained, *wavs: Tensor) -> list[list[np.ndarray]]:
    """(frames, dim) of every state, for each utterance of one batch."""
    features = model.extract(list(wavs))
    return [
        [state[row, :length].numpy() for state in features.hidden_states]
        for row, length in enumerate(features.lengths.tolist())
    ]


def assert_close(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance


def tolerance_of(case: str) -> float:
    return FROM_WAVEFORM if case in ON_FEATURES else TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_an_utterance_has_the_states_of_the_original_alone_and_in_a_batch(
    case: str, stored: dict[str, np.ndarray]
) -> None:
    model, wav = load(case), samples(stored[f"{case}.wav"])
    (alone,), (_, together) = states(model, wav), states(model, samples(stored["other"]), wav)
    assert len(alone) == model.num_layers == sum(name.startswith(f"{case}.hidden_") for name in stored)
    for number, (one, two) in enumerate(zip(alone, together, strict=True)):
        assert_close(one, stored[f"{case}.hidden_{number}"], tolerance_of(case))
        assert_close(two, stored[f"{case}.hidden_{number}"], tolerance_of(case))


@pytest.mark.parametrize("case", ["vq_apc", "npc"])
@torch.no_grad()
def test_predictions_and_codes_are_those_of_the_original(case: str, stored: dict[str, np.ndarray]) -> None:
    model, wav = load(case), samples(stored[f"{case}.wav"])
    predicted, quantized = model.network.predict(model.extract([wav]).last_hidden_state)  # type: ignore[operator]
    assert_close(predicted[0].numpy(), stored[f"{case}.predicted"], FROM_WAVEFORM)
    expected = stored[f"{case}.codes"].reshape(len(predicted[0]), -1)
    assert np.array_equal(quantized.codes[0].numpy(), expected)
    codes = model.codes([samples(stored["other"]), wav])
    assert np.array_equal(codes[1].numpy(), expected)


@pytest.mark.parametrize("case", ["vq_wav2vec_gumbel", "vq_wav2vec_kmeans"])
@torch.no_grad()
def test_codes_and_codewords_are_those_of_the_original(case: str, stored: dict[str, np.ndarray]) -> None:
    wav = samples(stored[f"{case}.wav"])
    for wavs in ([wav], [samples(stored["other"]), wav]):
        assert np.array_equal(load(case).codes(wavs)[-1].numpy(), stored[f"{case}.codeids"])
        words = load(case, features="codewords").extract(wavs)
        assert len(words.hidden_states) == 1
        found = words.last_hidden_state[-1, : int(words.lengths[-1])].numpy()
        assert_close(found, stored[f"{case}.codewords"], TOLERANCE)


def test_features_enter_a_model_as_they_entered_the_original(stored: dict[str, np.ndarray]) -> None:
    model = load("vq_apc")
    x, _ = model.inputs([samples(stored["vq_apc.wav"])])
    assert_close(x[0].numpy(), stored["vq_apc.fbank"], 1.4e-4)
    (found,) = states(model, torch.from_numpy(stored["vq_apc.fbank"]))
    for number, state in enumerate(found):
        assert_close(state, stored[f"vq_apc.hidden_{number}"], TOLERANCE)


@pytest.mark.parametrize(("case", "file"), [*((case, "model.pt") for case in WHOLE), ("wav2vec", "fairseq_args.pt")])
def test_every_utterance_of_a_batch_is_what_s3prl_gives_for_it_alone(case: str, file: str, shared: Path) -> None:
    folder = shared / "parity/upstreams" / case
    described = json.loads((folder / "config.json").read_text())
    arrays, expected = np.load(folder / "wavs.npz"), np.load(folder / "expected.npz")
    wavs = [samples(arrays[f"wav_{i}"]) for i in range(3)]
    model = load(case, folder / file)
    assert (model.stride, model.num_layers) == (described["downsample_rate"], described["num_hidden_states"])
    for i, together in enumerate(states(model, *wavs)):
        (alone,) = states(model, wavs[i])
        for number, (one, two) in enumerate(zip(alone, together, strict=True)):
            assert_close(one, expected[f"single_{i}_hidden_{number}"], tolerance_of(case))
            assert_close(two, expected[f"single_{i}_hidden_{number}"], tolerance_of(case))
            assert np.abs(one - two).max() <= 1e-5 * np.sqrt(np.square(one).mean())
        for key in ("codes", "codeids"):
            if f"single_{i}_{key}" in expected:
                codes = expected[f"single_{i}_{key}"]
                assert np.array_equal(model.codes(wavs)[i].numpy(), codes.reshape(len(codes), -1))
        if f"single_{i}_predicted" in expected:
            features = model.extract([wavs[i]])
            predicted = model.network.predict(features.last_hidden_state)[0]  # type: ignore[operator]
            assert_close(predicted[0].detach().numpy(), expected[f"single_{i}_predicted"], FROM_WAVEFORM)


@pytest.mark.parametrize("case", ON_FEATURES)
@torch.no_grad()
def test_from_the_stored_features_on_the_states_are_within_1e_4(case: str, shared: Path) -> None:
    folder = shared / "parity/upstreams" / case
    expected, model = np.load(folder / "expected.npz"), load(case, folder / "model.pt")
    for i in range(3):
        x = torch.from_numpy(expected[f"fbank_{i}"])[None]
        for number, state in enumerate(model.network(x, torch.tensor([x.shape[1]]))):
            assert_close(state[0].numpy(), expected[f"single_{i}_hidden_{number}"], TOLERANCE)


def test_sequential_checkpoints_of_cpc_carry_nothing_over_unless_asked(shared: Path) -> None:
    folder = shared / "parity/upstreams/cpc_stateful"
    arrays, expected = np.load(folder / "wavs.npz"), np.load(folder / "expected.npz")
    plain, carrying = load("cpc", folder / "model.pt"), load("cpc", folder / "model.pt")
    carrying.carry_state = True  # type: ignore[assignment]
    for call, i in enumerate((0, 1, 0)):
        wav = samples(arrays[f"wav_{i}"])
        for number, state in enumerate(states(carrying, wav)[0]):
            assert_close(state, expected[f"call_{call}_wav_{i}_hidden_{number}"], TOLERANCE)
        for number, state in enumerate(states(plain, wav)[0] if i == 0 else ()):
            assert_close(state, expected[f"call_0_wav_0_hidden_{number}"], TOLERANCE)


def test_carried_states_are_of_one_utterance_at_a_time() -> None:
    model, wavs = load("cpc"), [torch.zeros(4000), torch.zeros(2000)]
    model.carry_state = True  # type: ignore[assignment]
    first, second = states(model, wavs[0])[0][1], states(model, wavs[0])[0][1]
    assert not np.array_equal(first, second)
    with pytest.raises(UsageError, match="one utterance at a time"):
        model.extract(wavs)


# --- files


@pytest.mark.parametrize("case", CASES)
def test_a_file_of_ours_gives_the_same_bits(case: str, tmp_path: Path) -> None:
    model, path = load(case), tmp_path / "model.safetensors"
    name = model.card.name.partition(":")[0]
    model.write(path, name, objective={"predictor.weight": torch.ones(2)}, facts={"note": "tried"})
    assert read_header(path)["upstream"] == name and read_header(path)["note"] == "tried"
    again, wavs = headwater.load(f"ckpt:{path}"), [torch.sin(torch.arange(3000) / 9), torch.ones(1000)]
    assert isinstance(again, Pretrained) and again.settings == model.settings
    for one, two in zip(model.extract(wavs).hidden_states, again.extract(wavs).hidden_states, strict=True):
        assert torch.equal(one, two)


def test_a_file_of_ours_may_be_a_bundle_of_a_run(tmp_path: Path) -> None:
    from headwater.weights import to_bytes

    model, path = load("npc"), tmp_path / "upstream.safetensors"
    path.write_bytes(to_bytes(model.state_dict(), model.facts()))
    again = headwater.load("npc", ckpt=str(path))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_of_cpc_audio_has_its_arguments_beside_it(tmp_path: Path) -> None:
    file = read_pickle(DATA / "cpc.pt")
    torch.save({"gEncoder": file["weights"], "cpcCriterion": {"x": torch.ones(1)}, "best": {}}, tmp_path / "c.pt")
    (tmp_path / "checkpoint_args.json").write_text(json.dumps(file["config"]))
    wav = torch.sin(torch.arange(5000) / 5)
    for one, two in zip(states(load("cpc"), wav)[0], states(load("cpc", tmp_path / "c.pt"), wav)[0], strict=True):
        assert np.array_equal(one, two)
    (tmp_path / "checkpoint_args.json").write_text("[1]")
    with pytest.raises(DataError, match=r"checkpoint_args\.json holds list"):
        load("cpc", tmp_path / "c.pt")


def test_reversed_cpc_sees_what_comes(tmp_path: Path) -> None:
    file = read_pickle(DATA / "cpc.pt")
    file["config"]["cpc_mode"] = "reverse"
    torch.save(file, tmp_path / "model.pt")
    model, wavs = load("cpc", tmp_path / "model.pt"), [torch.randn(n) for n in (8000, 4000)]
    (_, long), (z, c) = states(model, *wavs)
    with torch.no_grad():
        expected = model.network.context(torch.from_numpy(z[::-1].copy())[None])[0][0].flip(0)  # type: ignore[operator]
    assert_close(c, expected.numpy(), 1e-5)
    assert len(long) == 50


def test_newer_spellings_of_weight_norm_are_read(tmp_path: Path) -> None:
    file = read_pickle(DATA / "distilhubert.pt")
    weights = dict(file["Distiller"])
    for before, now in (("weight_g", "original0"), ("weight_v", "original1")):
        weights[f"encoder.pos_conv.0.parametrizations.weight.{now}"] = weights.pop(f"encoder.pos_conv.0.{before}")
    torch.save({**file, "Distiller": weights, "Optimizer": {"state": argparse.Namespace(x=1)}}, tmp_path / "new.ckpt")
    old, new = load("distilhubert").state_dict(), load("distilhubert", tmp_path / "new.ckpt").state_dict()
    assert all(torch.equal(value, new[name]) for name, value in old.items())


Change = Callable[[dict[str, Any]], Any]


def put(key: str, value: Any) -> Change:
    def change(file: dict[str, Any]) -> None:
        *groups, last = key.split("/")
        for group in groups:
            file[group] = dict(file[group])
            file = file[group]
        if value is None:
            del file[last]
        else:
            file[last] = value

    return change


@pytest.mark.parametrize(
    ("case", "change", "says"),
    [
        ("vq_apc", put("config/model/paras/num_layers", 2), r"has layers\.2\.bias_hh_l0"),
        ("vq_apc", put("config/model/paras/hidden_size", 47), r"code_dim \[48\] must add up"),
        ("vq_apc", put("config/model/paras/vq/codebook_size", [32, 32]), "one each a group"),
        ("vq_apc", put("config/model/paras/extra", 1), "unknown setting 'extra'"),
        ("vq_apc", put("config/data/audio/feat_type", "mfcc"), "feat_type is 'mfcc'"),
        ("vq_apc", put("config/data/audio/delta_order", 1), "delta_order"),
        ("vq_apc", put("config/data/audio/cmvn", "false"), "cmvn is 'false'; it is true or false"),
        ("vq_apc", put("config/data/audio/decode_wav", True), "decode_wav"),
        ("vq_apc", put("config/data/audio/feat_dim", 40), r"weight_ih_l0 has the shape \(144, 80\)"),
        ("vq_apc", put("config/data/audio/feat_dim", "many"), "num_mel_bins"),
        ("vq_apc", put("config/data", 3), "needs 'audio'|needs 'data'"),
        ("vq_apc", put("model", None), "needs 'model'"),
        ("vq_apc", put("model/postnet.bias", torch.full((80,), torch.nan)), "holds NaN or infinity"),
        ("npc", put("model/masked_convs.1.conv_mask", torch.rand(32, 32, 15)), "is no mask over the taps"),
        ("npc", put("config/model/paras/kernel_size", 9), "no wider than what the last block may not see"),
        ("npc", put("config/model/paras/activate", "sigmoid"), "activate"),
        ("cpc", put("config/arMode", "transformer"), "arMode"),
        ("cpc", put("config/encoder_type", "mfcc"), "encoder_type is 'mfcc'"),
        ("cpc", put("weights", [1]), "needs 'weights'"),
        ("cpc", put("weights/gEncoder.conv1.bias", torch.ones(3)), r"encoder\.1\.conv\.bias has the shape \(3,\)"),
        ("vq_wav2vec_gumbel", put("model_cfg/aggregator", "gru"), "aggregator"),
        ("vq_wav2vec_gumbel", put("model_cfg/project_features", "new"), "project_features"),
        ("vq_wav2vec_gumbel", put("model_cfg/conv_feature_layers", "[(24, 10, 5)] * 10**9"), "is no list of"),
        ("vq_wav2vec_gumbel", put("model_cfg/conv_feature_layers", "__import__('os')"), "is no list of"),
        ("vq_wav2vec_gumbel", put("model_cfg/vq_groups", 5), "do not divide"),
        ("vq_wav2vec_kmeans", put("model_cfg/vq_vars", 10**15), r"the settings in the file ask for \(1000000000000000"),
        ("distilhubert", put("Config/distiller/layer_norm_first", True), "layer_norm_first"),
        ("distilhubert", put("Config/distiller/out_layer_type", "self-hidden"), "out_layer_type is 'self-hidden'"),
        ("distilhubert", put("Distiller/extra", torch.ones(1)), "has extra, which does not belong"),
        ("distilhubert", put("Config", 1), "needs 'Config'"),
        ("decoar2", put("model/encoder.pos_conv.0.weight_v", None), "no checkpoint of DeCoAR"),
        ("decoar2", put("model/encoder.layers.1.fc1.bias", None), r"lacks encoder\.layers\.1\.up\.bias"),
        (
            "decoar2",
            put("model/encoder.layers.0.self_attn.q_proj.bias", torch.ones(3)),
            r"lacks encoder\.layers\.0\.atte",
        ),
    ],
)
def test_weights_and_settings_that_do_not_fit_are_refused_by_name(
    case: str, change: Change, says: str, tmp_path: Path
) -> None:
    file, path = read_pickle(DATA / f"{case}.pt"), tmp_path / "changed.pt"
    change(file)
    torch.save(file, path)
    with pytest.raises(DataError, match=rf"changed\.pt(.|\n)*({says})"):
        load(case, path)


@pytest.mark.parametrize(
    ("case", "key", "size"),
    [
        ("npc", "model/masked_convs.0.conv_mask", (10**6, 10**6, 15)),
        ("cpc", "weights/gEncoder.batchNorm0.weight", (1, 10**13, 1)),
        ("distilhubert", "Distiller/output_layer.2.bias", (1, 1, 10**7, 10**6)),
        ("decoar2", "model/encoder.layers.0.self_attn.q_proj.weight", (10**7, 10**6)),
        ("vq_apc", "model/postnet.weight", (10**7, 10**6)),
        ("vq_wav2vec_gumbel", "model_weight/vector_quantizer.vars", (1, 10**7, 10**6)),
    ],
)
def test_a_tensor_that_is_larger_than_its_file_is_never_filled(
    case: str, key: str, size: tuple[int, ...], tmp_path: Path
) -> None:
    file, path = read_pickle(DATA / f"{case}.pt"), tmp_path / "bomb.pt"
    put(key, torch.ones(1).expand(size))(file)
    torch.save(file, path)
    with pytest.raises(DataError, match=r"bomb\.pt"):
        load(case, path)


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_checkpoint_of_the_family_is_refused(case: str, tmp_path: Path) -> None:
    for number, content in enumerate(({"args": None, "model": {}}, {}, torch.ones(2), {"config": {}, "weights": {}})):
        torch.save(content, tmp_path / f"{number}.pt")
        with pytest.raises(DataError, match=rf"{number}\.pt"):
            load(case, tmp_path / f"{number}.pt")
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors", {"headwater": json.dumps({"config": {}})})
    with pytest.raises(DataError, match="holds tensors that no such model has: x"):
        load(case, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="no such file"):
        load(case, tmp_path / "nothing.pt")


def test_settings_that_contradict_a_file_are_refused() -> None:
    with pytest.raises(UsageError, match=r"hidden_size is 64, but .*vq_apc\.pt has 48"):
        load("vq_apc", hidden_size=64)
    with pytest.raises(UsageError, match=r"hidden_sze is 64, but .* no such setting.*hidden_size"):
        load("vq_apc", hidden_sze=64)
    assert load("vq_apc", hidden_size=48).settings == load("vq_apc").settings
    with pytest.raises(UsageError, match="has no codewords"):
        load("wav2vec", features="codewords")
    with pytest.raises(UsageError, match="has no codes"):
        load("wav2vec").codes([torch.zeros(1000)])


@pytest.mark.parametrize(
    ("case", "place", "head", "strange"),
    [
        ("cpc", "weights", "wPrediction.0.weight", "gAR.other.weight"),
        ("decoar2", "model", "reconstruction.bias", "encoder.other"),
    ],
)
def test_heads_of_pretraining_are_named_and_the_rest_is_refused(
    case: str, place: str, head: str, strange: str, tmp_path: Path
) -> None:
    name, config = CASES[case]
    file, path = read_pickle(DATA / f"{case}.pt"), tmp_path / "changed.pt"
    file[place][head] = torch.ones(2)
    torch.save(file, path)
    model = headwater.load(name, ckpt=str(path), config=config)
    assert isinstance(model, Pretrained) and head in model.unused
    file[place][strange] = torch.ones(2)
    torch.save(file, path)
    with pytest.raises(DataError, match=f"has {re.escape(strange)}, which does not belong"):
        headwater.load(name, ckpt=str(path), config=config)


@pytest.mark.parametrize("case", CASES)
def test_convert_knows_the_family_of_a_file(case: str, tmp_path: Path, command: Command) -> None:
    source, target = DATA / f"{case}.pt", tmp_path / "out"
    if case == "decoar2":  # its file has no settings: these heads are not the published ones
        assert command("convert", source, target).code == 3
        return
    answer = command("convert", source, target)
    families = {"vq_wav2vec_gumbel": "vq_wav2vec", "cpc": "modified_cpc"}
    assert answer.code == 0 and f"{target}: {families.get(case, case)}, " in answer.out
    assert f"-u ckpt:{target} loads it" in answer.out and "no tensor was left out" in answer.out
    wav = torch.sin(torch.arange(4000) / 7)
    for one, two in zip(
        load(case).extract([wav]).hidden_states, headwater.load(f"ckpt:{target}").extract([wav]).hidden_states
    ):
        assert torch.equal(one, two)
    assert command("convert", source, target).code == 2
    assert command("convert", source, target, "--force", "-u", CASES[case][0]).code == 0


# --- names and fresh weights


@pytest.mark.parametrize(
    "name", ["apc", "vq_apc", "npc", "modified_cpc", "wav2vec", "vq_wav2vec", "distilhubert", "decoar2"]
)
def test_without_its_weights_a_name_says_what_to_fetch_and_where_to_put_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path))
    weights = upstreams[name].weights
    assert weights is not None and weights.url is not None and weights.file is not None
    with pytest.raises(DataError) as told:
        headwater.load(name)
    assert weights.url in str(told.value) and str(tmp_path / "weights" / weights.file) in str(told.value)


def test_official_weights_in_the_cache_are_what_a_name_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path))
    weights = upstreams["wav2vec"].weights
    assert weights is not None
    file = tmp_path / "weights" / str(weights.file)
    file.parent.mkdir(parents=True)
    file.write_bytes((DATA / "wav2vec.pt").read_bytes())
    model = headwater.load("wav2vec_large")
    assert (model.name, model.out_dim) == ("wav2vec", 24)


@pytest.mark.parametrize(
    "name", ["vq_apc", "npc", "modified_cpc", "vq_wav2vec", "vq_wav2vec_kmeans", "distilhubert", "decoar2"]
)
def test_fresh_weights_are_those_of_their_seed(name: str) -> None:
    def state(seed: int) -> dict[str, Tensor]:
        torch.rand(1)  # whatever was drawn before
        return headwater.load(name, config=merge({"random_weights": seed}, upstreams[name].small)).state_dict()

    one, two, other = state(0), state(0), state(1)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


# --- training


@pytest.mark.parametrize("name", ["vq_apc", "npc", "vq_wav2vec", "vq_wav2vec_kmeans"])
def test_in_training_gradient_passes_the_quantizer(name: str) -> None:
    model = headwater.load(name, config=merge({"random_weights": 0}, upstreams[name].small)).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = model.extract([torch.randn(8000), torch.randn(6000)])
        if name in ("vq_apc", "npc"):
            predicted, _ = model.network.predict(features.last_hidden_state)  # type: ignore[operator]
            predicted.square().sum().backward()
        else:
            features.last_hidden_state.square().sum().backward()
    before = {"vq_apc": "layers.0", "npc": "blocks.0", "vq_wav2vec": "features.0", "vq_wav2vec_kmeans": "features.0"}
    for part in ("quantizer", before[name]):
        reached = [p.grad for n, p in model.network.named_parameters() if n.startswith(part) and p.grad is not None]
        assert reached and all(bool((grad != 0).any()) for grad in reached[:1])


@pytest.mark.parametrize("fresh", [False, True], ids=["of the original", "fresh"])
def test_npc_tells_a_frame_from_its_neighbours_alone(fresh: bool) -> None:
    model: Any = (
        headwater.load("npc", config={"random_weights": 0, "hidden_size": 24, "vq": None}) if fresh else load("npc")
    )
    frame, wide = 30, model.settings.mask_size // 2
    x = torch.randn(1, 60, 80, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[0, frame - wide : frame + wide + 1] += 3.0
    with torch.no_grad():
        one, two = (model.network(y, torch.tensor([60]))[-1][0] for y in (x, changed))
    assert torch.equal(one[frame], two[frame])
    assert not torch.equal(one[frame - 1], two[frame - 1]) and not torch.equal(one[frame + 1], two[frame + 1])


def test_apc_sees_nothing_that_comes() -> None:
    model = load("vq_apc")
    x = torch.randn(1, 40, 80, generator=torch.Generator().manual_seed(0))
    changed = torch.cat([x[:, :25], x[:, 25:] + 1], dim=1)
    with torch.no_grad():
        one, two = (model.network(y, torch.tensor([40]))[-1][0] for y in (x, changed))
    assert torch.equal(one[:25], two[:25]) and not torch.equal(one[25], two[25])
