"""The family of countermeasures: padding, gradients, crops, short utterances, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from headwater.downstream.asv_spoof import nii
from headwater.downstream.asv_spoof.criteria import CRITERIA
from headwater.downstream.asv_spoof.endings import ENDINGS
from headwater.downstream.asv_spoof.systems import INPUTS, System, SystemConfig, build, resolved
from headwater.downstream.asv_spoof.trunks import TRUNKS
from torch import Tensor, nn

from headwater.config import RunConfig, SchedulerConfig, TrainingConfig
from headwater.errors import DataError, UsageError
from headwater.nn.blstm import Blstm
from headwater.nn.maps import MapBatchNorm, as_map
from headwater.settings import merge, read_recipe, validate
from headwater.train.optim import build_optimizer, build_scheduler
from tests.countermeasures import (
    KEYS,
    PUBLISHED,
    RECIPES,
    filled,
    in_dim,
    published_state,
    read_found,
    recipe,
    settings,
    ssl_keys,
)  # fmt: skip

# On LFB, of as many dims, the networks are those on LFCC.
SYSTEMS = [name for name in PUBLISHED if not name.startswith(("02/", "lfb-"))] + [
    "lfb-lcnn-lstmsum-am", "02/lfcc-lcnn-a-softmax", "02/lfcc-restnet-ocsoftmax", "ssl-llgf", "ssl-lgf", "ssl-gf", "linear",
]  # fmt: skip
every_system = pytest.mark.parametrize("name", SYSTEMS)
LENGTHS = (49, 33, 32, 16, 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(name: str) -> tuple[System, int]:
    """A system with a window of few frames where it has one, and statistics of batch norms that are not 0 and 1."""
    config = settings(name)
    if config.window is not None:
        config = config.model_copy(update={"window": 33})
    dim = in_dim(name) if "upstream" in recipe(name) and "name" in recipe(name)["upstream"] else 72
    torch.manual_seed(0)
    system = System(config, dim)
    for module in system.modules():
        if isinstance(module, MapBatchNorm):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    return system, dim


def batch(dim: int, lengths: tuple[int, ...] = LENGTHS, size: int | None = None) -> tuple[Tensor, Tensor]:
    """Utterances (B, T, dim), positive as a power spectrum is, with zeros beyond."""
    x = torch.zeros(len(lengths), size or max(lengths), dim)
    for row, length in enumerate(lengths):
        x[row, :length] = torch.rand(length, dim, generator=generator(row)) + 0.1 * row
    return x, torch.tensor(lengths)


@every_system
@torch.no_grad()
def test_an_utterance_has_the_same_score_alone_and_in_a_padded_batch(name: str) -> None:
    system, dim = small(name)
    system.eval()
    numbers = torch.arange(len(LENGTHS)) * 7919
    together, activation = system(*batch(dim, size=max(LENGTHS) + 19), {"window": numbers})
    for row, length in enumerate(LENGTHS):
        x, _ = batch(dim)
        alone, own = system(x[row : row + 1, :length], torch.tensor([length]), {"window": numbers[row : row + 1]})
        assert (together[row] - alone[0]).abs().max() <= 2e-5 * together.abs().max()
        assert (activation[row] - own[0]).abs().max() <= 2e-5 * activation.abs().max().clamp(min=1)


@every_system
def test_training_reaches_every_parameter_and_sees_nothing_of_the_padding(name: str) -> None:
    found = []
    for padding in (0, 23):
        system, dim = small(name)
        system.train()
        x, lengths = batch(dim, size=max(LENGTHS) + padding)
        beyond = torch.arange(x.shape[1])[None] >= lengths[:, None]
        x[beyond] = 50.0 * padding
        for module in system.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # its masks are as large as the padded batch
        torch.manual_seed(1)
        _, activation = system(x, lengths)
        losses = system.criterion.loss(activation, torch.tensor([1, 0, 0, 1, 0]))
        losses.sum().backward()
        for key, parameter in system.named_parameters():
            assert parameter.grad is not None and bool(parameter.grad.any()), key
        statistics = [value for key, value in system.state_dict().items() if "running" in key]
        found.append([losses.detach(), *statistics, *(p.grad for p in system.parameters())])
    for one, other in zip(*found, strict=True):
        assert one is not None and other is not None
        assert (one - other).abs().max() <= 1e-4 * one.abs().max().clamp(min=1e-3)


@pytest.mark.parametrize("name", ["spec2-lcnn-fixed-sig", "lfcc-lcnn-attention-am", "lfcc-lcnn-lstmsum-oc", "ssl-gf"])
@torch.no_grad()
def test_scores_are_a_number_an_utterance_in_bfloat16_too(name: str) -> None:
    system, dim = small(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedding, activation = system.eval()(*batch(dim))
    scores = system.criterion.score(activation)
    assert scores.shape == (5,) and embedding.dtype == scores.dtype == torch.float32
    assert bool(scores.isfinite().all())


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("frames", [1, 15])
def test_an_utterance_of_a_few_frames_is_scored_and_trained_on(trunk: str, ending: str, frames: int) -> None:
    window = 20 if ending == "fixed" else None
    system = System(SystemConfig(input_dim=60, trunk=trunk, ending=ending, window=window), 30)
    for mode in (True, False):
        embedding, activation = system.train(mode)(torch.randn(1, frames, 30), torch.tensor([frames]))
        system.criterion.loss(activation, torch.tensor([1])).sum().backward()
        assert bool(embedding.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in system.parameters() if p.grad is not None)


def test_two_systems_of_one_seed_are_equal_and_draw_from_torchs_generator_alone() -> None:
    def trained() -> tuple[Tensor, Tensor]:
        torch.manual_seed(3)
        system = System(settings("lfcc-lcnn-fixed-oc", window=20), 60)
        embedding, _ = system(*batch(60))
        return embedding, system.output.weight

    one, other = trained(), trained()
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture()
def windowed() -> System:
    """Ten frames of the frame number, as they are."""
    config = SystemConfig(input="none", trunk="none", ending="fixed", window=10, loss="sigmoid")
    return System(config, 1).eval()


def taken(system: System, lengths: list[int], numbers: list[int] | None) -> list[list[int]]:
    """Which frames each utterance's window holds."""
    frames = torch.arange(max(lengths), dtype=torch.float32)[None, :, None].repeat(len(lengths), 1, 1)
    given = None if numbers is None else torch.tensor(numbers)
    held, cut = system._cut(frames, torch.tensor(lengths), 10, given)
    assert cut.tolist() == [10] * len(lengths)
    return [[int(value) for value in row] for row in held[..., 0].tolist()]


def test_a_short_utterance_is_repeated_without_its_last_frame(windowed: System) -> None:
    assert taken(windowed, [5, 11, 2, 1], None) == [
        [0, 1, 2, 3, 0, 1, 2, 3, 0, 1], list(range(10)), [0] * 10, [0] * 10,
    ]  # fmt: skip


def test_which_piece_of_a_long_utterance_is_scored_is_what_its_number_says(windowed: System) -> None:
    pieces = taken(windowed, [14] * 9, list(range(9)))
    assert [piece[0] for piece in pieces] == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert all(piece == list(range(piece[0], piece[0] + 10)) for piece in pieces)
    assert taken(windowed, [14], None)[0] == list(range(10))
    before = torch.get_rng_state()
    taken(windowed, [14, 99], [5, 6])
    assert torch.equal(before, torch.get_rng_state())


def test_pieces_are_drawn_anew_in_training_and_all_occur(windowed: System) -> None:
    torch.manual_seed(0)
    starts = {piece[0] for piece in taken(windowed.train(), [14] * 200, [0] * 200)}
    assert starts == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("changes", "pooling"),
    [({}, "mean"), ({"input": "linear"}, "mean"), ({"input": "bank"}, None), ({"trunk": "lcnn"}, None),
     ({"ending": "lstm"}, None), ({"ending": "attention"}, None), ({"window": 20}, None)],
)  # fmt: skip
def test_a_system_on_the_mean_of_frames_says_so_and_gives_the_same_on_it(
    changes: dict[str, Any], pooling: str | None
) -> None:
    config = SystemConfig.model_validate({"input": "none", "trunk": "none", "ending": "mean", **changes})
    assert config.pooling == pooling
    system, (x, lengths) = System(config, 24).eval(), batch(24)
    means = torch.stack([row[:length].mean(0) for row, length in zip(x, LENGTHS, strict=True)])[:, None]
    with torch.no_grad():
        whole, pooled = system(x, lengths)[0], system(means, torch.ones_like(lengths))[0]
    assert torch.allclose(whole, pooled, atol=1e-5) == (pooling == "mean")


@pytest.mark.parametrize("name", CRITERIA)
def test_training_a_loss_gives_bona_fide_speech_the_higher_scores(name: str) -> None:
    torch.manual_seed(0)
    kind = CRITERIA[name]
    config = SystemConfig(input="none", trunk="none", ending="mean", loss=name, embedding=8)
    system = System(config, 6)
    target = torch.arange(64) % 2
    x = torch.randn(64, 3, 6) + target[:, None, None]
    lengths = torch.full((64,), 3)
    optimizer = torch.optim.Adam(system.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        _, activation = system(x, lengths)
        system.criterion.loss(activation, target).mean().backward()
        optimizer.step()
    scores = system.eval().criterion.score(system(x, lengths)[1])
    assert scores[target == 1].median() > scores[target == 0].median()
    assert (scores[target == 1].mean() - scores[target == 0].mean()) > 0.05, kind


def test_the_steps_of_an_angular_softmax_are_part_of_its_state() -> None:
    system = System(settings("02/lfcc-lcnn-a-softmax", window=20), 60)
    system(*batch(60))
    system.eval()(*batch(60))
    assert system.state_dict()["criterion.iteration"].item() == 1


def test_statistics_of_a_padded_batch_are_those_of_its_valid_frames_in_one() -> None:
    norm, whole = MapBatchNorm(3), MapBatchNorm(3)
    maps = torch.randn(2, 3, 7, 4, generator=generator())
    maps[1, :, 5:] = 99.0
    y = norm(maps, torch.tensor([7, 5]))
    joined = torch.cat([maps[0], maps[1, :, :5]], 1)[None]
    expected = whole(joined)
    assert torch.allclose(y[0], expected[0, :, :7], atol=1e-6) and torch.allclose(
        y[1, :, :5], expected[0, :, 7:], atol=1e-6
    )
    assert torch.allclose(norm.running_var, whole.running_var) and not y[1, :, 5:].any()  # type: ignore[arg-type]


def test_frames_become_maps_without_a_copy() -> None:
    frames = torch.randn(2, 5, 3)
    assert as_map(frames).shape == (2, 1, 5, 3) and as_map(frames).data_ptr() == frames.data_ptr()


def test_a_recurrent_layer_reads_backwards_from_each_utterances_own_end() -> None:
    layer, (x, lengths) = Blstm(6), batch(6)
    together = layer(x, lengths)
    for row, length in enumerate(LENGTHS):
        alone = layer(x[row : row + 1, :length], torch.tensor([length]))
        assert torch.allclose(together[row, :length], alone[0], atol=1e-6) and not together[row, length:].any()


# Weights that are read.


def test_published_weights_fill_every_parameter_and_the_rest_is_named(tmp_path: Path) -> None:
    name = "spec2-lcnn-lstmsum-am"
    found = read_found(published_state(name), tmp_path)
    assert set(found.unused) == {key for key in KEYS[name] if key.startswith(("input_", "output_"))} | {
        key for key in KEYS[name] if key.endswith("num_batches_tracked")
    }
    assert found.upstream == {"name": "nii_power"}
    system = System(nii.settled(settings(name), found), 257)
    before = {key: parameter.detach().clone() for key, parameter in system.named_parameters()}
    nii.load(system, found)
    untouched = [key for key, parameter in system.named_parameters() if torch.equal(before[key], parameter)]
    assert untouched == ["input.weight"]  # the rule keeps its initial value


def test_a_checkpoint_of_an_epoch_is_read_as_the_state_dict_in_it(tmp_path: Path) -> None:
    state = published_state("lfcc-lcnn-attention-sig")
    torch.save({"state_dict": state, "info": "epoch 3", "trnlog": [0.1], "optimizer": {}}, tmp_path / "epoch.pt")
    assert nii.read(tmp_path / "epoch.pt").state.keys() == state.keys()


@pytest.mark.parametrize(
    ("name", "upstream"),
    [("lfcc-lcnn-fixed-sig", "nii_lfcc"), ("lfb-lcnn-fixed-sig", "nii_lfb"), ("spec2-lcnn-fixed-sig", "nii_power")],
)
def test_a_file_says_which_frames_it_was_trained_on(name: str, upstream: str, tmp_path: Path) -> None:
    found = read_found(published_state(name), tmp_path)
    state = {key: torch.zeros(shape) for key, shape in KEYS[name].items()}
    assert read_found(state, tmp_path).upstream == {"name": upstream}
    assert found.settings["trunk"] == "lcnn"


@pytest.mark.parametrize(
    "name",
    [name for name in PUBLISHED if not name.endswith(("-am", "-p2s"))],
)
def test_a_file_of_one_loss_needs_no_settings(name: str, tmp_path: Path) -> None:
    state = {key: torch.zeros(shape) for key, shape in KEYS[name].items()}
    found = nii.settled(SystemConfig(), read_found(state, tmp_path))
    of_training = {"weights", "scale", "margin", "dropout"}
    expected = settings(name)
    sizes = {"input_dim"} if expected.input == "none" else set()
    sizes |= {"hidden"} if expected.ending != "fixed" else set()
    sizes |= {"embedding"} if CRITERIA[expected.loss].dims else set()
    sizes |= {"reduce"} if expected.ending != "lstm" else set()
    assert found.model_dump(exclude=of_training | sizes) == expected.model_dump(exclude=of_training | sizes)


def changed(name: str, **others: Any) -> dict[str, Tensor]:
    """The published names with some tensors replaced; None takes one out."""
    state = {**published_state(name), **others}
    return {key: value for key, value in state.items() if value is not None}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a tensor is missing": ({"m_transform.0.3.bias": None}, r"lacks trunk\.blocks\.1\.conv\.bias"),
    "one that does not belong": ({"m_extra.weight": torch.zeros(2)}, r"has m_extra\.weight"),
    "another shape": ({"m_transform.0.3.weight": torch.zeros(64, 32, 3, 3)}, r"trunk\.blocks\.1\.conv\.weight has the shape"),
    "not a number": ({"m_transform.0.3.bias": torch.full((64,), torch.nan)}, "NaN or infinity"),
    "no output": ({"m_output_act.0.weight": None}, r"no m_output_act\.0\.weight"),
    "an output of three": ({"m_output_act.0.weight": torch.zeros(3, 96), "m_output_act.0.bias": torch.zeros(3)}, "output of 3 dims"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_weights_that_do_not_fit_are_refused_by_name(case: str, tmp_path: Path) -> None:
    others, said = REFUSED[case]
    path = tmp_path / "weights.pt"
    torch.save(changed("lfcc-lcnn-lstmsum-sig", **others), path)
    with pytest.raises(DataError, match=said):
        build(SystemConfig(weights=str(path)), 60)


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("m_output_act.0.1.weight", torch.zeros(161, 4416), "hidden: Input should be a multiple of 2"),
        ("m_output_act.0.1.weight", torch.zeros(()), r"no m_output_act\.0\.weight"),
        ("m_angle.0.weight", torch.zeros(()), r"has criterion\.weight"),
        ("m_transform.0.0.weight", torch.zeros(257, 0), "input_dim: Input should be greater"),
    ],
)  # fmt: skip
def test_sizes_of_no_system_are_refused(name: str, tensor: Tensor, said: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(changed("lfcc-lcnn-fixed-sig", **{name: tensor}), path)
    with pytest.raises(DataError, match=said):
        build(SystemConfig(weights=str(path)), 60)


def test_weights_for_another_upstream_are_refused(tmp_path: Path) -> None:
    torch.save(filled(ssl_keys("LGF")), tmp_path / "lgf.pt")
    with pytest.raises(DataError, match=r"input\.weight has the shape \(128, 1024\)"):
        build(SystemConfig(weights=str(tmp_path / "lgf.pt")), 768)


def test_a_setting_that_contradicts_the_weights_is_refused(tmp_path: Path) -> None:
    torch.save(published_state("lfcc-lcnn-lstmsum-sig"), tmp_path / "weights.pt")
    with pytest.raises(UsageError, match="whose ending is lstm, yet the settings say attention"):
        build(SystemConfig(weights=str(tmp_path / "weights.pt"), ending="attention"), 60)


def test_weights_that_leave_the_loss_open_ask_for_it(tmp_path: Path) -> None:
    torch.save(published_state("lfcc-lcnn-lstmsum-p2s"), tmp_path / "weights.pt")
    with pytest.raises(UsageError, match="am or p2sgrad"):
        build(SystemConfig(weights=str(tmp_path / "weights.pt")), 60)
    with pytest.raises(UsageError, match="am or p2sgrad"):
        build(SystemConfig(weights=str(tmp_path / "weights.pt"), loss="oc"), 60)
    config = SystemConfig(weights=str(tmp_path / "weights.pt"), loss="p2sgrad")
    assert build(config, 60).config == resolved(config) and resolved(config).reduce == "sum"


def test_files_that_are_no_weights_are_refused_and_nothing_in_them_is_run(tmp_path: Path) -> None:
    (tmp_path / "code.pt").write_bytes(pickle.dumps(print))
    torch.save([1, 2], tmp_path / "list.pt")
    for name, said in (("code.pt", "not"), ("list.pt", "no state dict"), ("missing.pt", "no such file")):
        with pytest.raises(DataError, match=said):
            build(SystemConfig(weights=str(tmp_path / name)), 60)


# Settings and recipes.


@pytest.mark.parametrize(
    ("given", "said"),
    [({"loss": "p2s"}, "p2sgrad"), ({"trunk": "lcn"}, "Did you mean 'lcnn'"), ({"ending": "fixed"}, "give window"),
     ({"ending": "attention_"}, "one of mean, fixed"), ({"input": "conv"}, ", ".join(INPUTS)), ({"hidden": 3}, "hidden"),
     ({"embedding": 1}, "embedding")],
)  # fmt: skip
def test_settings_of_no_system_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        validate(SystemConfig, given)


@pytest.mark.parametrize(
    ("given", "dim", "said"),
    [({"input": "none"}, 12, "16 dims at least; here are 12"), ({"input": "none", "trunk": "resnet18"}, 128, "55 to 78"),
     ({"input": "none", "trunk": "none"}, 257, "even number")],
)  # fmt: skip
def test_dims_that_a_part_does_not_take_are_refused(given: dict[str, Any], dim: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        build(SystemConfig.model_validate(given), dim)


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_recipe_is_a_run_and_no_cell_repeats_the_training(file: Path) -> None:
    whole = merge({"upstream": {"name": "fbank"}, "downstream": "asv_spoof"}, read_recipe(file))
    config = validate(RunConfig, whole)
    validate(SystemConfig, config.task["system"] if config.task else {})
    said = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    assert len(said) <= (3 if "extends" in file.read_text() and file.stem != "nii-ssl" else 6)


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / "top.yaml"


def test_a_recipe_lies_over_those_it_extends_in_their_order(tmp_path: Path) -> None:
    top = write(
        tmp_path, base="seed: 1\nbatch: {size: 2, seconds: 9}\n", more="extends: base\nseed: 2\n",
        other="batch: {size: 3}\n", top="extends: [more, other]\ntask: {a: 1}\n",
    )  # fmt: skip
    assert read_recipe(top) == {"seed": 2, "batch": {"size": 3, "seconds": 9}, "task": {"a": 1}}


@pytest.mark.parametrize(
    ("files", "said"),
    [({"top": "extends: top\n"}, "extends top, which extends it"),
     ({"top": "extends: a\n", "a": "extends: top\n"}, "a.yaml: extends top, which extends it"),
     ({"top": "extends: bsae\n", "base": "{}\n"}, "no bsae.yaml beside it. Did you mean 'base'"),
     ({"top": "extends: ../secret\n"}, "the name of a recipe in the same folder"),
     ({"top": "extends: 3\n"}, "the name of a recipe in the same folder")],
)  # fmt: skip
def test_a_recipe_that_extends_none_is_refused(files: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        read_recipe(write(tmp_path, **files))


def test_the_rate_falls_after_every_few_epochs() -> None:
    config = validate(
        TrainingConfig,
        {"scheduler": {"name": "step", "every_epochs": 2, "factor": 0.5}, "runner": {"epochs": 5}, "optimizer": {"lr": 0.8, "name": "SGD"}},
    )  # fmt: skip
    optimizer = build_optimizer([{"params": [nn.Parameter(torch.zeros(1))]}], config.optimizer)
    scheduler = build_scheduler(optimizer, config.scheduler, 15, config.runner.epochs)
    rates = []
    for _ in range(15):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.8] * 6 + [0.4] * 6 + [0.2] * 3)


@pytest.mark.parametrize(
    ("given", "said"),
    [({"scheduler": {"name": "step", "every_epochs": 5, "factor": 0.5}}, "give runner.epochs"),
     ({"scheduler": {"name": "step"}}, "needs every_epochs and factor"),
     ({"scheduler": {"name": "linear", "factor": 0.5}}, "factor belong to the schedule step"),
     ({"scheduler": {"name": "step", "every_epochs": 5, "factor": 0.5, "warmup_steps": 3}}, "has no warm-up")],
)  # fmt: skip
def test_a_schedule_by_epochs_is_asked_for_as_a_whole(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        validate(TrainingConfig, given)
    assert SchedulerConfig().name == "constant"
