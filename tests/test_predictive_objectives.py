"""APC, VQ-APC, NPC, CPC and DistilHuBERT are learnt as published: the losses of the original code, what may depend on what, and refusals by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from corpora import make_corpus
from faults import command
from loops import same
from test_predictive import DATA, samples
from test_pretrain import last_module, result_of
from torch import Tensor

import headwater
from headwater.cli.pretrain import parser, settings_of
from headwater.config import PretrainConfig
from headwater.pretrained.contrast import contrast, elsewhere
from headwater.pretrained.distillation import differences
from headwater.registry import objectives
from headwater.settings import merge, validate
from headwater.train.objective import Objective, Share
from headwater.train.pretrain import prepare
from headwater.train.pretraining import grouped
from headwater.train.work import Portion
from headwater.weights import read_header, read_safetensors, state_sha256

TRAINING = (
    "min_seconds=0,,crop_seconds=0.4,,batch.size=4,,optimizer.lr=1e-3,,"
    "runner.total_steps=6,,runner.eval_step=3,,runner.save_step=2,,runner.log_step=1"
)
STUDENT = (
    "model.network.extractor_conv_feature_layers=[(8, 10, 5)] + [(8, 3, 2)] * 4 + [(8, 2, 2)] * 2,,model.network.encoder_embed_dim=16,,"
    "model.network.encoder_ffn_embed_dim=24,,model.network.dropout=0,,model.network.attention_dropout=0,,model.network.activation_dropout=0"
)
# The objective -> a small model without dropout, which would be drawn by each process for itself.
SMALL = {
    "apc": "model.network.hidden_size=16,,model.network.dropout=0",
    "vq_apc": "model.network.hidden_size=16,,model.network.dropout=0,,model.network.vq.code_dim=[16]",
    "npc": "model.network.hidden_size=16,,model.network.dropout=0,,model.network.vq.code_dim=[4,4,4,4]",
    "cpc": "model.network.hiddenEncoder=8,,model.network.hiddenGar=16,,model.task.batchSizeGPU=3,,model.task.negativeSamplingExt=8",
    "distilhubert": STUDENT,
}
UPSTREAMS = {"cpc": "modified_cpc"}
LOSS_TOLERANCE = 1e-3  # relative


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    arrays = np.load(DATA / "objectives.npz")
    return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"), speakers=3, utterances=6)


def arguments(name: str, corpus: Path, *overrides: str) -> list[str]:
    settings = [TRAINING, SMALL[name], *overrides]
    return ["-u", name, "--data", str(corpus), "--device", "cpu", *(word for one in settings for word in ("-o", one))]


def config_of(*words: str) -> PretrainConfig:
    return validate(PretrainConfig, settings_of(parser().parse_args(list(words)))[0])


def built(config: PretrainConfig) -> Objective:
    expert = objectives[config.objective].load()
    objective: Objective = expert(validate(expert.Config, config.model, "model"))
    return objective


def with_weights(name: str, file: Path) -> Any:
    """The objective around the weights of the original's file."""
    model: Any = headwater.load(f"{name}_local", ckpt=str(file))
    card = objectives[name]
    network = merge(model.settings.model_dump(mode="json"), {})
    expert = card.load()
    objective = expert(validate(expert.Config, {"network": network}, "model"))
    objective.model.network.load_state_dict(model.network.state_dict())
    return objective.eval()


def share_of(objective: Any, *wavs: Tensor) -> Share:
    lengths = torch.tensor([objective.frames(len(wav)) for wav in wavs])
    return Share(lengths, 0, 1, torch.Generator().manual_seed(0))


@torch.no_grad()
def losses(objective: Any, *wavs: Tensor) -> list[float]:
    sums, counts = objective(list(wavs), share_of(objective, *wavs))
    return (sums / counts).tolist()


def test_frames_are_told_with_the_loss_of_the_original_alone_and_in_a_batch(stored: dict[str, Tensor]) -> None:
    arrays = np.load(DATA / "expected.npz")
    other = samples(arrays["other"])
    predicted, frames = (arrays[f"vq_apc.{name}"] for name in ("predicted", "fbank"))
    expected = {"vq_apc": float(np.abs(predicted[:-5] - frames[5:]).mean()), "npc": float(stored["npc.l1"])}
    for name, value in expected.items():
        objective, wav = with_weights(name, DATA / f"{name}.pt"), samples(arrays[f"{name}.wav"])
        for wavs in ([wav], [other, wav]):
            assert losses(objective, *wavs)[-1] == pytest.approx(value, rel=LOSS_TOLERANCE)


@pytest.mark.parametrize("name", ["apc", "vq_apc", "npc"])
def test_all_losses_stored_of_the_original_are_met(name: str, shared: Path) -> None:
    folder = shared / "parity/upstreams" / name
    arrays, expected = np.load(folder / "wavs.npz"), np.load(folder / "expected.npz")
    found = losses(with_weights(name, folder / "model.pt"), *(samples(arrays[f"wav_{i}"]) for i in range(3)))
    known = {i: float(expected[f"objective_l1_utt{i}"]) for i in range(3) if f"objective_l1_utt{i}" in expected}
    assert known
    for number, value in known.items():
        assert found[number] == pytest.approx(value, rel=LOSS_TOLERANCE)


def test_the_next_frames_are_told_from_negatives_with_the_loss_of_the_original(stored: dict[str, Tensor]) -> None:
    z, c, maps = (stored[f"cpc.{name}"] for name in ("z", "c", "predictors"))
    steps, places = len(maps), len(z) - len(maps)
    told = torch.einsum("tc,kzc->tkz", c[:places], maps)[None]
    moves = stored["cpc.seq_idx_offset"].long().view(-1, places).T
    others = (torch.arange(places)[:, None] + moves) % len(z)
    found = contrast(told, z[None], others[None])
    assert found.shape == (1, places, steps)
    np.testing.assert_allclose(found.mean((0, 1)), stored["cpc.losses"], rtol=LOSS_TOLERANCE)


def test_what_a_head_says_is_compared_as_in_the_original(stored: dict[str, Tensor]) -> None:
    distances, angles = differences(stored["distilhubert.pred"], stored["distilhubert.target"])
    for found, name in ((distances, "l1"), (angles, "cos")):
        np.testing.assert_allclose(
            found.mean((0, 2)), stored[f"distilhubert.loss_{name}_per_layer"], rtol=LOSS_TOLERANCE
        )
    total = float((distances + angles).mean())
    assert total == pytest.approx(float(stored["distilhubert.loss_total"]), rel=LOSS_TOLERANCE)


def test_negatives_are_of_the_group_and_never_of_the_same_time() -> None:
    lengths, size = torch.tensor([30, 17, 25]), 30
    generator = torch.Generator().manual_seed(0)
    members, moves = (torch.rand(3, 18, 200, generator=generator) for _ in range(2))
    others = elsewhere(lengths, members, moves, size)
    row, time = others // size, others % size
    assert (time < lengths[row]).all() and set(row.unique().tolist()) == {0, 1, 2}
    # In an utterance that ends before a place there is no such time.
    assert (time != torch.arange(18)[:, None])[:, :17].all()
    edges = elsewhere(lengths, torch.full((3, 2, 2), 1 - 2**-24), torch.full((3, 2, 2), 1 - 2**-24), size)
    assert (edges // size == 2).all() and (edges % size != torch.arange(2)[:, None]).all()


def test_a_batch_of_contrasts_is_made_of_groups_of_one_speaker(corpus: Path) -> None:
    parts = prepare(config_of(*arguments("cpc", corpus)), device="cpu", say=lambda line: None)
    count = len(parts.work.durations)
    people = []
    for rank in (0, 1):
        (ready,) = parts.work.ready([Portion(0, 0, np.arange(count), rank, 2)])
        assert len(ready.wavs) == len(ready.share.rows) == sum(ready.share.own_groups)
        people.append(len(ready.wavs))
    assert sum(people) == len(parts.speech.train)
    speakers = ["a"] * 7 + ["b"] * 2 + [None] * 2  # type: ignore[list-item]
    first, second = (grouped(speakers, 3, np.random.default_rng(seed)) for seed in (0, 1))
    assert [len(group) for group in first] == [len(group) for group in second] == [3, 2, 2, 2, 1, 1]
    assert first != second and sorted(index for group in first for index in group) == list(range(11))
    assert all(len({speakers[index] for index in group}) == 1 for group in first)


def test_contrasts_are_counted_at_places_whose_targets_there_are_and_begin_without_biases() -> None:
    objective: Any = built(config_of("-u", "cpc", "-o", SMALL["cpc"]))
    assert not any(layer.conv.bias.any() for layer in objective.model.network.encoder)
    wavs = [torch.randn(size, generator=torch.Generator().manual_seed(size)) for size in (20480, 8000)]
    share = share_of(objective, *wavs)
    _, counts = objective(wavs, share)
    assert torch.equal(counts, share.lengths.float() - 12)


@pytest.mark.parametrize(("name", "least"), [("apc", 6), ("vq_apc", 6), ("npc", 2), ("cpc", 13)])
def test_what_has_no_frame_to_be_told_is_too_short(name: str, least: int) -> None:
    objective = built(config_of("-u", name, "-o", SMALL[name]))
    assert objective.too_short(least - 1) and not objective.too_short(least)


def test_a_student_counts_frames_of_all_layers_and_slows_its_convolutions_down() -> None:
    gradients = []
    for scale in (1.0, 0.1):
        objective: Any = built(
            config_of("-u", "distilhubert", "-o", f"{STUDENT},,model.task.feature_grad_mult={scale}")
        )
        objective.model.eval()
        wavs = [torch.randn(4000, generator=torch.Generator().manual_seed(0))]
        share = share_of(objective, *wavs)
        torch.manual_seed(0)
        for parameter in objective.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        loss, counts = objective(wavs, share)
        assert counts.tolist() == [float(share.lengths[0]) * len(objective.config.network["pred_layer_id"])]
        loss.sum().backward()
        gradients.append(objective.model.network.extractor[0].conv.weight.grad.clone())
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], 0.1 * gradients[0], rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", SMALL)
def test_a_stopped_run_ends_as_an_undisturbed_one_and_loads_as_its_upstream(
    name: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headwater.train.loop import Trainer

    words = ["pretrain", *arguments(name, corpus, "optimizer.weight_decay=0.01")]
    said = command(*words, "-p", str(tmp_path / "whole"))
    assert said.code == 0, said.err
    step = Trainer._step

    def dying(trainer: Trainer, window: Any) -> None:
        if trainer.standing.step == 5:
            raise KeyboardInterrupt
        step(trainer, window)

    monkeypatch.setattr(Trainer, "_step", dying)
    assert command(*words, "-p", str(tmp_path / "again")).code != 0
    monkeypatch.setattr(Trainer, "_step", step)
    assert command(*words, "-p", str(tmp_path / "again")).code == 0
    files = [tmp_path / run / "model.safetensors" for run in ("whole", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()
    header = read_header(files[0])
    assert header["upstream"] == UPSTREAMS.get(name, name) == result_of(tmp_path / "whole")["objective"]["upstream"]
    model: Any = headwater.load(f"ckpt:{tmp_path / 'whole'}")
    tensors = read_safetensors(files[0])
    for key, value in model.network.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(value, tensors[f"network.{key}"]), key
    assert np.isfinite(result_of(tmp_path / "whole")["metrics"]["dev"]["loss"]["value"])
    assert same(*(last_module(tmp_path / run) for run in ("whole", "again")))
    half = tmp_path / "half.safetensors"
    assert command("export", str(tmp_path / "whole"), "--to", str(half), "--half").code == 0
    assert 1.8 * half.stat().st_size < files[0].stat().st_size + 8000
    for key, value in headwater.load(f"ckpt:{half}").network.state_dict().items():  # type: ignore[union-attr]
        if value.is_floating_point():
            assert torch.equal(value, tensors[f"network.{key}"].half().float()), key


def test_a_teacher_stays_as_it_was_and_is_told_from_another(corpus: Path, tmp_path: Path) -> None:
    words = arguments("distilhubert", corpus)
    parts = prepare(config_of(*words), device="cpu", say=lambda line: None)
    objective: Any = parts.objective
    teacher = objective.teacher
    assert state_sha256(teacher) == state_sha256(headwater.load("tera.demo"))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    assert not teacher.training and not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(parameter is own for parameter in teacher.parameters() for own in objective.parameters())
    assert len(objective.state_dict()) == len(objective.model.state_dict())
    (ready,) = parts.work.ready([Portion(0, 0, np.arange(3), 0, 1)])
    total, count = parts.work.loss(objective.train(), ready)
    (total / count).backward()
    assert same(teacher.state_dict(), before) and all(value.grad is None for value in teacher.parameters())
    assert command("pretrain", *words, "-p", str(tmp_path)).code == 0
    assert result_of(tmp_path)["objective"]["teacher"]["sha256"] == state_sha256(teacher)
    said = command("pretrain", *words, "-p", str(tmp_path), "-o", "model.teacher.config.random_weights=3")
    assert said.code == 2 and "teacher.sha256" in said.err


def test_a_teacher_of_another_rate_is_asked_at_the_nearest_time(corpus: Path) -> None:
    objective: Any = built(config_of(*arguments("distilhubert", corpus)))
    wavs = [torch.randn(size, generator=torch.Generator().manual_seed(size)) for size in (6400, 4000)]
    features = objective.teacher.extract(wavs)
    lengths = torch.tensor([objective.frames(len(wav)) for wav in wavs])
    wanted = objective.targets(wavs, lengths, int(lengths.max()))
    assert (objective.model.stride, objective.teacher.stride) == (320, 160)
    for row, length in enumerate(lengths.tolist()):
        at = (torch.arange(length) * 320 + objective.model.offset - objective.teacher.offset) / 160
        index = (at + 0.5).floor().long().clamp(0, int(features.lengths[row]) - 1)
        for number, layer in enumerate((1, 2, 3)):
            assert torch.equal(wanted[row, number, :length], features.hidden_states[layer][row, index])


HUBERT = (
    "model.teacher.name=hubert,,model.teacher.config.random_weights=1,,model.network.final_dim=768,,model.network.encoder_embed_dim=768,,"
    "model.network.encoder_ffn_embed_dim=3072,,model.network.encoder_attention_heads=12,,"
    "model.network.extractor_conv_feature_layers=[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2"
)


def test_a_student_begins_as_the_first_layers_of_its_teacher() -> None:
    said = "model.network.pred_layer_id=[1],,model.task.init_teacher_conv_layers=true,,model.task.init_teacher_encoder_layers=true"
    objective: Any = built(config_of("-u", "distilhubert", "-o", HUBERT, "-o", said))
    student, teacher = objective.model.eval(), objective.teacher
    held = {name.split("model.", 1)[-1]: value for name, value in teacher.state_dict().items()}
    own = student.network.state_dict()
    assert torch.equal(own["extractor.6.conv.weight"], held["feature_extractor.conv_layers.6.conv.weight"])
    assert torch.equal(own["encoder.layers.1.down.weight"], held["encoder.layers.1.feed_forward.output_dense.weight"])
    x = torch.randn(1, 7, 768, generator=torch.Generator().manual_seed(0))
    encoder: Any = next(module for module in teacher.modules() if hasattr(module, "pos_conv_embed"))
    said_by_layer: list[Any] = []
    encoder.layers[1].register_forward_hook(lambda module, given, answer: said_by_layer.append(answer))
    with torch.no_grad():
        ours = student.network.encoder(x, torch.tensor([7]))[-1]
        encoder(x)
    theirs = said_by_layer[0][0] if isinstance(said_by_layer[0], tuple) else said_by_layer[0]
    torch.testing.assert_close(ours, theirs.view_as(ours), rtol=1e-4, atol=1e-4)


REFUSALS = {
    "no such teacher": ("distilhubert", "model.teacher.name=hubret", ("hubret", "hubert")),
    "a teacher without weights": ("distilhubert", "model.teacher.name=hubert", ("hubert",)),
    "a layer it lacks": (
        "distilhubert",
        "model.network.pred_layer_id=[1,9]",
        ("pred_layer_id", "layer 9", "tera.demo"),
    ),
    "other dims": ("distilhubert", "model.network.final_dim=8", ("final_dim is 8", "256")),
    "nothing to begin with": (
        "distilhubert",
        "model.task.init_teacher_conv_layers=true",
        ("init_teacher_conv_layers", "tera.demo", "false"),
    ),
    "a teacher without a front-end": ("distilhubert", "model.teacher.name=features", ("features",)),
    "an unknown setting": ("apc", "model.network.hidden_sise=3", ("model.network.hidden_sise", "hidden_size")),
    "an unknown task": ("npc", "model.task.n_future=3", ("model.task.n_future",)),
    "no front-end": ("apc", "model.network.audio=null", ("model.network.audio",)),
    "codes that do not add up": ("vq_apc", "model.network.vq.code_dim=[5]", ("code_dim", "hidden_size")),
    "a net from the end": ("cpc", "model.network.cpc_mode=reverse", ("cpc_mode",)),
    "heads that do not fit": ("cpc", "model.task.rnnMode=transformer,,model.network.hiddenGar=12", ("hiddenGar", "8")),
    "crops too short": ("cpc", "crop_seconds=0.1", ("too short",)),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_wrong_settings_are_refused_by_name(case: str, corpus: Path, tmp_path: Path) -> None:
    name, override, words = REFUSALS[case]
    said = command("pretrain", *arguments(name, corpus, override), "-p", str(tmp_path / "run"))
    assert said.code in (2, 3) and [word for word in words if word not in said.err] == [], said.err
    assert "Traceback" not in said.err and not (tmp_path / "run").exists()


def test_precomputed_features_are_foretold_and_are_no_waveforms(tmp_path: Path) -> None:
    folder = tmp_path / "features"
    folder.mkdir()
    about = {"kind": "mine", "dim": 12, "sample_rate": 16000, "stride": 160, "offset": 200}
    (folder / "features.json").write_text(json.dumps(about))
    (folder / "train").mkdir()
    for number in range(8):
        frames = np.random.default_rng(number).standard_normal((40 + number, 12)).astype(np.float32)
        np.save(folder / "train" / f"{number}-0-0.npy", frames)
    said = command("pretrain", *arguments("apc", folder), "-p", str(tmp_path / "run"))
    assert said.code == 0, said.err
    states = headwater.load(f"ckpt:{tmp_path / 'run'}").extract([torch.zeros(30, 12)]).hidden_states
    assert states[-1].shape == (1, 30, 16)
    said = command("pretrain", *arguments("cpc", folder), "-p", str(tmp_path / "other"))
    assert said.code == 2 and "begins with waveforms" in said.err


RECIPES = sorted(path for name in SMALL for path in (ROOT / "config" / "pretrain" / name).glob("*.yaml"))
# Parameters of the network, as the SUPERB leaderboard counts them.
PARAMETERS = {
    "apc/base_360hr": 4_105_296,
    "vq_apc/base_360hr": 4_630_096,
    "npc/base_360hr": 19_380_560,
    "cpc/base": 1_843_456,
    "distilhubert/base_960hr": 27_034_752,
}


def recipe_name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("recipe", RECIPES, ids=recipe_name)
def test_a_recipe_is_documented_and_builds_the_published_model(recipe: Path) -> None:
    words = ["-u", recipe.parent.name, "-c", recipe.stem]
    if recipe_name(recipe) == "distilhubert/base_960hr":
        words += ["-o", "model.teacher.config.random_weights=0"]
    network = built(config_of(*words)).model.network  # type: ignore[union-attr]
    count = sum(parameter.numel() for parameter in network.parameters())  # type: ignore[union-attr]
    assert count == PARAMETERS.get(recipe_name(recipe), count)
    assert f"`{recipe.stem}`" in (ROOT / "docs" / "pretrain.md").read_text(encoding="utf-8")
    if recipe.stem == "demo":
        objective = built(config_of(*words))
        held = [value.numel() for value in objective.state_dict().values() if value.is_floating_point()]
        assert 2 * sum(held) < 7e6, "in float16, within 7 MB"


def test_every_published_recipe_is_counted() -> None:
    assert {recipe_name(path) for path in RECIPES if path.stem != "demo"} == set(PARAMETERS)
