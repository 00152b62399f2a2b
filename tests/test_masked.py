"""Masked prediction of clusters and contrastive learning: spans, the original's losses, and runs from command to upstream."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT
from corpora import make_corpus
from faults import command
from loops import same
from test_pretrain import last_module, result_of

import headwater
from headwater.cli.pretrain import parser, settings_of
from headwater.config import PretrainConfig
from headwater.errors import UsageError
from headwater.fairseq import read_fairseq
from headwater.hf.files import read_encoder
from headwater.masked.clusters import ClusterSettings, MaskedPrediction
from headwater.masked.contrastive import Contrastive, ContrastiveSettings
from headwater.masked.spans import SpanSettings, compact, draw
from headwater.nn.lengths import mask
from headwater.registry import objectives
from headwater.settings import validate
from headwater.train.objective import Share
from headwater.units.folder import write_units
from headwater.weights import read_header, read_safetensors

FRAMES = (
    "model.transformer.hidden_size=16,,model.transformer.num_attention_heads=2,,model.transformer.num_hidden_layers=1,,"
    "model.transformer.intermediate_size=32,,model.final_dim=8,,min_seconds=0,,crop_seconds=0.4,,batch.size=4,,dev_share=0.2,,"
    "runner.total_steps=8,,runner.eval_step=4,,runner.save_step=3,,runner.log_step=2"
)
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
}
QUANTIZER = "model.quantizer.entries=6,,model.quantizer.dim=8,,model.negatives=7"


ABOUT = {"sample_rate": 16000, "stride": 320, "offset": 200, "source": {}}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("same_count", [False, True])
def test_spans_mask_about_what_is_asked_and_never_padding(same_count: bool) -> None:
    lengths = torch.tensor([400, 400, 300, 250] * 50)
    covered = draw(SpanSettings(probability=0.65, length=10, same=same_count), lengths, generator())
    assert covered.shape == (200, 400) and not (covered & ~mask(lengths, 400)).any()
    counts = covered.sum(1)
    if same_count:
        assert len(counts.unique()) == 1
    else:  # 1 - (1 - 1/400)^... : overlapping spans leave about exp(-0.65) uncovered
        share = (counts / lengths).mean()
        assert float(share) == pytest.approx(1 - np.exp(-0.65), abs=0.03)
        runs = (covered[:, 1:] & ~covered[:, :-1]).sum(1) + covered[:, 0].long()
        assert (counts >= 10 * runs).all(), "spans are whole, and longer only where they touch"


def test_spans_are_a_function_of_the_generator_and_short_utterances_have_two() -> None:
    lengths = torch.tensor([12, 14, 40])
    policy = SpanSettings(probability=0.01, length=10, same=False)
    first = draw(policy, lengths, generator(4))
    assert torch.equal(first, draw(policy, lengths, generator(4)))
    assert (first.sum(1) > 10).all(), "two spans, from different frames"
    assert policy.too_short(11) and not policy.too_short(12)
    frames = torch.arange(3 * 40).view(3, 40)
    packed, there = compact(frames[..., None], first)
    for row in range(3):
        assert packed[row, there[row], 0].tolist() == frames[row, first[row]].tolist()


class _Wav2Vec2(Contrastive):
    upstream = "wav2vec2"


class _Hubert(MaskedPrediction):
    upstream = "hubert"


def originals(
    case: str, shared: Path
) -> tuple[Any, dict[str, Any], list[torch.Tensor], dict[str, Any], dict[str, Any]]:
    folder = shared / "parity/upstreams"
    encoder, weights = read_encoder(folder / case / "model.pt"), read_fairseq(folder / case / "model.pt").weights
    with np.load(folder / "objectives/expected.npz") as file:
        expected = {
            key.removeprefix(f"{case}__"): torch.from_numpy(file[key]) for key in file.files if key.startswith(case)
        }
    with np.load(folder / case / "wavs.npz") as file:
        wav = torch.from_numpy(file["wav_1"])
    settings = {"architecture": encoder.settings.architecture, "normalize": encoder.settings.normalize, "final_dim": 16}
    return encoder, dict(weights), [wav], settings, expected


def loss_of(
    objective: Any, wavs: list[torch.Tensor], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> float:
    monkeypatch.setattr(objective, "covered", lambda share: expected["mask"])
    lengths = torch.tensor([expected["mask"].shape[1]])
    with torch.no_grad():
        sums, counts = objective.eval()(wavs, Share(lengths, 0, 1, generator(), places=(("a", 0),)))
    assert int(counts) == int(expected["mask"].sum())
    return float(sums)


def linear(weights: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: weights[f"{name}.{key}"] for key in ("weight", "bias")}


@pytest.mark.parametrize(("case", "penalty"), [("wav2vec2_base", 10.0), ("wav2vec2_large_ll60k", 0.0)])
def test_the_contrastive_loss_is_the_originals(
    case: str, penalty: float, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, weights, wavs, settings, expected = originals(case, shared)
    quantizer = {"groups": 2, "entries": 20, "dim": 16}
    objective = _Wav2Vec2(
        validate(ContrastiveSettings, {**settings, "feature_penalty": penalty, "quantizer": quantizer})
    )
    objective.encoder.upstream.model.load_state_dict(encoder.weights)  # type: ignore[union-attr]
    named = {"codevectors": weights["quantizer.vars"]}
    named |= {f"weight_proj.{key}": value for key, value in linear(weights, "quantizer.weight_proj").items()}
    objective.quantizer.load_state_dict(named)
    objective.project_q.load_state_dict(linear(weights, "project_q"))
    objective.project_hid.load_state_dict(linear(weights, "final_proj"))
    places = expected["negative_indices"].long()[None]
    monkeypatch.setattr(objective, "_drawn", lambda counts, share: (places, None))
    found: list[torch.Tensor] = []
    logits = objective.logits
    monkeypatch.setattr(objective, "logits", lambda *given: found.append(logits(*given)) or found[-1])
    assert loss_of(objective, wavs, expected, monkeypatch) == pytest.approx(float(expected["loss_total"]), rel=1e-5)
    torch.testing.assert_close(found[0][0].clamp(min=-1e9), expected["logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["hubert_base", "hubert_large_ll60k"])
def test_the_loss_of_masked_prediction_is_the_originals(
    case: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, weights, wavs, settings, expected = originals(case, shared)
    targets = expected["targets"][0].numpy()
    write_units(tmp_path, {"a": targets}, torch.zeros(30, 3), ABOUT)
    objective = _Hubert(validate(ClusterSettings, {**settings, "feature_penalty": 10.0, "units": str(tmp_path)}))
    objective.encoder.upstream.model.load_state_dict(encoder.weights)  # type: ignore[union-attr]
    objective.final.load_state_dict(linear(weights, "final_proj"))
    objective.clusters.data = weights["label_embs_concat"]
    assert loss_of(objective, wavs, expected, monkeypatch) == pytest.approx(float(expected["loss_total"]), rel=1e-5)


def test_targets_are_the_units_nearest_in_time_wherever_a_crop_begins(tmp_path: Path) -> None:
    numbers = np.arange(200)
    write_units(
        tmp_path,
        {"a": numbers},
        torch.zeros(200, 3),
        {"sample_rate": 16000, "stride": 160, "offset": 200, "source": {}},
    )
    objective = _Hubert(
        validate(ClusterSettings, {"architecture": {"model_type": "hubert", **TINY}, "units": str(tmp_path)})
    )
    share = Share(torch.tensor([5]), 0, 1, generator(), places=(("a", 1000),))
    # Frames of 20 ms centred at 1200, 1520, ...: 6.25, 8.25, ... units of 10 ms after the first centre, 200.
    assert objective.targets(share, torch.tensor([5]), 5).tolist() == [[6, 8, 10, 12, 14]]
    late = Share(torch.tensor([3]), 0, 1, generator(), places=(("a", 31700),))
    assert objective.targets(late, torch.tensor([3]), 3).tolist() == [[198, 199, 199]], "the last unit where they end"


def test_negatives_are_other_masked_frames_of_the_utterance() -> None:
    settings = {
        "architecture": {"model_type": "wav2vec2", **TINY},
        "quantizer": {"entries": 6, "dim": 8},
        "negatives": 500,
    }
    objective = _Wav2Vec2(validate(ContrastiveSettings, settings))
    counts = torch.tensor([4, 7])
    places, noise = objective.train()._drawn(counts, Share(torch.tensor([40, 50]), 0, 1, generator()))
    assert noise is not None and noise.shape == (2, 7, 2, 6) and bool(torch.isfinite(noise).all())
    for row, count in enumerate(counts.tolist()):
        for place in range(count):
            assert set(places[row, place].tolist()) == set(range(count)) - {place}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"), speakers=4, utterances=5)


@pytest.fixture(scope="module")
def units(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("units") / "mel"
    said = command("units", "-u", "mel", "-c", "6", "--data", str(corpus), "-p", str(folder), "--device", "cpu")
    assert said.code == 0, said.err
    return folder


@pytest.fixture(scope="module")
def waveforms(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A file of settings for a tiny encoder on waveforms."""

    def write(kind: str) -> Path:
        model: dict[str, Any] = {"audio": {}, "architecture": {"model_type": kind, **TINY}, "final_dim": 8}
        model |= {"layerdrop": 0.3, "feature_grad": 0.1, "feature_penalty": 10.0, "mask": {"length": 3}}
        model |= {"quantizer": {"entries": 6, "dim": 8}, "negatives": 7} if kind == "wav2vec2" else {}
        path = tmp_path_factory.mktemp("settings") / f"{kind}.yaml"
        path.write_text(json.dumps({"model": model}))  # which is YAML, too
        return path

    return write


def words(kind: str, on: str, corpus: Path, units: Path, waveforms: Callable[[str], Path]) -> list[str]:
    more = ["-o", f"model.units={units}"] if kind == "hubert" else ["-o", QUANTIZER]
    given = ["-c", str(waveforms(kind))] if on == "waveforms" else []
    small = FRAMES if on == "frames" else ",,".join(one for one in FRAMES.split(",,") if not one.startswith("model."))
    return ["-u", kind, "--data", str(corpus), "--device", "cpu", *given, "-o", small, *more]


@pytest.mark.parametrize("on", ["frames", "waveforms"])
@pytest.mark.parametrize("kind", ["hubert", "wav2vec2"])
def test_a_run_writes_the_upstream_that_it_trained_and_the_same_bits_again(
    kind: str, on: str, corpus: Path, units: Path, waveforms: Callable[[str], Path], tmp_path: Path
) -> None:
    arguments = words(kind, on, corpus, units, waveforms)
    said = command("pretrain", *arguments, "-p", str(tmp_path / "run"))
    assert said.code == 0, said.err
    result = result_of(tmp_path / "run")
    assert result["objective"]["upstream"] == (f"{kind}_frames" if on == "frames" else kind)
    assert all(np.isfinite(row["loss"]) for row in result["history"] if "loss" in row)
    best = read_safetensors(tmp_path / "run/checkpoint" / f"best-{result['best_step']}.safetensors")
    prefix = "encoder.transformer." if on == "frames" else "encoder.upstream.model."
    trained = {name.removeprefix(prefix): value for name, value in best.items() if name.startswith(prefix)}
    model: Any = headwater.load(f"ckpt:{tmp_path / 'run'}")
    assert same(dict((model.transformer if on == "frames" else model.model).state_dict()), trained)
    wav = torch.from_numpy(soundfile.read(corpus.parent / "wav/spk00/spk00-00.wav", dtype="float32")[0])
    assert all(bool(torch.isfinite(state).all()) for state in model.extract([wav]).hidden_states)
    if on == "waveforms":
        heads = (
            {"quantizer.codevectors", "project_q.weight", "project_hid.bias"}
            if kind == "wav2vec2"
            else {"final_proj.weight"}
        )
        assert heads <= set(model.unused)
    assert (read_header(tmp_path / "run/model.safetensors").get("units") is None) == (kind == "wav2vec2")
    assert command("pretrain", *arguments, "-p", str(tmp_path / "again")).code == 0
    assert same(last_module(tmp_path / "run"), last_module(tmp_path / "again"))


def test_clusters_are_learnt_where_they_can_be(
    corpus: Path, units: Path, waveforms: Callable[[str], Path], tmp_path: Path
) -> None:
    arguments = words("hubert", "frames", corpus, units, waveforms)
    more = "runner.total_steps=200,,runner.eval_step=100,,optimizer.lr=3e-3,,runner.log_step=20"
    assert command("pretrain", *arguments, "-o", more, "-p", str(tmp_path)).code == 0
    losses = [row["loss"] for row in result_of(tmp_path)["history"] if "loss" in row]
    assert losses[-1] < 0.8 * losses[0]


def test_what_hubert_needs_to_know_it_is_told_by_name(
    corpus: Path, units: Path, waveforms: Callable[[str], Path], tmp_path: Path
) -> None:
    arguments = words("hubert", "frames", corpus, units, waveforms)
    said = command("pretrain", *arguments[:-2], "-p", str(tmp_path / "run"))
    assert said.code == 2 and "model.units is missing" in said.err and "headwater units" in said.err
    other = make_corpus(tmp_path / "other", speakers=5, utterances=3)
    said = command("pretrain", *arguments, "--data", str(other), "-p", str(tmp_path / "run"))
    assert said.code == 3 and "no units for" in said.err and "spk04" in said.err
    longer = tmp_path / "longer"
    shutil.copytree(corpus.parent, longer)
    wav, rate = soundfile.read(longer / "wav/spk00/spk00-00.wav", dtype="float32")
    soundfile.write(longer / "wav/spk00/spk00-00.wav", np.concatenate([wav, wav[: rate // 5]]), rate)
    said = command("pretrain", *arguments, "--data", str(longer / corpus.name), "-p", str(tmp_path / "run"))
    assert said.code == 3 and "'spk00-00'" in said.err and "they are of other audio" in said.err


def test_units_that_were_moved_do_not_change_a_run_and_other_units_do(
    corpus: Path, units: Path, waveforms: Callable[[str], Path], tmp_path: Path
) -> None:
    arguments = words("hubert", "frames", corpus, units, waveforms)
    assert command("pretrain", *arguments, "-p", str(tmp_path / "run")).code == 0
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in units.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    said = command("pretrain", *arguments, "-o", f"model.units={moved}", "-p", str(tmp_path / "run"))
    assert said.code == 0 and "finished" in said.out, said.err
    said = command(
        "units",
        "-u",
        "mel",
        "-c",
        "6",
        "--seed",
        "2",
        "--data",
        str(corpus),
        "-p",
        str(tmp_path / "others"),
        "--device",
        "cpu",
    )
    assert said.code == 0
    said = command("pretrain", *arguments, "-o", f"model.units={tmp_path / 'others'}", "-p", str(tmp_path / "run"))
    assert said.code == 2 and "units" in said.err


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "nothing to learn from"),
        ({"architecture": {"model_type": "wavlm"}}, "model_type is 'wavlm'"),
        ({"architecture": {"model_type": "wav2vec2"}, "audio": {"n_mels": 80}}, "give one of them"),
        ({"audio": {"input": {"feat_type": "mel"}}, "layerdrop": 0.1}, "model.layerdrop 0.1 is for convolutions"),
        (
            {"audio": {"input": {"feat_type": "mel"}}, "feature_penalty": 10},
            "model.feature_penalty 10 is for convolutions",
        ),
        (
            {"architecture": {"model_type": "wav2vec2", **TINY}, "quantizer": {"dim": 7}},
            "7 is not a multiple of groups 2",
        ),
    ],
)
def test_settings_that_describe_no_model_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        _Wav2Vec2(validate(ContrastiveSettings, settings))


def contrastive(**settings: Any) -> Any:
    torch.manual_seed(0)
    known = {"quantizer": {"entries": 6, "dim": 8}, "mask": {"length": 3}}
    return _Wav2Vec2(validate(ContrastiveSettings, {**known, **settings}))


ON_WAVEFORMS = {"architecture": {"model_type": "wav2vec2", **TINY}}
ON_FRAMES = {
    "audio": {"input": {"feat_type": "mel"}},
    "transformer": {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "intermediate_size": 32,
        "hidden_dropout_prob": 0.0,
    },
}


def test_frozen_convolutions_stay_as_they_are_and_a_share_of_a_gradient_is_a_share() -> None:
    def gradient(share: float) -> torch.Tensor | None:
        objective = contrastive(**ON_WAVEFORMS, feature_grad=share).train()
        objective([torch.randn(8000, generator=generator())], Share(torch.tensor([24]), 0, 1, generator(1)))[
            0
        ].sum().backward()
        return objective.encoder.upstream.model.feature_extractor.conv_layers[1].conv.weight.grad  # type: ignore[union-attr]

    whole, tenth = gradient(1.0), gradient(0.1)
    assert gradient(0.0) is None and whole is not None and tenth is not None and whole.abs().max() > 0
    torch.testing.assert_close(0.1 * whole, tenth, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("on", [ON_WAVEFORMS, ON_FRAMES], ids=["waveforms", "frames"])
def test_what_is_masked_is_not_seen(on: dict[str, Any]) -> None:
    encoder = contrastive(**on).eval().encoder
    local = torch.randn(2, 20, encoder.local_dim, generator=generator())
    lengths, covered = torch.tensor([20, 15]), torch.zeros(2, 20, dtype=torch.bool)
    covered[:, 5:9] = True

    def context(frames: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return mask_out(encoder.context(frames, lengths, covered, None), lengths)

    hidden, seen = local.clone(), local.clone()
    hidden[covered] = torch.randn(8, encoder.local_dim, generator=generator(1))
    seen[:, 3] = torch.randn(2, encoder.local_dim, generator=generator(2))
    assert torch.equal(context(hidden), context(local))
    assert not torch.allclose(context(seen), context(local), atol=1e-3)


def mask_out(context: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return context * mask(lengths, context.shape[1])[..., None]


def test_layers_are_left_out_in_training_alone_and_by_the_generator() -> None:
    objective = contrastive(**ON_WAVEFORMS, layerdrop=0.5).train()
    drawn = [objective.kept(Share(torch.tensor([24]), 0, 1, generator(seed))) for seed in range(40)]
    assert drawn == [objective.kept(Share(torch.tensor([24]), 0, 1, generator(seed))) for seed in range(40)]
    left = sum(not kept for layers in drawn for kept in layers)
    assert 20 < left < 60, "about half of 80"
    assert objective.eval().kept(Share(torch.tensor([24]), 0, 1, generator())) is None
    local, lengths = torch.randn(1, 20, objective.encoder.local_dim, generator=generator()), torch.tensor([20])
    nothing = torch.zeros(1, 20, dtype=torch.bool)
    with torch.no_grad():
        all_layers, none = (objective.encoder.context(local, lengths, nothing, [kept] * 2) for kept in (True, False))
    assert not torch.allclose(all_layers, none, atol=1e-3)


def test_the_draw_of_codes_cools_with_the_batches_of_training() -> None:
    quantizer = {"entries": 6, "dim": 8, "hottest": 2.0, "coldest": 0.6, "cooling": 0.5}
    objective = contrastive(**ON_WAVEFORMS, quantizer=quantizer)
    given = [torch.randn(8000, generator=generator())], Share(torch.tensor([24]), 0, 1, generator(1))
    heats = [objective.heat()]
    for training in (True, False, True, True):
        objective.train(training)(*given)
        heats.append(objective.heat())
    assert heats == [2.0, 1.0, 1.0, 0.6, 0.6]


# fairseq's counts, with the heads; HuBERT's files have 504 classes.
PUBLISHED = {
    "wav2vec2/base_960hr": 95_044_608,
    "wav2vec2/large_ll60k": 317_390_592,
    "hubert/base_960hr": 94_697_600,
    "hubert/base_960hr_mfcc": 94_697_600,
    "hubert/large_ll60k": 316_609_408,
}


def recipes() -> list[str]:
    folders = [ROOT / "config" / "pretrain" / kind for kind in ("hubert", "wav2vec2")]
    return sorted(f"{file.parent.name}/{file.stem}" for folder in folders for file in folder.glob("*.yaml"))


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_builds_the_published_model(name: str, tmp_path: Path) -> None:
    kind, recipe = name.split("/")
    write_units(tmp_path, {"a": np.arange(504)}, torch.zeros(504, 3), ABOUT)
    more = ["-o", f"model.units={tmp_path}"] if kind == "hubert" else []
    settings, notes = settings_of(parser().parse_args(["-u", kind, "-c", recipe, *more]))
    config, expert = validate(PretrainConfig, settings), objectives[kind].load()
    with torch.device("meta"):
        objective = expert(validate(expert.Config, config.model, "model"))
    count = sum(parameter.numel() for parameter in objective.parameters())
    text = (ROOT / "config" / "pretrain" / f"{name}.yaml").read_text(encoding="utf-8")
    assert notes == [] and text.startswith("# ")
    assert f"`{recipe}`" in (ROOT / "docs" / "pretrain.md").read_text(encoding="utf-8")
    if recipe == "demo":
        encoder = sum(parameter.numel() for parameter in objective.encoder.transformer.parameters())
        assert objective.crop == 64000 and 2 * encoder < 7e6, "seven megabytes in float16"
        return
    assert count == PUBLISHED[name]
    assert config.optimizer.betas == (0.9, 0.98) and config.optimizer.eps == 1e-6
    assert config.batch.seconds * config.runner.gradient_accumulate_steps >= 1800, "over half an hour of speech a step"
