"""What is examined: an upstream, and the speech it is examined on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headwater.config import DataConfig, UpstreamConfig
from headwater.data.corpus import Utterance
from headwater.data.demo import demo_corpus
from headwater.data.features import common_features
from headwater.errors import DataError
from headwater.loading import load_upstream
from headwater.nn.upstream import Upstream
from headwater.train.corpora import load_corpus, measured, read_utterance
from headwater.train.runner import versions
from headwater.weights import state_sha256


@dataclass(frozen=True)
class Subject:
    """An upstream on its device, and utterances.

    read: utterance -> waveform (samples,) at the upstream's rate, or precomputed features (T, D).
    root: where the relative paths of the corpus start. facts: `upstream`, `data` and `versions`, as results say them. notes: sentences for the user.
    """

    upstream: Upstream
    device: torch.device
    utterances: list[Utterance]
    read: Callable[[Utterance], Tensor]
    root: Path
    facts: dict[str, Any]
    notes: list[str]

    @property
    def name(self) -> str:
        return self.upstream.name


def load_subject(settings: UpstreamConfig, data: DataConfig, *, split: str, device: torch.device) -> Subject:
    """The upstream that the settings name, and the split of the corpus; all of a corpus that states no splits.

    Raises:
        UsageError: no such upstream or setting, or it takes waveforms where the data is features, or the other way round.
        DataError: there is no such split, or nothing in it can be read.
    """
    upstream = load_upstream(settings.name, ckpt=settings.ckpt, config=settings.config, device=str(device))
    about = {
        "name": upstream.name,
        "weights_sha256": state_sha256(upstream),
        "weights_file": upstream.weight_file,
        "settings": settings.config,
    }
    corpus = load_corpus(data, demo_corpus)
    if stated := corpus.splits():
        if split not in stated:
            raise DataError(f"{corpus.name} has no {split} split; it has {', '.join(stated)}: choose with --split")
        corpus = corpus.with_utterances(corpus.split(split))
    else:
        split = "test"
    upstream.take_features(common_features(utterance.path for utterance in corpus.utterances))
    rate = upstream.sample_rate
    found = measured(corpus, data.model_copy(update={"splits": "whole"}), seed=0, rate=rate, needed=(split,))
    return Subject(
        upstream,
        device,
        [utterance for utterance, _ in found.splits[split]],
        lambda utterance: read_utterance(utterance, data, rate),
        corpus.root,
        {"upstream": about, "data": found.describe(data.path, rate), "versions": versions(device)},
        found.notes,
    )
