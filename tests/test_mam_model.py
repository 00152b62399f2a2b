"""Mockingjay, TERA and Audio ALBERT as upstreams: sizes, lengths, chunks, pruning, and their own weight files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from acoustic import KINDS, SMALL, model, same, small, states_of
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

import headwater
from headwater.errors import DataError, UsageError
from headwater.mam.model import MaskedAcousticModel, read_weights
from headwater.mam.settings import Settings, build_head, build_transformer, input_dim_of, target_of
from headwater.mam.weights import read_model, transformer_shapes, write_model
from headwater.nn.transformer import chunk_lengths
from headwater.registry import upstreams
from headwater.settings import merge

CKPT = ROOT / "tests/data/s3prl/tera_chunked.ckpt"
every_kind = pytest.mark.parametrize("kind", KINDS)


def noise(samples: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def frames(count: int, dim: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(1, count, dim, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def run(upstream: MaskedAcousticModel, x: Tensor) -> tuple[Tensor, ...]:
    return upstream.hidden_states(x, torch.full((len(x),), x.shape[1]))[0]


def close(one: Tensor, two: Tensor, tolerance: float = 1e-5) -> bool:
    return one.shape == two.shape and float((one - two).abs().max()) <= tolerance * float(one.square().mean().sqrt())


# Sizes.

MEL: dict[str, Any] = {"n_mels": 80, "input": {"feat_type": "mel"}}
LINEAR: dict[str, Any] = {**MEL, "target": {"feat_type": "linear"}}
FBANK: dict[str, Any] = {"kaldi": {"feat_type": "fbank", "fbank": {"num_mel_bins": 80}}, "delta": {"order": 2}}


@pytest.mark.parametrize(
    ("transformer", "audio", "target", "without_head", "with_head"),
    [
        pytest.param({}, MEL, None, 21_327_360, 21_981_008, id="tera base"),
        pytest.param({"num_hidden_layers": 12}, LINEAR, None, 85_118_208, 85_864_905, id="mockingjay large"),
        pytest.param({"share_layer": True}, MEL, None, 7_151_616, 7_805_264, id="audio albert"),
        pytest.param({}, FBANK, None, 21_450_240, 22_226_928, id="mockingjay base, fbank"),
        pytest.param({"num_hidden_layers": 6}, MEL, None, 42_590_976, None, id="six layers"),
        pytest.param({"input_dim": 40}, {}, None, 21_296_640, None, id="tera fMLLR base"),
        pytest.param({"input_dim": 40, "num_hidden_layers": 12}, {}, None, 85_087_488, None, id="tera fMLLR large"),
        pytest.param({"input_dim": 160}, {}, None, 21_388_800, None, id="mockingjay mel160"),
        pytest.param(
            {"input_dim": 160, "num_hidden_layers": 12, "downsample_rate": 3},
            {},
            1025,
            85_425_408,
            85_425_408 + 2_956_803,
            id="mockingjay mel160 large, stacked",
        ),
        pytest.param(
            {"input_dim": 80, "share_layer": True, "downsample_rate": 3},
            {},
            None,
            7_274_496,
            None,
            id="audio albert, stacked",
        ),
    ],
)
def test_the_published_architectures_have_the_published_numbers_of_parameters(
    transformer: dict[str, Any], audio: dict[str, Any], target: int | None, without_head: int, with_head: int | None
) -> None:
    chosen = Settings.model_validate({"transformer": transformer, "audio": audio})
    dim = input_dim_of(chosen)
    out = target or (target_of(audio).out_dim if audio else dim)
    with torch.device("meta"):
        parts = build_transformer(chosen, dim), build_head(chosen, out)
    counts = [sum(parameter.numel() for parameter in part.parameters()) for part in parts]
    assert counts[0] == without_head
    assert with_head is None or sum(counts) == with_head


# Lengths and time.


@pytest.mark.parametrize("kind", ["post_norm", "stacked"])
def test_frames_are_known_for_every_length_of_a_short_waveform(kind: str) -> None:
    upstream = model(kind, transformer={"num_hidden_layers": 1})
    wav = noise(3000)
    for first in range(1, 3001, 250):
        samples = range(first, first + 250)
        with torch.no_grad():
            features = upstream.extract([wav[:count] for count in samples])
        assert features.lengths.tolist() == [upstream.frames(count) for count in samples]
        assert int(features.lengths.min()) >= 1


def test_a_stacked_frame_lies_in_the_middle_of_its_frames() -> None:
    plain, stacked = model("post_norm"), model("stacked")
    assert (stacked.stride, stacked.offset) == (3 * plain.stride, plain.offset + plain.stride)
    even = model("stacked", transformer={"downsample_rate": 2})
    assert (even.stride, even.offset) == (2 * plain.stride, plain.offset + plain.stride / 2)


def test_frames_that_fill_no_stack_are_dropped_and_a_short_utterance_is_filled_with_zeros() -> None:
    upstream, x = model("stacked"), frames(11)
    for one, two in zip(run(upstream, x), run(upstream, x[:, :9])):
        assert torch.equal(one, two)
    filled = torch.cat([x[:, :2], torch.zeros(1, 1, 16)], 1)
    for one, two in zip(run(upstream, x[:, :2]), run(upstream, filled)):
        assert torch.equal(one, two)
    with torch.no_grad():  # in a batch, where something else lies beyond it
        states, lengths = upstream.hidden_states(torch.cat([x, x]), torch.tensor([11, 2]))
    assert lengths.tolist() == [3, 1]
    assert close(states[-1][1, :1], run(upstream, filled)[-1][0]) and not states[-1][1, 1:].any()


@every_kind
@settings(max_examples=12, deadline=None)
@given(samples=st.lists(st.integers(1, 6000), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_an_utterance_is_the_same_alone_and_in_any_batch(kind: str, samples: list[int], seed: int) -> None:
    upstream = model(kind)
    wavs = [noise(count, seed + i) for i, count in enumerate(samples)]
    with torch.no_grad():
        together = upstream.extract(wavs)
        for row, wav in enumerate(wavs):
            alone, length = upstream.extract([wav]), int(together.lengths[row])
            for one, two in zip(alone.hidden_states, together.hidden_states, strict=True):
                assert close(one[0], two[row, :length]) and not two[row, length:].any()


# Chunks.


@every_kind
def test_a_long_utterance_is_its_chunks_one_by_one(kind: str) -> None:
    upstream = model(kind, transformer={"downsample_rate": 1}, task={"sequence_length": 7})
    x = frames(24)
    pieces = x.split(chunk_lengths(24, 7), dim=1)
    assert [piece.shape[1] for piece in pieces] == [6, 6, 6, 6]
    for whole, *parts in zip(run(upstream, x), *(run(upstream, piece) for piece in pieces)):
        assert close(whole, torch.cat(parts, 1))


@settings(max_examples=200)
@given(length=st.integers(1, 5000), limit=st.integers(0, 5000))
def test_chunks_are_those_of_torch(length: int, limit: int) -> None:
    expected = [length]
    if 0 < limit < length:
        expected = [len(chunk) for chunk in torch.chunk(torch.zeros(length), -(-length // limit))]
    assert chunk_lengths(length, limit) == expected


def test_the_user_chooses_the_chunk() -> None:
    x = frames(42, 80)
    assert upstream_of({}).settings.task.sequence_length == 40
    whole, cut = upstream_of({"sequence_length": 0}), upstream_of({"sequence_length": 21})
    assert torch.equal(run(upstream_of({}), x)[-1], run(cut, x)[-1])  # 42 frames are two chunks of 21 in both
    assert torch.equal(run(whole, x)[-1], run(upstream_of({"sequence_length": 42}), x)[-1])
    assert not close(run(whole, x)[-1], run(cut, x)[-1], 0.1)


# Analysis: heads and reach.


@every_kind
def test_pruning_a_head_is_zeroing_what_it_gives(kind: str) -> None:
    upstream = model(kind, transformer={"prune_headids": "5,8-10"}, task={"sequence_length": 0})
    reference = model(kind, task={"sequence_length": 0})
    x = frames(30)
    if kind == "shared":  # layers 1 and 2 are one module: each use of it has its own heads
        transformer = reference.transformer
        per_layer = {1: [1], 2: [0, 1]}
        with torch.no_grad():
            states, lengths = list(transformer(x, torch.tensor([30]))[:1]), torch.tensor([30])
            for number in range(3):
                twin = model(kind, task={"sequence_length": 0}).transformer
                _zero(twin, 0, per_layer.get(number, []))
                rows = twin._begin(x, lengths)[2]
                states.append(twin.layer(0)(states[-1][0], rows)[None])
        expected = tuple(states)
    else:
        _zero(reference.transformer, 1, [1])
        _zero(reference.transformer, 2, [0, 1])
        expected = run(reference, x)
    for one, two in zip(run(upstream, x), expected, strict=True):
        assert close(one, two)
    assert not close(run(upstream, x)[-1], run(model(kind, task={"sequence_length": 0}), x)[-1], 1e-3)


def _zero(transformer: Any, layer: int, heads: list[int]) -> None:
    width = 24 // 4
    with torch.no_grad():
        for head in heads:
            transformer.layer(layer).attention.output.weight[:, head * width : (head + 1) * width] = 0


def test_pruning_is_written_as_in_s3prl() -> None:
    for written in ("0, 1,4-7", [0, 1, 4, 5, 6]):
        assert upstream_of({"prune_headids": written}).settings.transformer.prune_headids == [0, 1, 4, 5, 6]
    assert upstream_of({"prune_headids": 3}).settings.transformer.prune_headids == [3]
    one, two = upstream_of({"prune_headids": "0,1,4-7"}), upstream_of({"prune_headids": None})
    assert one.transformer.kept is not None and two.transformer.kept is None
    assert one.transformer.kept.tolist() == [[0, 0, 1, 1], [0, 0, 0, 1]]
    assert not any("kept" in name for name in one.state_dict())


@pytest.mark.parametrize("written", ["0-", "one", "", "0;1", "8", [8], [-1], "0-9999999", "6-9", "5-3"])
def test_heads_that_are_not_there_are_refused(written: Any) -> None:
    with pytest.raises(UsageError, match="prune_headids"):
        upstream_of({"prune_headids": written})


def test_within_its_reach_attention_is_as_without_and_beyond_it_is_zero() -> None:
    x, lengths = frames(30, 80), torch.tensor([30])
    near, far = upstream_of({"attention_reach": 4}), upstream_of({})
    first, free = near.attention_maps(x, lengths)[0], far.attention_maps(x, lengths)[0]
    distance = (torch.arange(30)[:, None] - torch.arange(30)).abs()
    assert not first[..., distance > 4].any() and torch.equal(first[..., distance <= 4], free[..., distance <= 4])
    assert torch.allclose(free.sum(-1), torch.tensor(1.0))
    assert close(run(upstream_of({"attention_reach": 29}), x)[-1], run(far, x)[-1])
    assert not close(run(near, x)[-1], run(far, x)[-1], 1e-3)


def test_there_is_one_attention_map_a_layer_over_stacked_frames() -> None:
    maps = model("stacked").attention_maps(frames(31).repeat(2, 1, 1), torch.tensor([31, 17]))
    assert [tuple(map.shape) for map in maps] == [(2, 4, 10, 10)] * 3
    assert not maps[0][1, :, :, 5:].any()


# Fine-tuning.


@every_kind
def test_gradient_reaches_every_parameter(kind: str) -> None:
    upstream = model(kind).train()
    features = upstream.extract([noise(9000), noise(2000, 1)])
    sum((state * frames(1, state.shape[-1], i)).sum() for i, state in enumerate(features.hidden_states)).backward()  # type: ignore[union-attr]
    silent = [name for name, value in upstream.named_parameters() if value.grad is None or not value.grad.any()]
    assert not silent


def test_dropout_is_that_of_the_weight_file_and_off_in_eval() -> None:
    upstream, x = upstream_of({}), frames(20, 80)
    assert upstream.settings.transformer.hidden_dropout_prob == 0.1
    assert torch.equal(run(upstream, x)[-1], run(upstream, x)[-1])
    upstream.train()
    assert not torch.equal(run(upstream, x)[-1], run(upstream, x)[-1])


# From a card, a file and what the user wants.


def upstream_of(config: dict[str, Any], ckpt: Path | None = CKPT) -> MaskedAcousticModel:
    upstream = headwater.load("tera", ckpt=ckpt and str(ckpt), config=config)
    assert isinstance(upstream, MaskedAcousticModel)
    return upstream


@pytest.mark.parametrize("name", ["tera", "mockingjay", "audio_albert"])
def test_every_name_of_the_family_reads_the_file(name: str) -> None:
    upstream = headwater.load(name, ckpt=str(CKPT))
    assert isinstance(upstream, MaskedAcousticModel) and upstream.in_dim == 80 and upstream.layer_dims == (32,) * 3
    assert upstream.layer_names == ("input", "layer 1", "layer 2")


def test_without_weights_there_is_no_model() -> None:
    with pytest.raises(UsageError, match=r"needs weights: .*random_weights=SEED"):
        MaskedAcousticModel.from_card(upstreams["tera"], None, {})


def test_a_random_twin_has_the_architecture_and_weights_of_its_seed() -> None:
    trained, one, two, again = (upstream_of(c) for c in ({}, *({"random_weights": seed} for seed in (7, 8, 7))))
    for twin in (one, two):
        assert twin.settings == trained.settings
        shapes = [{name: value.shape for name, value in m.state_dict().items()} for m in (twin, trained)]
        assert shapes[0] == shapes[1]
    weight = "transformer.layers.0.up.weight"
    states = [dict(upstream.state_dict()) for upstream in (trained, one, two, again)]
    assert not torch.equal(states[0][weight], states[1][weight])
    assert not torch.equal(states[1][weight], states[2][weight])
    assert same(states[1], states[3])
    assert float(states[1][weight].std()) == pytest.approx(0.02, rel=0.1)


def test_a_random_twin_without_a_file_has_the_architecture_of_the_card_and_the_user() -> None:
    card = upstreams["tera"]
    few = {key: SMALL["transformer"][key] for key in ("hidden_size", "intermediate_size")}
    upstream = MaskedAcousticModel.from_card(card, None, {"random_weights": 0, "transformer": few})
    said = merge(card.config, {"transformer": few})
    assert upstream.settings == Settings.model_validate(said)


def test_loading_draws_no_random_numbers() -> None:
    for config in ({}, {"random_weights": 3}):
        torch.manual_seed(0)
        before = torch.get_rng_state()
        upstream_of(config)
        assert torch.equal(torch.get_rng_state(), before)


def test_what_the_file_says_may_be_said_again() -> None:
    raw = read_weights(CKPT).settings.model_dump()
    upstream_of({"transformer": raw["transformer"], "audio": raw["audio"]})
    upstream_of({"transformer": {"input_dim": 80, "layer_norm_eps": 1e-12}})


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"transformer": {"hidden_size": 64}}, r"transformer\.hidden_size is 64, but .*tera_chunked\.ckpt has 32"),
        ({"audio": {"n_mels": 40}}, r"audio\.n_mels is 40, but .*tera_chunked\.ckpt has 80"),
        ({"audio": {"input": {"feat_type": "linear"}}}, r"audio\.input\.feat_type is 'linear', .* has 'mel'"),
        ({"audio": {"kaldi": {"feat_type": "fbank"}}}, r"audio\.kaldi\.feat_type is 'fbank', .* has no such setting"),
        ({"transformer": {"hiden_size": 32}}, r"has no such setting.* Did you mean 'transformer\.hidden_size'"),
        ({"sequence_lenght": 3}, r"unknown setting .*Did you mean 'sequence_length'"),
        ({"sequence_length": -1}, "sequence_length"),
        ({"attention_reach": -1}, "attention_reach"),
        ({"random_weights": "x"}, "random_weights"),
    ],
)
def test_what_the_file_does_not_say_is_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        upstream_of(config)


def test_a_model_on_features_refuses_waveforms_by_name() -> None:
    upstream = upstream_of({}, ROOT / "tests/data/s3prl/tera_v01.ckpt")
    with pytest.raises(UsageError, match=r"tera.* no front-end.*\(T, 40\)"):
        upstream.extract([noise(4000)])
    assert tuple(upstream.extract([frames(9, 40)[0]]).last_hidden_state.shape) == (1, 9, 32)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"transformer": {"hidden_size": 25}}, "hidden_size 25 is not a multiple of num_attention_heads 4"),
        ({"transformer": {"input_dim": 0}}, "input_dim is 0"),
        ({"transformer": {"first_norm": False}}, "first_norm"),
        ({"transformer": {"num_conv_pos_embeddings": 4}}, "num_conv_pos_embeddings 4 has no frame in its middle"),
        ({"task": {"mask_consecutive_min": 9}}, "mask_consecutive_min 9 is above"),
        ({"task": {"position_encoding_size": 768}}, "position_encoding_size is 768, transformer.hidden_size 24"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        small(**change)


# Our own files.


@every_kind
@pytest.mark.parametrize("with_head", [True, False])
def test_what_was_written_is_read_again(tmp_path: Path, kind: str, with_head: bool) -> None:
    chosen = small(kind)
    transformer, head = states_of(chosen)
    write_model(tmp_path / "model.safetensors", "tera", chosen, transformer, head if with_head else None)
    read = read_weights(tmp_path / "model.safetensors")
    assert (read.generation, read.settings) == ("headwater", chosen)
    assert same(read.transformer, transformer) and same(read.head, head if with_head else None)
    upstream = upstream_of({}, tmp_path / "model.safetensors")
    assert same(dict(upstream.transformer.state_dict()), transformer)


def test_half_the_precision_is_half_the_file_and_is_read_into_float32(tmp_path: Path) -> None:
    chosen = small()
    transformer, _ = states_of(chosen)
    for dtype in (torch.float32, torch.float16):
        write_model(tmp_path / f"{dtype}", "tera", chosen, transformer, facts={"licence": "CC0-1.0"}, dtype=dtype)
    read = read_model(tmp_path / "torch.float16").transformer
    assert same(read, {name: value.half().float() for name, value in transformer.items()})
    full, half = ((tmp_path / f"{dtype}").stat().st_size for dtype in (torch.float32, torch.float16))
    assert half < 0.6 * full


GOOD = json.dumps({"upstream": "tera", "config": small().model_dump(mode="json")})


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (None, "none that headwater wrote.* It holds transformer.input_norm.bias"),
        ("not json", "not a JSON object"),
        ("[1, 2]", "not a JSON object"),
        ("[" * 5000, "not a JSON object"),
        ('{"upstream": "tera"}', "no settings"),
        ('{"config": [1]}', "no settings"),
        ('{"config": {"transformer": 3}}', "'transformer' is a group of settings"),
        ('{"config": {"transformer": {"hidden_size": "x"}}}', r"transformer\.hidden_size"),
        (GOOD.replace('"layer_norm_eps": 1e-12', '"layer_norm_eps": NaN'), "layer_norm_eps"),
        (GOOD.replace('"num_hidden_layers": 3', '"num_hidden_layers": 4'), r"lacks layers\.3\.attention"),
        (GOOD.replace('"num_hidden_layers": 3', '"num_hidden_layers": 2'), r"has layers\.2\.attention"),
        (
            GOOD.replace('"intermediate_size": 40', '"intermediate_size": 41'),
            r"up\.weight has the shape \(40, 24\); .* \(41, 24\)",
        ),
        (GOOD.replace('"feat_type": "mel"', '"feat_type": "smell"'), r"input\.feat_type"),
        (GOOD.replace('"n_mels": 16', '"n_mels": 17'), r"projection\.weight has the shape \(24, 16\)"),
    ],
)
def test_a_header_that_describes_no_model_or_another_is_refused(tmp_path: Path, header: str | None, says: str) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {f"transformer.{name}": value for name, value in states_of(small())[0].items()}
    save_file(tensors, path, metadata=None if header is None else {"headwater": header})
    with pytest.raises(DataError, match=rf"model\.safetensors(.|\n)*{says}"):
        read_weights(path)


@pytest.mark.parametrize("extra", ["other.weight", "head.more"])
def test_tensors_that_do_not_belong_are_refused(tmp_path: Path, extra: str) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {f"transformer.{name}": value for name, value in states_of(small())[0].items()}
    save_file({**tensors, extra: torch.ones(1)}, path, metadata={"headwater": GOOD})
    with pytest.raises(DataError, match=extra.removeprefix("head.")):
        read_weights(path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "not a weight file"),
        (lambda path: path.write_bytes(b""), "not a whole weight file"),
        (lambda path: path.write_bytes(b"RIFF....WAVEfmt "), "not a whole weight file"),
        (lambda path: path.write_bytes(bytes(8) + b"{"), "not a whole safetensors file"),
    ],
    ids=["missing", "folder", "empty", "sound", "cut"],
)
def test_what_is_no_weight_file_is_refused(tmp_path: Path, make: Any, says: str) -> None:
    make(tmp_path / "weights")
    with pytest.raises(DataError, match=says):
        read_weights(tmp_path / "weights")


def test_shapes_are_known_without_drawing_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(*arguments: object, **settings: object) -> None:
        raise AssertionError("weights were drawn to learn their shapes")

    monkeypatch.setattr(torch.nn.init, "normal_", drawn)
    assert transformer_shapes(small())
