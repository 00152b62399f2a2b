"""Recipes are the published ones; S3PRL's own files are understood; weights go to S3PRL's form and back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from acoustic import small, states_of
from conftest import ROOT
from corpora import make_corpus
from faults import command
from test_pretrain import SMALL, pretrain, result_of

import headwater
from headwater.cli.pretrain import parser, settings_of
from headwater.config import PretrainConfig
from headwater.mam import s3prl
from headwater.mam.model import read_weights
from headwater.registry import objectives
from headwater.settings import validate
from headwater.train.objective import Objective
from headwater.weights import read_header, read_safetensors, to_bytes

FAMILIES = ("audio_albert", "mockingjay", "tera")
RECIPES = sorted(path for name in FAMILIES for path in (ROOT / "config" / "pretrain" / name).glob("*.yaml"))
# Parameters without and with the head, as counted in S3PRL's own models.
PARAMETERS = {
    "tera/base_960hr": (21_327_360, 21_981_008),
    "tera/base_960hr_v2": (21_327_360, 21_981_008),
    "tera/base_100hr": (21_327_360, 21_981_008),
    "tera/fbank_100hr": (21_450_240, 22_226_928),
    "mockingjay/base_960hr": (21_327_360, 21_981_008),
    "mockingjay/base_100hr": (21_327_360, 21_981_008),
    "mockingjay/fbank_960hr": (21_450_240, 22_226_928),
    "mockingjay/large_360hr": (85_118_208, 85_864_905),
    "audio_albert/base_960hr": (7_151_616, 7_805_264),
}
# dropout, band, noise, learning rate, steps, warm-up, batch x accumulation, crop in frames
TRAINING = {
    "tera/base_960hr": (0.1, 0.2, 0.15, 2e-4, 1_000_000, 0.07, 8, 4, 1500),
    "tera/base_960hr_v2": (0.1, 0.2, 0.15, 5e-4, 400_000, 0.08, 32, 2, 1500),
    "tera/base_100hr": (0.3, 0.2, 0.15, 2e-4, 200_000, 0.07, 8, 4, 1500),
    "tera/fbank_100hr": (0.3, 0.2, 0.0, 2e-4, 200_000, 0.07, 8, 4, 1500),
    "mockingjay/base_960hr": (0.1, 0.0, 0.0, 2e-4, 1_000_000, 0.07, 8, 4, 1500),
    "mockingjay/base_100hr": (0.3, 0.0, 0.0, 2e-4, 200_000, 0.07, 8, 4, 1500),
    "mockingjay/fbank_960hr": (0.1, 0.0, 0.0, 2e-4, 1_000_000, 0.07, 8, 4, 1500),
    "mockingjay/large_360hr": (0.1, 0.0, 0.0, 2e-4, 500_000, 0.07, 8, 4, 500),
    "audio_albert/base_960hr": (0.1, 0.0, 0.0, 2e-4, 1_000_000, 0.07, 32, 1, 1500),
}

RUNNER = """
runner:
  n_epochs: -1
  total_steps: 200
  gradient_clipping: 5.0
  gradient_accumulate_steps: 4
  log_step: 50
  save_step: 100
  max_keep: 2
  fp16: False
optimizer:
  name: AdamW_with_schedule
  lr: 2.e-4
  warmup_proportion: 0.07
pretrain_expert:
  datarc:
    num_workers: 12
    train_batch_size: 8
    max_timestep: -40
    libri_root: '/data/LibriSpeech/'
    file_path: './data/len_for_bucket'
    sets: ['train-clean-100']
"""
MODEL = """
transformer:
  hidden_size: 16
  num_hidden_layers: 1
  num_attention_heads: 2
  intermediate_size: 32
  hidden_act: "gelu"
  hidden_dropout_prob: 0.1
  attention_probs_dropout_prob: 0.1
  initializer_range: 0.02
  layer_norm_eps: "1e-12"
  share_layer: False
task:
  loss: L1
  sequence_length: 50
  position_encoding_size: 16
  mask_proportion: 0.15
  mask_consecutive_min: 7
  mask_consecutive_max: 7
  mask_allow_overlap: True
  mask_bucket_ratio: 1.5
  mask_frequency: 0.2
  noise_proportion: 0.0
audio:
"""
ONLINE = """
  target_level: None
  win_ms: 25
  hop_ms: 10
  n_freq: 201
  n_mels: 40
  n_mfcc: 13
  input: {feat_type: mel, channel: 0, log: True, delta: 0, cmvn: True}
  target: {feat_type: mel, channel: 1, log: True, delta: 0, cmvn: True}
"""
KALDI = """
  kaldi:
    feat_type: fbank
    fbank: {frame_length: 25.0, frame_shift: 10.0, num_mel_bins: 24, use_log_fbank: True}
  delta: {order: 2, win_length: 5}
  cmvn: {use_cmvn: True}
"""


def configured(*arguments: str) -> tuple[PretrainConfig, list[str]]:
    settings, notes = settings_of(parser().parse_args(list(arguments)))
    return validate(PretrainConfig, settings), notes


def built(config: PretrainConfig) -> Objective:
    """The objective without memory for its weights."""
    expert = objectives[config.objective].load()
    with torch.device("meta"):
        objective: Objective = expert(validate(expert.Config, config.model, "model"))
    return objective


def count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def name_of(recipe: Path) -> str:
    return f"{recipe.parent.name}/{recipe.stem}"


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_a_recipe_is_valid_says_its_source_and_is_documented(recipe: Path) -> None:
    config, notes = configured("-u", recipe.parent.name, "-c", recipe.stem)
    assert notes == [] and built(config).upstream == recipe.parent.name
    assert recipe.read_text(encoding="utf-8").startswith("# ")
    assert f"`{recipe.stem}`" in (ROOT / "docs" / "pretrain.md").read_text(encoding="utf-8")


def test_every_published_recipe_is_checked() -> None:
    assert {name_of(recipe) for recipe in RECIPES if recipe.stem != "demo"} == set(PARAMETERS) == set(TRAINING)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_recipe_builds_the_published_model_and_trains_it_as_published(name: str) -> None:
    family, recipe = name.split("/")
    config, _ = configured("-u", family, "-c", recipe)
    objective: Any = built(config)
    assert (count(objective.transformer), count(objective)) == PARAMETERS[name]
    task, runner = config.model["task"], config.runner
    assert (
        config.model["transformer"]["hidden_dropout_prob"],
        task["mask_frequency"],
        task["noise_proportion"],
        config.optimizer.lr,
        runner.total_steps,
        config.scheduler.warmup_ratio,
        config.batch.size,
        runner.gradient_accumulate_steps,
        objective.crop // 160,
    ) == TRAINING[name]
    assert (task["mask_proportion"], task["mask_consecutive_min"], task["mask_consecutive_max"]) == (0.15, 7, 7)
    assert config.batch.seconds * 16000 >= config.batch.size * objective.crop, "the size alone bounds a batch"
    assert config.crop_seconds is None and runner.gradient_clipping == 5.0
    assert config.optimizer.name == "AdamW" and config.optimizer.weight_decay == 0.01
    # As published: neither the small models of the cards nor Kaldi's features beside those of a front-end.
    assert (
        not config.model["transformer"]["pre_layer_norm"] and len({"kaldi", "input"} & set(config.model["audio"])) == 1
    )


def test_biases_and_norms_are_not_decayed() -> None:
    objective = built(configured("-u", "tera")[0])
    decayed, plain = objective.parameter_groups(0.01)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.01, 0.0)
    kept = {id(parameter) for parameter in plain["params"]}
    for name, parameter in objective.named_parameters():
        assert (id(parameter) in kept) == bool(re.search(r"bias$|norm", name)), name


@pytest.mark.parametrize(("audio", "dim"), [(ONLINE, 40), (KALDI, 72)])
def test_files_of_s3prl_are_understood(audio: str, dim: int, tmp_path: Path) -> None:
    runner, model = tmp_path / "config_runner.yaml", tmp_path / "config_model.yaml"
    runner.write_text(RUNNER)
    model.write_text(MODEL + audio)
    config, notes = configured("-u", "mockingjay", "-c", str(runner), "-g", str(model))
    for key in ("runner.max_keep", "datarc.num_workers", "datarc.file_path", "datarc.sets", "AdamW_with_schedule"):
        assert any(key in note for note in notes), key
    assert config.data.path == "/data/LibriSpeech/" and config.min_seconds == 0.4 and config.crop_seconds is None
    assert config.batch.size == 8 and config.batch.seconds >= 8 * 35
    assert config.optimizer.name == "AdamW" and config.optimizer.weight_decay == 0.01 and config.optimizer.lr == 2e-4
    assert config.scheduler.name == "linear" and config.scheduler.warmup_ratio == 0.07
    assert config.runner.total_steps == 200 and config.runner.epochs is None and config.runner.eval_step == 100
    assert config.runner.gradient_accumulate_steps == 4 and config.runner.precision == "fp32"
    objective: Any = built(config)
    assert objective.input.out_dim == dim and objective.level is None and objective.crop == 50 * 160
    assert objective.config.transformer.layer_norm_eps == 1e-12
    assert not objective.config.transformer.pre_layer_norm, (
        "what the file leaves out is S3PRL's default, not the card's"
    )
    corpus = make_corpus(tmp_path / "corpus", speakers=2, seconds=0.6)
    said = pretrain(
        corpus, tmp_path / "run", "-c", str(runner), "-g", str(model), tiny="runner.total_steps=2", name="mockingjay"
    )
    assert "note       runner.max_keep has no effect here" in said.out
    assert headwater.load(f"ckpt:{tmp_path / 'run'}").in_dim == dim


def test_s3prls_overrides_and_other_keys_are_understood(tmp_path: Path) -> None:
    runner = tmp_path / "config_runner.yaml"
    runner.write_text(RUNNER.replace("n_epochs: -1", "n_epochs: 3").replace("fp16: False", "fp16: True"))
    words = ("-u", "tera", "-c", str(runner), "-o", "config.optimizer.lr=1e-3,,args.seed=5")
    config, _ = configured(
        *words, "-o", "config.pretrain_expert.datarc.train_batch_size=3,,pretrain_expert.datarc.max_timestep=30"
    )
    assert config.runner.epochs == 3 and config.runner.precision == "fp16" and config.seed == 5
    assert config.optimizer.lr == 1e-3 and config.batch.size == 3 and config.crop_seconds == 0.3
    runner.write_text("pretrain_expert: {datarc: {train_batch_size: 2}}\noptimizer: {name: Adam, lr: 1.e-3}\n")
    config, _ = configured("-u", "tera", "-c", str(runner))
    assert config.optimizer.weight_decay == 0 and config.scheduler.name == "constant", "nothing of the card's training"


def test_a_front_end_in_a_file_takes_the_place_of_the_cards(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"model": {"audio": yaml.safe_load(KALDI)}}))
    config, _ = configured("-u", "tera", "-c", str(tmp_path / "mine.yaml"))
    assert set(config.model["audio"]) == {"kaldi", "delta", "cmvn"}
    assert config.model["transformer"]["hidden_size"] == 256, "all else is the card's"
    assert built(config).config.transformer.input_dim == 72


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    corpus = make_corpus(folder / "corpus", speakers=2)
    settings = f"{SMALL},,min_seconds=0,,crop_seconds=0.4,,runner.total_steps=2"
    pretrain(corpus, folder / "run", tiny=settings)
    assert result_of(folder / "run")["steps"] == 2
    return folder / "run"


def states(name: str, ckpt: str | None = None) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return headwater.load(name, ckpt=ckpt).extract([torch.randn(8000, generator=generator)]).hidden_states


def test_weights_go_to_s3prls_form_and_back_with_every_bit(run: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "states.ckpt", tmp_path / "back.safetensors"
    said = command("export", str(run), "--to", str(there))
    assert said.code == 0 and "tera_local" in said.out, said
    said = command("export", str(there), "--to", str(back))
    assert said.code == 0 and f"-u ckpt:{back}" in said.out, said
    one, two = read_weights(run / "model.safetensors"), read_weights(back)
    assert one.head is not None and two.head is not None
    for ours, theirs in ((one.transformer, two.transformer), (one.head, two.head)):
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert one.settings == two.settings and read_header(back)["upstream"] == "tera"
    for x, y, z in zip(states(f"ckpt:{run}"), states("tera_local", str(there)), states(f"ckpt:{back}"), strict=True):
        assert torch.equal(x, y) and torch.equal(x, z)
    file = torch.load(there, weights_only=True)
    assert {"Transformer", "SpecHead", "Upstream_Config"} <= set(file)


def test_half_precision_halves_the_file_and_keeps_what_it_says_of_itself(run: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.safetensors"
    assert command("export", str(run), "--to", str(small), "--half").code == 0
    assert small.stat().st_size < 0.6 * (run / "model.safetensors").stat().st_size
    assert read_header(small) == read_header(run / "model.safetensors")
    for x, y in zip(states(f"ckpt:{run}"), states(f"ckpt:{small}"), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("kind", "band", "family"),
    [("post_norm", 0.0, "mockingjay"), ("post_norm", 0.2, "tera"), ("shared", 0.0, "audio_albert")],
)
def test_a_checkpoint_that_does_not_say_what_it_is_of_is_known_by_its_settings(
    kind: str, band: float, family: str, tmp_path: Path
) -> None:
    settings = small(kind, task={"mask_frequency": band})
    s3prl.write(tmp_path / "a.ckpt", settings, *states_of(settings))
    assert command("export", str(tmp_path / "a.ckpt"), "--to", str(tmp_path / "a.safetensors")).code == 0
    assert read_header(tmp_path / "a.safetensors")["upstream"] == family
    assert command("export", str(tmp_path / "a.ckpt"), "--to", str(tmp_path / "b.safetensors"), "-u", "tera").code == 0
    assert read_header(tmp_path / "b.safetensors")["upstream"] == "tera"


@pytest.mark.parametrize(
    ("said", "words"), [("fbank", "no model of Mockingjay's family"), (["tera"], "names no upstream")]
)
def test_export_believes_no_name_of_something_else(said: object, words: str, run: Path, tmp_path: Path) -> None:
    path = run / "model.safetensors"
    file = tmp_path / "other.safetensors"
    file.write_bytes(to_bytes(read_safetensors(path), {**read_header(path), "upstream": said}))
    answer = command("export", str(file), "--to", str(tmp_path / "y.ckpt"))
    assert answer.code in (2, 3) and words in answer.err and not (tmp_path / "y.ckpt").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["RUN", "--to", "x.ckpt"], 2, "x.ckpt is there already; --force"),
        (["RUN", "--to", "y.pt"], 2, "must end in .ckpt"),
        (["RUN", "--to", "y.safetensors"], 2, "is a file of headwater already"),
        (["RUN", "--to", "y.ckpt", "--half"], 2, "S3PRL's checkpoints are float32"),
        (["RUN", "--to", "y.ckpt", "-u", "mockingjay"], 2, "says that it is of tera"),
        (["x.ckpt", "--to", "y.ckpt"], 3, "x.ckpt"),
        (["RUN", "--to", "y.ckpt", "-u", "terra"], 2, "terra"),
        (["nowhere", "--to", "y.ckpt"], 3, "nowhere: no such file"),
        ([".", "--to", "y.ckpt"], 3, "model.safetensors: no such file"),
        (["RUN"], 2, "--to"),
    ],
)
def test_export_refuses_what_it_cannot_do_and_writes_nothing(
    arguments: list[str], code: int, words: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.ckpt").write_text("mine")
    said = command("export", *(str(run) if word == "RUN" else word for word in arguments))
    assert said.code == code and words in said.err and "Traceback" not in said.err, said
    assert [path.name for path in tmp_path.iterdir()] == ["x.ckpt"] and Path("x.ckpt").read_text() == "mine"
    assert command("export", str(run), "--to", "x.ckpt", "--force").code == 0
    assert read_weights("x.ckpt").generation == "HEAD"
