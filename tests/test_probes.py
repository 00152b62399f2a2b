"""Probes that need no tuning: what they compute, and runs with `--probe`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Answer
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from headwater.cli.run import main as run_main
from headwater.probes import knn, logistic
from headwater.probes.ridge import GRID, ridge
from headwater.probes.statistics import Moments


def rows(seed: int, size: int = 60, dim: int = 7, classes: int = 4, offset: float = 3.0) -> tuple[Tensor, Tensor]:
    """Rows of unequal, correlated dims, every class there."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.cat([torch.arange(classes), torch.randint(classes, (size - classes,), generator=generator)])
    mixing = torch.randn(dim, dim, generator=generator)
    x = (torch.randn(size, dim, generator=generator) + torch.eye(classes, dim)[y]) @ mixing + offset
    return x, y


def moments_of(x: Tensor, y: Tensor, classes: int = 4, parts: int = 1) -> Moments:
    moments = Moments(classes)
    for some_x, some_y in zip(x.chunk(parts), y.chunk(parts), strict=True):
        moments.add(some_x, some_y)
    return moments


def standardised(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = x.double()
    mean = x.mean(0)
    scale = (x - mean).square().mean().sqrt()
    return (x - mean) / scale, mean, scale


@given(st.integers(0, 10_000), st.integers(1, 9), st.sampled_from([0.0, 3.0, 1e4]))
@settings(max_examples=30, deadline=None)
def test_ridge_equals_the_normal_equations(seed: int, parts: int, offset: float) -> None:
    x, y = rows(seed, offset=offset)
    z, _, scale = standardised(x)
    answers = torch.nn.functional.one_hot(y, 4).double()
    for l2, (weight, bias) in zip(GRID, ridge(moments_of(x, y, parts=parts)), strict=True):
        left = z.T @ z / len(z) + l2 * torch.eye(z.shape[1], dtype=torch.float64)
        expected = torch.linalg.solve(left, z.T @ (answers - answers.mean(0)) / len(z)).T
        torch.testing.assert_close(weight * scale, expected, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(
            x.double() @ weight.T + bias, z @ expected.T + answers.mean(0), rtol=1e-6, atol=1e-7 * max(1.0, offset / 10)
        )


def test_ridge_takes_features_that_are_constant_or_equal_to_each_other() -> None:
    x, y = rows(0)
    x = torch.cat([x, x[:, :1], torch.full_like(x[:, :1], 5.0)], 1)
    for weight, bias in ridge(moments_of(x, y)):
        assert bool(torch.isfinite(weight).all() and torch.isfinite(bias).all())
        torch.testing.assert_close(weight[:, 0], weight[:, 7], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(weight[:, 8], torch.zeros(4, dtype=torch.float64))


def test_moments_of_several_ranks_are_those_of_one() -> None:
    x, y = rows(1)
    whole, parts = moments_of(x, y), [Moments(4), Moments(4)]
    for part, (some_x, some_y) in zip(parts, zip(x.chunk(2), y.chunk(2), strict=True), strict=True):
        assert whole.origin is not None
        part.start(whole.origin)
        part.add(some_x, some_y)
    parts[0].merged([part.state() for part in parts])
    torch.testing.assert_close(parts[0].mean, whole.mean)
    torch.testing.assert_close(parts[0].covariance(), whole.covariance())
    torch.testing.assert_close(parts[0].covariance_with_classes(), whole.covariance_with_classes())


@given(st.integers(0, 10_000), st.sampled_from(logistic.GRID))
@settings(max_examples=20, deadline=None)
def test_the_gradient_of_logistic_regression_vanishes_where_it_ends(seed: int, l2: float) -> None:
    x, y = rows(seed)
    z = standardised(x)[0]
    parameters, converged = logistic.logistic(z, y, 4, l2)
    assert converged
    weight, bias = parameters[:, :-1].clone().requires_grad_(), parameters[:, -1].clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(z @ weight.T + bias, y) + 0.5 * l2 * weight.square().sum()
    loss.backward()
    assert weight.grad is not None and bias.grad is not None
    assert max(float(weight.grad.abs().max()), float(bias.grad.abs().max())) < 2 * logistic.TOLERANCE


def test_logistic_regression_of_two_classes_ends_where_newtons_method_does() -> None:
    x, y = rows(3, classes=2)
    z, l2 = standardised(x)[0], 0.01
    # Of two classes the softmax is a sigmoid of the difference of the weights, whose penalty is halved.
    design = torch.cat([z, torch.ones_like(z[:, :1])], 1)
    penalty = torch.diag(torch.tensor([l2 / 2] * z.shape[1] + [0.0], dtype=torch.float64))
    beta = torch.zeros(design.shape[1], dtype=torch.float64)
    for _ in range(50):
        chance = torch.sigmoid(design @ beta)
        slope = design.T @ (chance - y) / len(y) + penalty @ beta
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design / len(y) + penalty
        beta = beta - torch.linalg.solve(curvature, slope)
    parameters, _ = logistic.logistic(z, y, 2, l2)
    torch.testing.assert_close(parameters[1] - parameters[0], beta, rtol=1e-4, atol=1e-5)


def test_a_warm_start_ends_where_a_cold_one_does() -> None:
    x, y = rows(4)
    z = standardised(x)[0]
    warm, _ = logistic.logistic(z, y, 4, 0.01, logistic.logistic(z, y, 4, 1.0)[0])
    torch.testing.assert_close(warm, logistic.logistic(z, y, 4, 0.01)[0], rtol=1e-3, atol=1e-4)


@given(st.integers(0, 10_000), st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_neighbours_vote_as_by_brute_force(seed: int, k: int) -> None:
    x, y = rows(seed)
    queries = rows(seed + 1)[0][:9]
    head = knn.NearestNeighbours(x.shape[1], 4)
    head.remember(x, y)
    head.k.fill_(k)
    found = head(queries[:, None], torch.ones(9, dtype=torch.int64))
    mean = x.double().mean(0).numpy()
    memory = x.double().numpy() - mean
    for query, logits in zip(queries.double().numpy() - mean, found, strict=True):
        cosines = memory @ query / np.linalg.norm(memory, axis=1) / np.linalg.norm(query)
        nearest = np.argsort(-cosines)[:k]
        counts = np.bincount(y.numpy()[nearest], minlength=4)
        agreeing = np.bincount(y.numpy()[nearest], weights=cosines[nearest], minlength=4)
        assert int(logits.argmax()) == max(range(4), key=lambda c: (counts[c], agreeing[c]))
        shares = logits.exp().numpy()
        np.testing.assert_allclose(shares.sum(), 1.0, atol=1e-4)
        np.testing.assert_allclose(shares, counts / k, atol=0.5 / k)


@pytest.fixture()
def folder(tmp_path: Path, demo_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADWATER_CACHE", str(demo_cache))
    return tmp_path


def run(task: str, probe: str, *more: str, to: str = "run", upstream: str = "mel") -> dict[str, Any]:
    assert run_main(["-u", upstream, "-d", task, "--probe", probe, "-p", to, "--limit", "48", *more]) == 0
    result: dict[str, Any] = json.loads((Path(to) / "result.json").read_text())
    return result


CASES = [("speaker", "ridge"), ("speaker", "logistic"), ("speaker", "knn"), ("phone", "ridge"), ("classify", "knn")]


@pytest.mark.parametrize(("task", "probe"), CASES)
def test_a_run_can_be_scored_again_and_asked(
    task: str, probe: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(task, probe)
    chosen = result["probe"]
    grid, values = chosen["grid"], chosen["dev"]["accuracy"]
    name = "k" if probe == "knn" else "l2"
    assert chosen["name"] == probe and len(grid) == len(values)
    # The grid was scored as the split is scored: the chosen value is the result on dev.
    assert result["metrics"]["dev"]["accuracy"]["value"] == max(values) == values[grid.index(chosen[name])]
    assert values.index(max(values)) == grid.index(chosen[name])
    assert result["upstream"]["selection"].endswith(probe)
    assert result["steps"] == 0
    capsys.readouterr()
    assert run_main(["-m", "evaluate", "-e", "run", "--out", "again.jsonl"]) == 0
    assert Path("again.jsonl").read_bytes() == (Path("run") / "scores" / "test.jsonl").read_bytes()


@pytest.mark.parametrize(("task", "probe"), CASES[:4])
def test_two_runs_have_the_same_bits(task: str, probe: str, folder: Path) -> None:
    first, second = run(task, probe, to="one"), run(task, probe, to="two")
    assert first["probe"] == second["probe"] and first["metrics"] == second["metrics"]
    for file in ("model.safetensors", "scores/test.jsonl", "scores/dev.jsonl"):
        assert (folder / "one" / file).read_bytes() == (folder / "two" / file).read_bytes()


@pytest.mark.parametrize("probe", ["ridge", "logistic", "knn"])
def test_files_are_answered_alone_as_among_others(probe: str, folder: Path, demo_cache: Path) -> None:
    run("speaker", probe)
    files = sorted(map(str, next((demo_cache / "demo").glob("1-*")).glob("wav/s0[1-4]/*-01.wav")))
    assert run_main(["-m", "predict", "-e", "run", *files, "--out", "all.jsonl"]) == 0
    together = [json.loads(line) for line in Path("all.jsonl").read_text().splitlines()]
    assert [row["id"] for row in together] == files and len(files) == 4
    for row in together:
        assert run_main(["-m", "predict", "-e", "run", row["id"], "--out", "one.jsonl"]) == 0
        alone = json.loads(Path("one.jsonl").read_text())
        assert alone["prediction"] == row["prediction"]
        assert alone["probability"] == pytest.approx(row["probability"], abs=2e-6)


def test_the_batch_does_not_matter(folder: Path) -> None:
    wide, narrow = run("speaker", "ridge", to="wide"), run("speaker", "ridge", "-o", "batch.size=1", to="narrow")
    assert wide["probe"]["l2"] == narrow["probe"]["l2"]
    one, other = (load_file(Path(name) / "model.safetensors") for name in ("wide", "narrow"))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-6)


def test_layers_count_alike_without_weights_to_learn(folder: Path) -> None:
    result = run("speaker", "ridge", upstream="tera", to="mean")
    weights = result["upstream"]["layer_weights"]
    assert weights == [1 / len(weights)] * len(weights) and len(weights) > 1
    assert result["upstream"]["selection"] == "mean of layers, ridge"
    assert any("plain mean" in note for note in result["notes"])
    assert run("speaker", "ridge", "-l", "0", upstream="tera", to="one")["upstream"]["selection"] == "layer 0, ridge"


REFUSED = [
    ("phone", "logistic", [], "phone asks every frame"),
    ("phone", "knn", [], "phone asks every frame"),
    ("phone_1hidden", "ridge", [], "phone_1hidden is more than one linear layer"),
    ("speaker_sid", "logistic", [], "speaker_sid is more than one linear layer"),
    ("speaker_verification", "ridge", [], "speaker_verification is no classification"),
    ("speaker", "ridge", ["-f"], "cannot go with -f"),
    ("speaker", "ridge", ["-i", "run"], "nothing that -i could start from"),
    ("speaker", "knn", ["-o", "specaug.time_masks=1"], "specaug has no meaning"),
]


@pytest.mark.parametrize(("task", "probe", "more", "said"), REFUSED)
def test_what_a_probe_cannot_do_is_refused_by_name(
    task: str, probe: str, more: list[str], said: str, folder: Path, command: Callable[..., Answer]
) -> None:
    answer = command("run", "-u", "mel", "-d", task, "--probe", probe, "-p", "new", *more)
    assert answer.code == 2 and said in answer.err and f"--probe {probe}" in answer.err
    assert not Path("new").exists()


@pytest.mark.parametrize("broken", [{"k": torch.tensor(1000)}, {"labels": torch.tensor([77])}])
def test_a_broken_memory_is_refused(broken: dict[str, Tensor], folder: Path, command: Callable[..., Answer]) -> None:
    run("speaker", "knn")
    file = Path("run/model.safetensors")
    state = load_file(file)
    save_file({**state, **{f"head.{name}": value for name, value in broken.items()}}, file)
    answer = command("run", "-m", "evaluate", "-e", "run")
    assert answer.code == 3 and "no memory of" in answer.err
