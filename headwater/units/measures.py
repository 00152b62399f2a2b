"""What units know of phones: purity, and phone-normalised mutual information (https://arxiv.org/abs/2106.07447, section IV.D)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.metrics import Metric
from headwater.metrics.bootstrap import interval, resample

Counts = NDArray[np.float64]
BASELINES = 5  # permutations, whose mean is given


def phone_purity(counts: Counts) -> NDArray[np.float64]:
    """(..., units, phones) counts -> the share of frames whose phone is the most frequent one of their unit."""
    return _share(counts.max(-1).sum(-1), counts)


def unit_purity(counts: Counts) -> NDArray[np.float64]:
    """... whose unit is the most frequent one of their phone."""
    return _share(counts.max(-2).sum(-1), counts)


def pnmi(counts: Counts) -> NDArray[np.float64]:
    """... I(phone; unit) / H(phone): how much of what there is to know of the phone the unit says. NaN for a single phone."""
    total = np.maximum(counts.sum((-2, -1), keepdims=True), 1.0)
    joint = counts / total
    phones, units = joint.sum(-2), joint.sum(-1)
    entropy, information = (
        _entropy(phones),
        _entropy(phones) + _entropy(units) - _entropy(joint.reshape(*joint.shape[:-2], -1)),
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(entropy > 0, information / entropy, np.nan)


MEASURES = {"pnmi": pnmi, "phone_purity": phone_purity, "unit_purity": unit_purity}


def contingency(units: NDArray[np.int64], phones: NDArray[np.int64], shape: tuple[int, int]) -> Counts:
    """(units, phones): how many frames have both."""
    return np.bincount(units * shape[1] + phones, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)


def measure(
    units: Mapping[str, NDArray[np.int64]],
    phones: Mapping[str, NDArray[np.int64]],
    speakers: Mapping[str, str | None],
    shape: tuple[int, int],
    *,
    seed: int,
) -> dict[str, Metric]:
    """Each measure over all frames of all utterances, with an interval from resampling speakers; `chance` is that of the same units in another order.

    units, phones: of each utterance, equally many. shape: numbers of units and of phones.
    """
    names = sorted(units)
    groups: dict[str, list[str]] = {}
    for name in names:
        speaker = speakers.get(name)
        groups.setdefault(speaker if speaker is not None else f"\0{name}", []).append(name)
    of_group = [
        contingency(
            np.concatenate([units[name] for name in part]), np.concatenate([phones[name] for name in part]), shape
        )
        for part in groups.values()
    ]
    each = np.stack(of_group)
    every = each.sum(0)
    said = np.concatenate([units[name] for name in names]), np.concatenate([phones[name] for name in names])
    generator = np.random.default_rng(seed)
    mixed = np.stack([contingency(generator.permutation(said[0]), said[1], shape) for _ in range(BASELINES)])
    found = {}
    for name, statistic in MEASURES.items():
        value = float(statistic(every))
        drawn = resample(partial(_redrawn, statistic, each), len(each), shape[0] * shape[1], seed)
        # The mutual information of fewer different frames is larger, and a resample has fewer: its spread counts, not its place.
        placed = np.clip(drawn + (value - np.nanmean(drawn)), 0.0, 1.0)
        bounds = interval(placed, value, len(each), (0.0, 1.0))
        found[name] = Metric(
            value,
            "",
            True,
            len(names),
            bounds.ci95,
            chance=float(statistic(mixed).mean()),
            clusters=len(each),
            note=bounds.note,
        )
    return found


def describe(metrics: Mapping[str, Metric]) -> list[str]:
    """A line each, with the baseline."""
    return [
        f"{name} {metric.describe()}; {metric.chance:.4f} with the units permuted" for name, metric in metrics.items()
    ]


def to_json(metrics: Mapping[str, Metric]) -> dict[str, Any]:
    return {name: metric.to_json() for name, metric in metrics.items()}


def _redrawn(statistic: Callable[[Counts], Counts], each: Counts, times: NDArray[np.int64]) -> Counts:
    """The statistic of resamples, in which group s of `each` (S, units, phones) is there `times` (R, S)."""
    counts = times.astype(np.float64) @ each.reshape(len(each), -1)
    return statistic(counts.reshape(-1, *each.shape[1:]))


def _share(frames: Any, counts: Counts) -> NDArray[np.float64]:
    share: NDArray[np.float64] = frames / np.maximum(counts.sum((-2, -1)), 1.0)
    return share


def _entropy(shares: Counts) -> NDArray[np.float64]:
    found: NDArray[np.float64] = -(shares * np.log(np.maximum(shares, 1e-300))).sum(-1)
    return found
