"""How fast features are computed, and how far those that are not float32 throughout are from the exact ones: measured on a few utterances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic

import numpy as np

from headwater.store.compute import Extractor, Key
from headwater.store.features import FrozenFeatures


def relative_error(kept: FrozenFeatures[Key], keys: Sequence[Key]) -> list[float] | None:
    """The relative RMS error of each layer as the head is given it, against float32. None where there is nothing to be wrong."""
    if kept.dtype == kept.extract_dtype == "float32" or not keys:
        return None
    exact: FrozenFeatures[Key] = FrozenFeatures(
        kept.upstream, kept.layers, kept.read, pooled=kept.pooled, device=kept.device
    )
    wrong, right = np.zeros(len(kept.layers)), np.zeros(len(kept.layers))
    groups = [[key] for key in keys]
    for (ours, _), (theirs, _) in zip(kept.batches(groups), exact.batches(groups), strict=True):
        for column, (state, true) in enumerate(zip(ours, theirs, strict=True)):
            wrong[column] += float((state.double() - true.double()).square().sum())
            right[column] += float(true.double().square().sum())
    return [float(ratio) for ratio in np.sqrt(wrong / np.maximum(right, 1e-30))]


def speed(extractor: Extractor[Key], keys: Sequence[Key], seconds: Callable[[Key], float]) -> float:
    """Seconds of audio that are computed a second."""
    for _ in extractor([[keys[0]]]):
        pass  # what happens only once
    started = monotonic()
    for _ in extractor([[key] for key in keys]):
        pass
    return sum(seconds(key) for key in keys) / max(monotonic() - started, 1e-9)
