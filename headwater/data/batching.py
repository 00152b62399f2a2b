"""Batches by duration: planned once for all ranks, then dealt."""

from __future__ import annotations

import numpy as np


def pack(order: np.ndarray, seconds: np.ndarray, *, size: int, max_seconds: float) -> list[np.ndarray]:
    """Cut `order` into batches of at most `size` items whose padded duration, count x longest, is at most `max_seconds` (one item may exceed it alone)."""
    batches: list[np.ndarray] = []
    start, longest = 0, 0.0
    for position, item in enumerate(order):
        longest_with = max(longest, float(seconds[item]))
        count = position - start + 1
        if count > 1 and (count > size or count * longest_with > max_seconds):
            batches.append(order[start:position])
            start, longest_with = position, float(seconds[item])
        longest = longest_with
    if start < len(order):
        batches.append(order[start:])
    return batches


def plan_epoch(seconds: np.ndarray, *, size: int, max_seconds: float, seed: int, epoch: int) -> list[np.ndarray]:
    """The batches of one training epoch, each item once: a pure function of its arguments, so that a position in it is all a resume needs.

    Items are shuffled, those of about 20 batches sorted by duration (less padding), packed, and the batches shuffled. The generator is named by
    (seed, "epoch", number).
    """
    generator = np.random.default_rng([seed, 0xE70C, epoch])
    order = generator.permutation(len(seconds))
    pool = 20 * size
    batches: list[np.ndarray] = []
    for start in range(0, len(order), pool):
        chunk = order[start : start + pool]
        chunk = chunk[np.argsort(seconds[chunk], kind="stable")]
        batches.extend(pack(chunk, seconds, size=size, max_seconds=max_seconds))
    return [batches[index] for index in generator.permutation(len(batches))]


def plan_evaluation(seconds: np.ndarray, *, size: int, max_seconds: float) -> list[np.ndarray]:
    """All items once, sorted by duration."""
    return pack(np.argsort(seconds, kind="stable"), seconds, size=size, max_seconds=max_seconds)


def windows(batches: list[np.ndarray], accumulate: int) -> list[list[np.ndarray]]:
    """Groups of `accumulate` batches, one optimiser step each; the last may be smaller and is a step too."""
    return [batches[start : start + accumulate] for start in range(0, len(batches), accumulate)]


def deal(batch: np.ndarray, rank: int, ranks: int) -> np.ndarray:
    """One rank's share of a batch; may be empty where a batch holds fewer items than there are ranks."""
    return batch[rank::ranks]
