"""Rows of scores for tests of metrics."""

from __future__ import annotations

from typing import Any

import numpy as np

from headwater.metrics import Ratio

ACCURACY = Ratio("accuracy", "correct", "total", chance=50.0)


def trial_rows(seed: int = 0, speakers: int = 12, trials: int = 300, gap: float = 1.0) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    pairs = generator.integers(speakers, size=(trials, 2))
    pairs[::2, 1] = pairs[::2, 0]
    return [
        {
            "id": f"t{i:04d}",
            "target": int(a == b),
            "score": float(generator.normal(gap * (a == b))),
            "speaker1": f"s{a}",
            "speaker2": f"s{b}",
        }
        for i, (a, b) in enumerate(pairs)
    ]


def utterance_rows(seed: int = 0, speakers: int = 12, each: int = 10, right: float = 0.8) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    return [
        {"id": f"u{s:02d}-{k:02d}", "speaker": f"s{s}", "correct": int(generator.random() < right), "total": 1}
        for s in range(speakers)
        for k in range(each)
    ]
