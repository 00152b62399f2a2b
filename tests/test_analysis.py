"""The analyses' mathematics: closed forms, bounds, invariances, and what they say of small models."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from acoustic import model
from corpora import make_corpus
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headwater.analysis import attention, lnsr
from headwater.analysis.attention import categories, diagonality, globalness, measure_maps, row_lengths, verticality
from headwater.analysis.layers import common_names
from headwater.analysis.lnsr import Perturbation, noise_to_signal, spectral_norm, with_noise
from headwater.analysis.subject import Subject
from headwater.audio import read
from headwater.data.readers import read_corpus
from headwater.errors import DataError, HeadwaterError, UsageError
from headwater.loading import load_upstream
from headwater.mam.model import MaskedAcousticModel
from headwater.nn.upstream import Upstream

# Attention maps.


def uniform(size: int) -> Tensor:
    return torch.full((1, size, size), 1 / size)


def vertical(size: int, key: int) -> Tensor:
    maps = torch.zeros(1, size, size)
    maps[:, :, key] = 1
    return maps


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_a_uniform_map_is_as_global_and_as_little_vertical_as_can_be(size: int) -> None:
    assert float(globalness(uniform(size))) == pytest.approx(math.log(size), abs=1e-6)
    assert float(verticality(uniform(size))) == pytest.approx(-math.log(size), abs=1e-6)
    assert float(diagonality(uniform(size))) == pytest.approx(-(size**2 - 1) / (3 * size**2), rel=1e-6)


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_the_identity_is_diagonal_and_not_global(size: int) -> None:
    maps = torch.eye(size)[None]
    assert float(diagonality(maps)) == 0 and float(globalness(maps)) == 0
    assert float(verticality(maps)) == pytest.approx(-math.log(size), abs=1e-6)


@pytest.mark.parametrize(("size", "key"), [(1, 0), (5, 0), (5, 3), (100, 99)])
def test_a_map_of_one_key_is_vertical(size: int, key: int) -> None:
    maps = vertical(size, key)
    assert float(verticality(maps)) == 0 and float(globalness(maps)) == 0
    distance = sum(abs(query - key) for query in range(size)) / size**2
    assert float(diagonality(maps)) == pytest.approx(-distance, rel=1e-6)


def test_heads_are_measured_each_by_itself() -> None:
    maps = torch.cat([uniform(6), torch.eye(6)[None], vertical(6, 2)])
    for measure in (globalness, verticality, diagonality):
        assert measure(maps).tolist() == [float(measure(maps[head : head + 1])) for head in range(3)]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.floats(0, 30), st.integers(0, 2**31))
def test_bounds(size: int, sharpness: float, seed: int) -> None:
    scores = sharpness * torch.randn(3, size, size, generator=torch.Generator().manual_seed(seed))
    maps = scores.softmax(-1)
    slack = 1e-5
    assert bool((globalness(maps) >= -slack).all()) and bool((globalness(maps) <= math.log(size) + slack).all())
    assert bool((verticality(maps) <= slack).all()) and bool((verticality(maps) >= -math.log(size) - slack).all())
    # The entropy of a mean is at least the mean of the entropies.
    assert bool((-verticality(maps) >= globalness(maps) - slack).all())
    assert bool((diagonality(maps) <= 0).all()) and bool((diagonality(maps) > -1).all())


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 20), st.integers(0, 2**31))
def test_mirrored_time_changes_no_measure(size: int, seed: int) -> None:
    maps = torch.randn(2, size, size, generator=torch.Generator().manual_seed(seed)).softmax(-1)
    for measure in (globalness, verticality, diagonality):
        torch.testing.assert_close(measure(maps.flip(-1, -2)), measure(maps), rtol=1e-6, atol=1e-7)


def test_a_head_is_of_the_measure_in_which_it_ranks_highest() -> None:
    values = np.array([[5.0, 1.0, 3.0, 2.0], [0.1, 0.4, 0.3, 0.2], [-3.0, -2.0, -4.0, -1.0]])
    assert categories(values) == ["global", "vertical", "global", "diagonal"]


def test_ties_go_to_the_better_rank_and_the_first_measure() -> None:
    assert categories(np.zeros((3, 5))) == ["global"] * 5
    # Head 1 shares the first rank in verticality, head 0 does in all three.
    assert categories(np.array([[2.0, 1.0], [3.0, 3.0], [4.0, 3.0]])) == ["global", "vertical"]


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 2**31))
def test_categories_do_not_depend_on_the_order_of_heads_nor_on_scale(order: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((3, 6))
    there = categories(values[:, order])
    assert there == [categories(values)[head] for head in order]
    assert categories(values * np.array([[1.0], [100.0], [0.01]]) - 7) == categories(values)


@pytest.mark.parametrize(
    ("rows", "longest", "frames", "expected"),
    [(1, 40, 40, [40]), (3, 20, 60, [20, 20, 20]), (3, 20, 55, [20, 20, 15]), (2, 1, 2, [1, 1])],
)
def test_the_last_chunk_holds_the_frames_that_are_left(
    rows: int, longest: int, frames: int, expected: list[int]
) -> None:
    assert row_lengths(rows, longest, frames) == expected


@pytest.mark.parametrize(("rows", "longest", "frames"), [(1, 40, 41), (1, 40, 0), (3, 20, 40), (2, 20, 60)])
def test_maps_that_do_not_fit_their_utterance_are_an_error(rows: int, longest: int, frames: int) -> None:
    with pytest.raises(HeadwaterError, match=f"{rows} row.*{longest} frames.*{frames} frames"):
        row_lengths(rows, longest, frames)


@torch.no_grad()
def maps_of(upstream: MaskedAcousticModel, frames: int, seed: int = 0) -> list[Tensor]:
    x = torch.randn(1, frames, 16, generator=torch.Generator().manual_seed(seed))
    return upstream.attention_maps(x, torch.tensor([frames]))


def test_a_chunk_is_measured_as_it_would_be_alone() -> None:
    upstream = model()  # rows of 20 frames at most
    whole = measure_maps(maps_of(upstream, 50), row_lengths(3, 17, 50))
    assert [values.shape for values in whole] == [(3, 3, 4)] * 3
    x = torch.randn(1, 50, 16, generator=torch.Generator().manual_seed(0))
    for values, (start, end) in zip(whole, [(0, 17), (17, 34), (34, 50)], strict=True):
        with torch.no_grad():
            alone = upstream.attention_maps(x[:, start:end], torch.tensor([end - start]))
        np.testing.assert_allclose(values, measure_maps(alone, [end - start])[0], rtol=1e-5, atol=1e-6)


def test_pruning_a_head_leaves_the_maps_of_its_layer_and_changes_those_above() -> None:
    plain, pruned = model(), model(transformer={"prune_headids": [4]})  # the first head of layer 2
    one, two = (measure_maps(maps_of(upstream, 18), [18])[0] for upstream in (plain, pruned))
    np.testing.assert_array_equal(one[:, :2], two[:, :2])
    assert (np.abs(one[:, 2] - two[:, 2]) > 1e-6).all()


# Noise-to-signal ratio.


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_the_spectral_norm_is_the_largest_singular_value(frames: int, dim: int, seed: int) -> None:
    x = torch.randn(frames, dim, generator=torch.Generator().manual_seed(seed))
    assert spectral_norm(x) == pytest.approx(np.linalg.norm(x.double().numpy(), ord=2), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.floats(-3, 3), st.integers(0, 2**31))
def test_a_scaled_copy_has_the_ratio_of_its_scale(scale: float, seed: int) -> None:
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert noise_to_signal(x, scale * x) == pytest.approx(abs(1 - scale), abs=1e-9)


def test_it_is_the_spectral_norm_and_not_frobenius() -> None:
    # Frobenius would give sqrt(5) / sqrt(25).
    assert noise_to_signal(torch.diag(torch.tensor([4.0, 3.0])), torch.diag(torch.tensor([2.0, 2.0]))) == 0.5


def test_identical_frames_have_no_noise_and_the_longer_version_is_cut() -> None:
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    longer = torch.cat([x, torch.full((3, 4), 1e6)])
    assert noise_to_signal(x, x) == noise_to_signal(x, longer) == noise_to_signal(longer, x) == 0
    assert math.isnan(noise_to_signal(torch.zeros(3, 2), torch.ones(3, 2)))


@settings(max_examples=25, deadline=None)
@given(st.floats(-20, 60), st.integers(1, 2000), st.integers(0, 2**31))
def test_the_signal_to_noise_ratio_is_exact(snr: float, samples: int, seed: int) -> None:
    wav = 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    noise = with_noise(wav, snr, "a", seed) - wav
    found = 10 * math.log10(float(wav.square().mean() / noise.square().mean()))
    assert found == pytest.approx(snr, abs=1e-4)


def test_noise_is_a_function_of_name_and_seed() -> None:
    wav = torch.ones(100)
    one = with_noise(wav, 10, "a", 1)
    assert torch.equal(one, with_noise(wav, 10, "a", 1)) and one.dtype == wav.dtype
    assert not torch.equal(one, with_noise(wav, 10, "b", 1)) and not torch.equal(one, with_noise(wav, 10, "a", 2))
    assert torch.equal(with_noise(torch.zeros(5), 10, "a", 1), torch.zeros(5))


# A model on a corpus.


@pytest.fixture()
def corpus(tmp_path: Path) -> Path:
    return make_corpus(tmp_path, "csv", speakers=3, utterances=2)


def subject(upstream: Upstream, path: Path, *, backwards: bool = False) -> Subject:
    corpus = read_corpus(path)
    utterances = list(corpus.utterances)
    return Subject(
        upstream,
        torch.device("cpu"),
        utterances[::-1] if backwards else utterances,
        lambda utterance: read(utterance.path),
        corpus.root,
        {"upstream": {"name": upstream.name}, "data": {"path": str(path)}},
        [],
    )


NOISE = Perturbation("noise", 20.0, 0)


def test_no_perturbation_arrives_nowhere(corpus: Path) -> None:
    found = lnsr.examine(subject(model(), corpus), Perturbation("gain", 0.0))
    assert [metric.value for metric in found.metrics] == [0.0] * 5
    assert found.layers == ["features", "input", "layer 1", "layer 2", "layer 3"]


def test_the_order_of_utterances_changes_nothing(corpus: Path) -> None:
    one, two = (lnsr.examine(subject(model(), corpus, backwards=turned), NOISE) for turned in (False, True))
    assert one.metrics == two.metrics and one.rows == two.rows[::-1]


def test_more_noise_arrives_where_there_is_more(corpus: Path) -> None:
    quiet, loud = (lnsr.examine(subject(model(), corpus), Perturbation("noise", snr, 0)) for snr in (30.0, 10.0))
    assert all(0 < a.value < b.value for a, b in zip(quiet.metrics, loud.metrics, strict=True))
    assert {(metric.n, metric.clusters) for metric in quiet.metrics} == {(6, 3)}


def test_a_gain_is_lost_where_the_front_end_sets_the_level(corpus: Path) -> None:
    found = lnsr.examine(subject(model(), corpus), Perturbation("gain", -12.0))
    assert max(metric.value for metric in found.metrics) < 1e-4


def test_a_state_of_zeros_is_an_error_with_the_utterance_in_it(corpus: Path) -> None:
    upstream = model()
    torch.nn.init.zeros_(upstream.transformer.layer(2).output_norm.weight)
    with pytest.raises(DataError, match=r"spk00-00.*layer 3"):
        lnsr.examine(subject(upstream, corpus), NOISE)


def test_broken_weights_are_named(corpus: Path) -> None:
    upstream = model()
    torch.nn.init.constant_(upstream.transformer.projection.bias, torch.nan)
    with pytest.raises(HeadwaterError, match=r"NaN.*spk00-00"):
        lnsr.examine(subject(upstream, corpus), NOISE)


def test_pairs_need_the_column(corpus: Path) -> None:
    with pytest.raises(DataError, match=r"spk00-00.*`perturbed`"):
        lnsr.examine(subject(model(), corpus), Perturbation("pairs"))


def test_chunks_count_as_utterances_and_resampling_knows_their_speaker(corpus: Path) -> None:
    heads = attention.examine(subject(model(), corpus), 15.0)  # half a second is 50 frames: three rows
    assert len(heads.rows) == 18 and heads.rows[2]["id"].endswith("#2") and heads.shape == (3, 4)
    metrics = heads.metrics()
    assert {metric.n for group in metrics.values() for metric in group} == {18}
    assert {metric.clusters for group in metrics.values() for metric in group} == {3}
    assert "6 utterance(s) into chunks" in " ".join(heads.notes)


def test_whole_utterances_count_once(corpus: Path) -> None:
    heads = attention.examine(subject(model(task={"sequence_length": 0}), corpus), 15.0)
    assert sorted(row["id"] for row in heads.rows) == [
        f"spk{speaker:02d}-{n:02d}" for speaker in range(3) for n in (0, 1)
    ]
    assert heads.notes == []
    assert heads.picture[0].shape == (4, heads.rows[0]["frames"], heads.rows[0]["frames"])


def test_long_utterances_are_cut_and_it_is_said(corpus: Path) -> None:
    upstream = model(task={"sequence_length": 0})
    heads = attention.examine(subject(upstream, corpus), 0.2)
    assert {row["frames"] for row in heads.rows} == {upstream.frames(3200)}
    assert heads.notes == ["6 utterance(s) longer than 0.2 s: the first 0.2 s are examined"]


def test_an_upstream_without_maps_is_told_which_have_them(corpus: Path) -> None:
    with pytest.raises(UsageError, match=r"'fbank' has no attention maps; these have: audio_albert, mockingjay, tera"):
        attention.examine(subject(load_upstream("fbank"), corpus), 15.0)


def test_layers_are_named_where_all_agree() -> None:
    assert common_names([["input", "layer 1"], ["input", "layer 1", "layer 2"]]) == ["input", "layer 1", "layer 2"]
    assert common_names([["input", "layer 1"], ["conv"]]) == ["0", "1"]
