"""NII's countermeasures: embeddings, scores, losses, gradients and sizes of the published code (tests/data/nii_spoof, ../shared/parity/nii_spoof)."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from headwater.downstream.asv_spoof.criteria import CRITERIA, Criterion, continued
from headwater.downstream.asv_spoof.systems import System, SystemConfig, build
from torch import Tensor, nn

import headwater
from tests.countermeasures import (
    DATA,
    KEYS,
    PUBLISHED,
    SSL,
    in_dim,
    parameters,
    published,
    recipe,
    settings,
    ssl,
)  # fmt: skip

SIGNALS = ("arctic_a0002", "nsf_slt_b0474", "synth1")


@pytest.fixture(scope="module")
def reference(shared: Path) -> Path:
    return shared / "parity" / "nii_spoof"


def waveform(stored: Any, signal: str) -> Tensor:
    wav = stored[f"{signal}.wav"]
    return torch.from_numpy(wav.astype(np.float32) / 32768 if wav.dtype == np.int16 else wav)


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], System]:
    """Systems with weights by rule, each made once."""
    return functools.cache(lambda name: published(name, tmp_path_factory.mktemp("cell")))


def frames(name: str, wavs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """What the upstream of a recipe makes of waveforms."""
    features = headwater.load(recipe(name)["upstream"]["name"]).extract(wavs)
    return features.hidden_states[0], features.lengths


def assert_published(name: str, system: System, wav: Tensor, embedding: np.ndarray, score: float) -> None:
    with torch.no_grad():
        found, activation = system(*frames(name, [wav]))
        scored = float(system.criterion.score(activation))
    assert np.abs(found[0].numpy() - embedding).max() <= 1e-4 * np.abs(embedding).max()
    assert scored == pytest.approx(score, abs=1e-3 if system.config.loss == "sigmoid" else 2e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_cell_gives_the_published_embedding_and_score(name: str, cell: Callable[[str], System]) -> None:
    wav = waveform(np.load(DATA / "frontends.npz"), "synth1")
    assert_published(name, cell(name), wav, np.load(DATA / "filled_embeddings.npz")[name], PUBLISHED[name]["score"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_cell_gives_the_published_embedding_and_score_of_recordings(
    name: str, cell: Callable[[str], System], reference: Path
) -> None:
    stored = np.load(reference / "frontends.npz")
    embeddings = np.load(reference / "expected_filled_embeddings.npz")
    scores = json.loads((reference / "expected_filled_systems.json").read_text())[name]["scores"]
    for signal in SIGNALS[:2]:
        embedding = embeddings[f"{name.replace('/', '_')}|{signal}"]
        assert_published(name, cell(name), waveform(stored, signal), embedding, scores[signal])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_cell_has_as_many_parameters_as_the_published_system(name: str, cell: Callable[[str], System]) -> None:
    # The ResNet's second output, which nothing uses, is not built.
    unused = sum(math.prod(shape) for key, shape in KEYS[name].items() if key.startswith("m_model.0.fc_mu."))
    assert parameters(cell(name)) + unused == PUBLISHED[name]["parameters_trainable"]


@pytest.mark.parametrize("kind", SSL)
def test_a_back_end_on_an_ssl_model_gives_the_published_logits(kind: str, tmp_path: Path) -> None:
    expected = json.loads((DATA / "ssl_backends.json").read_text())["systems"][kind]
    system = ssl(kind, tmp_path)
    x = torch.from_numpy(np.random.RandomState(21).standard_normal((2, 101, 1024)).astype(np.float32))
    lengths = torch.tensor([101, 101])
    with torch.no_grad():
        pooled = system.pool(x, lengths).numpy()
        logits, activation = system(x, lengths)
    embeddings = np.load(DATA / "ssl_backends_embeddings.npz")[kind]
    assert np.abs(pooled - embeddings).max() <= 1e-4 * np.abs(embeddings).max()
    np.testing.assert_allclose(logits.numpy(), expected["logits"], atol=1e-4)
    np.testing.assert_allclose(system.criterion.score(activation).numpy(), expected["score"], atol=1e-4)
    assert parameters(system) == expected["backend_trainable_parameters"]


def test_the_published_weights_give_the_published_scores(reference: Path) -> None:
    weights = reference / "lfcc-lcnn-lstmsum-sig_real.safetensors"
    name = "lfcc-lcnn-lstmsum-sig"
    system = build(settings(name, weights=str(weights)), in_dim(name)).eval()
    stored = np.load(reference / "frontends.npz")
    expected = json.loads((reference / "expected_real_scores.json").read_text())["scores"]
    with torch.no_grad():
        _, activation = system(*frames(name, [waveform(stored, signal) for signal in SIGNALS]))
    scores = system.criterion.score(activation).numpy()
    np.testing.assert_allclose(scores, [expected[signal] for signal in SIGNALS], atol=1e-3)


def test_the_published_weights_alone_say_which_system_they_are_of(reference: Path) -> None:
    system = build(SystemConfig(weights=str(reference / "lfcc-lcnn-lstmsum-sig_real.safetensors")), 60)
    expected = settings("lfcc-lcnn-lstmsum-sig")
    for name in ("input", "trunk", "ending", "reduce", "loss"):
        assert getattr(system.config, name) == getattr(expected, name)


def test_activations_inside_are_the_published_ones(reference: Path) -> None:
    name, signal = "lfcc-lcnn-lstmsum-sig", "nsf_slt_b0474"
    weights = reference / "lfcc-lcnn-lstmsum-sig_real.safetensors"
    system = build(settings(name, weights=str(weights)), in_dim(name)).eval()
    seen: dict[str, Tensor] = {}

    def keep(module: nn.Module, place: str) -> None:
        module.register_forward_hook(lambda _, __, output: seen.__setitem__(place, output))

    for place, block in {2: 0, 9: 2, 15: 4, 27: 8}.items():
        keep(system.trunk.blocks[block], f"m_transform_after_{place}_ch0_3")  # type: ignore[index, arg-type]
    keep(system.trunk, "flat")
    keep(system.ending.layers[1], "lstm")  # type: ignore[index, arg-type]
    keep(system.ending, "pooled")
    keep(system.output, "logit")
    seen["frontend"], lengths = frames(name, [waveform(np.load(reference / "frontends.npz"), signal)])
    with torch.no_grad():
        system(seen["frontend"], lengths)
    expected = np.load(reference / f"lstmsum_sig_real_intermediate_{signal}.npz")
    for place in expected:
        held = seen[place]
        found = (held[0] if isinstance(held, tuple) else held)[0].numpy()
        found = found[:3] if place.startswith("m_transform") else found
        assert found.shape == expected[place].shape, place
        assert np.abs(found - expected[place]).max() <= 1e-4 * np.abs(expected[place]).max(), place


def criterion(name: str, weight: np.ndarray, **others: Any) -> Criterion:
    made = CRITERIA[name](16, SystemConfig(loss=name, **others))
    made.weight.data.copy_(torch.from_numpy(weight))
    return made.train()


@pytest.mark.parametrize(
    ("name", "prefix", "columns"),
    [("am", "am", 2), ("oc", "oc", 1), ("p2sgrad", "p2s", 2), ("asoftmax", "asoftmax_m4_iter1", 2)],
)
def test_a_loss_has_the_published_value_gradients_and_scores(name: str, prefix: str, columns: int) -> None:
    stored = np.load(DATA / "loss_layers.npz")
    layer = criterion(name, stored[f"W{columns}"])
    embedding = torch.from_numpy(stored["emb"]).requires_grad_()
    target = torch.from_numpy(stored["target"])
    activation = layer(embedding)
    losses = layer.loss(activation, target)
    assert losses.shape == target.shape
    losses.mean().backward()
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(losses.mean().item(), stored[f"{prefix}_loss"], **close)
    assert embedding.grad is not None
    np.testing.assert_allclose(embedding.grad, stored[f"{prefix}_grad_emb"], **close)
    np.testing.assert_allclose(layer.weight.grad, stored[f"{prefix}_grad_w"], **close)
    np.testing.assert_allclose(layer.score(activation).detach(), stored[f"{prefix}_score"].reshape(-1), **close)


def test_activations_of_losses_are_the_published_ones() -> None:
    stored = np.load(DATA / "loss_layers.npz")
    embedding = torch.from_numpy(stored["emb"])
    with torch.no_grad():
        am, oc, p2s, angular = (
            criterion(name, stored[f"W{columns}"])(embedding)
            for name, columns in (("am", 2), ("oc", 1), ("p2sgrad", 2), ("asoftmax", 2))
        )
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(torch.stack([20 * am, 20 * (am - 0.9)]), stored["am_act"], **close)
    np.testing.assert_allclose(torch.stack([20 * (0.9 - oc), 20 * (oc - 0.2)]), stored["oc_act"], **close)
    np.testing.assert_allclose(p2s, stored["p2s_act"], **close)
    size = embedding.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(
        torch.stack([angular[:, 1], size * continued(angular[:, 0])]), stored["asoftmax_m4_iter1_act"], **close
    )


def test_the_continued_cosine_falls_from_1_to_minus_7_without_a_step() -> None:
    angle = torch.linspace(0, torch.pi, 2001, dtype=torch.float64)
    phi = continued(angle.cos())
    assert phi[0] == 1 and phi[-1] == pytest.approx(-7)
    assert bool((phi.diff() <= 1e-9).all()) and float(phi.diff().abs().max()) < 0.01


TRAINED = (
    "lfcc-lcnn-fixed-sig",
    "lfcc-lcnn-attention-p2s",
    "lfb-lcnn-lstmsum-oc",
    "spec2-lcnn-attention-am",
    "lfcc-lcnn-lstmsum-sig",
)


@pytest.mark.parametrize("name", TRAINED)
def test_one_training_step_has_the_published_loss_gradients_and_statistics(
    name: str, tmp_path: Path, reference: Path
) -> None:
    stored = np.load(reference / "frontends.npz")
    expected = json.loads((reference / "expected_train_step.json").read_text())["systems"][name]
    system = published(name, tmp_path).train()
    for module in system.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    x, lengths = frames(name, [waveform(stored, signal)[:32000] for signal in SIGNALS[:2]])
    _, activation = system(x, lengths)
    loss = system.criterion.loss(activation, torch.tensor(expected["target"])).mean()
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-3)
    gradients = [parameter.grad for parameter in system.parameters()]
    assert len([gradient for gradient in gradients if gradient is not None]) == expected["n_params_with_grad"]
    norm = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]).norm()
    assert norm.item() == pytest.approx(expected["grad_norm_total"], rel=1e-3)
    first = next(system.parameters()).grad  # the first layer's weight, be it of the filter bank or a convolution
    assert first is not None and first.norm().item() == pytest.approx(expected["grad_norm_conv1"], rel=1e-3)
    total = sum(value.double().sum().item() for key, value in system.state_dict().items() if "running" in key)
    assert total == pytest.approx(expected["running_stat_sum_after"], rel=1e-3)
