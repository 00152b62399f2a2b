"""The masks are those of the published policies: their distributions, their labels, and nothing on padding."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from headwater.mam.masking import Masking, Masks, draw

PUBLISHED = json.loads((ROOT / "tests/data/s3prl/masking/masking_statistics.json").read_text(encoding="utf-8"))
FRAMES = 100_000  # drawn a case
CASES = [
    pytest.param(generation, name, number, id=f"{generation}-{name}-{number}")
    for generation in ("head", "v01")
    for name, entry in PUBLISHED[generation].items()
    for number, case in enumerate(entry["cases"])
    if "stats" in case
]


def policy_of(config: dict[str, Any], dim: int, generation: str) -> Masking:
    # S3PRL's HEAD has a share of the dims, its v0.1 a number of them.
    band = config["mask_frequency"] if generation == "v01" else int(dim * config["mask_frequency"])
    return Masking(
        config["mask_proportion"],
        (config["mask_consecutive_min"], config["mask_consecutive_max"]),
        config["mask_allow_overlap"],
        config["mask_bucket_ratio"],
        band,
        config["noise_proportion"],
    )


def drawn(
    policy: Masking, lengths: list[int], dim: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Masks]:
    generator = torch.Generator().manual_seed(seed)
    counts = torch.tensor(lengths)
    x = 1 + torch.rand(len(lengths), max(lengths), dim, generator=generator)
    x = x.masked_fill(torch.arange(max(lengths))[None, :, None] >= counts[:, None, None], 0.0)
    masks = draw(policy, counts, dim, generator)
    return x, masks.apply(x), masks.labels(counts, dim), masks


@pytest.mark.parametrize(("generation", "name", "number"), CASES)
def test_the_distribution_of_masks_is_the_published_one(generation: str, name: str, number: int) -> None:
    entry = PUBLISHED[generation][name]
    case = entry["cases"][number]
    length, dim, stats = case["length"], case["channels"], case["stats"]
    policy = policy_of(entry["config"], dim, generation)
    draws = FRAMES // length
    quiet = Masking(policy.proportion, policy.span, policy.overlap, policy.bucket, policy.band)
    x, altered, labels, masks = drawn(quiet, [length] * draws, dim, seed=number)
    labelled = labels.flatten(1).any(1)
    time, fully = masks.time[labelled], labels[labelled].all(2)
    zeroed = (altered == 0)[labelled].all(2)
    replaced = ((altered != x) & (altered != 0))[labelled].any(2)
    position = torch.arange(length)
    begins = time & ~torch.nn.functional.pad(time, (1, 0))[:, :-1]
    ours = {
        "label_fraction": labels[labelled].float().mean((1, 2)),
        "time_labelled": fully.float().mean(1),
        "time_zeroed": zeroed.float().mean(1),
        "time_replaced": replaced.float().mean(1),
        "n_runs": begins.sum(1).float(),
        "first_labelled": torch.where(time, position, length).amin(1).float(),
        "last_labelled": torch.where(time, position, -1).amax(1).float(),
    }
    for key, values in ours.items():
        if key not in stats:
            continue
        expected = stats[key]
        error = expected["std"] * math.sqrt(1 / case["draws"] + 1 / len(values))
        assert float(values.mean()) == pytest.approx(
            expected["mean"], abs=4.5 * error + 1e-3 * expected["std"] + 1e-6
        ), key
        if key in ("label_fraction", "time_labelled"):
            assert float(values.std()) == pytest.approx(expected["std"], rel=0.5, abs=1e-6), key
            assert float(values.max()) <= expected["max"] + 0.02 * abs(expected["max"]), key
    widths = masks.band.sum(1)[labelled]
    for width, count in case.get("bandwidth_histogram", {}).items():
        share = count / case["draws"]
        error = math.sqrt(share * (1 - share) * (1 / case["draws"] + 1 / draws))
        assert float((widths == int(width)).float().mean()) == pytest.approx(share, abs=4.5 * error + 1e-6)


def test_whole_batches_get_noise_of_the_published_size_as_often_as_asked() -> None:
    noisy = 0
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        masks = draw(Masking(noise=0.15), torch.tensor([60, 40]), 80, generator)
        assert masks.noise is not None
        loud = masks.noise.flatten(1).abs().amax(1) > 0
        assert bool(loud.all()) or not bool(loud.any())
        if bool(loud.all()):
            noisy += 1
            assert float(masks.noise.std()) == pytest.approx(0.2, rel=0.05)
    # A binomial draw of 300: six standard deviations.
    assert 300 * 0.15 - 37 < noisy < 300 * 0.15 + 37


lengths_of_a_batch = st.lists(st.integers(1, 90), min_size=1, max_size=6)
policies = st.builds(
    Masking,
    proportion=st.sampled_from([0.0, 0.15, 0.5, 1.0]),
    span=st.sampled_from([(1, 1), (7, 7), (1, 15), (40, 40)]),
    overlap=st.booleans(),
    bucket=st.sampled_from([1.0, 1.5]),
    band=st.sampled_from([0, 2, 5]),
    noise=st.sampled_from([0.0, 0.5]),
)


@given(lengths_of_a_batch, policies, st.integers(0, 1000))
def test_padding_is_never_labelled_and_what_is_not_labelled_stays_as_it_is(
    lengths: list[int], policy: Masking, seed: int
) -> None:
    x, altered, labels, masks = drawn(policy, lengths, 5, seed)
    valid = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
    assert not labels[~valid].any()
    silent = altered if masks.noise is None else altered - masks.noise
    changed = (silent - x).abs() > 1e-6
    assert not (changed & ~labels)[valid].any()


@given(lengths_of_a_batch, st.integers(0, 1000))
def test_the_last_frame_is_never_masked_in_time_and_replacements_come_from_the_same_utterance(
    lengths: list[int], seed: int
) -> None:
    lengths = [length + 8 for length in lengths]
    x, altered, _, masks = drawn(Masking(0.5), lengths, 3, seed)
    for row, length in enumerate(lengths):
        assert not masks.time[row, length - 1]
        assert int(masks.source[row].max()) < max(lengths)
        own = {tuple(frame) for frame in x[row, :length].tolist()} | {(0.0, 0.0, 0.0)}
        assert all(tuple(frame) in own for frame in altered[row, :length].tolist())


def test_shares_of_ranks_are_the_rows_of_the_whole() -> None:
    x, altered, _, masks = drawn(Masking(0.3, band=4, noise=0.9), [50, 60, 40, 30, 20], 6, seed=3)
    for rank, size in ((0, 50), (1, 60)):
        share = masks.rows(rank, 2, size)
        torch.testing.assert_close(share.apply(x[rank::2, :size]), altered[rank::2, :size], rtol=0, atol=0)


def test_an_utterance_too_short_for_one_span_is_known_before() -> None:
    policy = Masking(0.15, (7, 7))
    shortest = next(frames for frames in range(1, 100) if not policy.too_short(frames))
    assert draw(policy, torch.tensor([shortest]), 4, torch.Generator().manual_seed(0)).time.any()
    assert not draw(policy, torch.tensor([shortest - 1]), 4, torch.Generator().manual_seed(0)).time.any()
    assert not Masking(0.0, band=3).too_short(1)
