"""Layer-wise noise-to-signal ratio: how much of a disturbance of the sound arrives in each hidden state (https://arxiv.org/abs/2006.03214).

LNSR = ||r - a|| / ||r||, r the representation (T, D) of an utterance, a that of its disturbed version, || || the largest singular value; the mean over
utterances.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from headwater.analysis.findings import Cell, Findings, interval_notes
from headwater.analysis.layers import common_names
from headwater.analysis.subject import Subject
from headwater.data.corpus import Utterance
from headwater.errors import DataError, HeadwaterError, UsageError
from headwater.metrics import Mean, Metric, evaluate
from headwater.nn.upstream import NoFrontend, Upstream
from headwater.progress import progress
from headwater.store.features import enough_memory

FEATURES = "features"
Perturb = Callable[[Utterance, Tensor], Tensor]


def spectral_norm(x: Tensor) -> float:
    """The largest singular value of (T, D), in float64: the root of the largest eigenvalue of the smaller Gram matrix."""
    x = x.double()
    gram = x.T @ x if x.shape[0] >= x.shape[1] else x @ x.T
    return float(torch.linalg.eigvalsh(gram)[-1].clamp(min=0).sqrt())


def noise_to_signal(clean: Tensor, perturbed: Tensor) -> float:
    """||r - a|| / ||r|| of (T, D) and (T', D), both cut to the shorter one; NaN where the clean one is zero throughout."""
    frames = min(len(clean), len(perturbed))
    clean, perturbed = clean[:frames].double(), perturbed[:frames].double()
    signal = spectral_norm(clean)
    return spectral_norm(clean - perturbed) / signal if signal > 0 else math.nan


def with_noise(wav: Tensor, snr_db: float, name: str, seed: int) -> Tensor:
    """A waveform (samples,) with white Gaussian noise at exactly this signal-to-noise ratio; the noise is a function of name, length and seed alone."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    noise = np.random.default_rng(int.from_bytes(digest, "little")).standard_normal(len(wav))
    signal, drawn = wav.double(), torch.from_numpy(noise)
    level = (signal.square().mean() / drawn.square().mean() / 10 ** (snr_db / 10)).sqrt()
    return (signal + level * drawn).to(wav.dtype)


@dataclass(frozen=True)
class Perturbation:
    """White noise at a signal-to-noise ratio of `db`, a gain of `db`, or for `pairs` the files that the column `perturbed` of the list names."""

    kind: Literal["noise", "gain", "pairs"]
    db: float | None = None
    seed: int | None = None

    def __str__(self) -> str:
        if self.kind == "noise":
            return f"white noise at {self.db:g} dB signal-to-noise ratio (seed {self.seed})"
        return f"a gain of {self.db:g} dB" if self.kind == "gain" else "the perturbed files of the list"

    def on(self, subject: Subject) -> Perturb:
        """(utterance, its waveform or features) -> the perturbed version.

        Raises UsageError for noise or gain on precomputed features, DataError for an utterance without a file.
        """
        if self.kind == "pairs":
            return _other_file(subject)
        if isinstance(subject.upstream.frontend, NoFrontend):
            raise UsageError(f"{self} is for waveforms, and this data is precomputed features: give --pairs")
        level, seed = float(self.db or 0.0), int(self.seed or 0)
        if self.kind == "noise":
            return lambda utterance, wav: with_noise(wav, level, utterance.id, seed)
        return lambda utterance, wav: wav * 10 ** (level / 20)


def _other_file(subject: Subject) -> Perturb:
    for utterance in subject.utterances:
        if not utterance.labels.get("perturbed"):
            raise DataError(
                f"{subject.facts['data']['path']}: {utterance.id} names no file in the column `perturbed`; a list of pairs has the columns path and perturbed"
            )
    return lambda utterance, _: subject.read(replace(utterance, path=subject.root / utterance.labels["perturbed"]))


@dataclass(frozen=True)
class Examined:
    """The ratios of one upstream.

    facts: of the subject. layers: what was measured; metrics: the mean ratio of each. rows: the ratios, one row an utterance.
    """

    facts: dict[str, Any]
    layers: list[str]
    rows: list[dict[str, Any]]
    metrics: list[Metric]
    notes: list[str]


@torch.no_grad()
def examine(subject: Subject, perturbation: Perturbation) -> Examined:
    """The ratio in the front-end's output and in every hidden state, of every utterance by itself.

    Raises DataError where a state is zero throughout, HeadwaterError for NaN, infinity, or too little memory.
    """
    upstream, perturb = subject.upstream, perturbation.on(subject)
    layers = [FEATURES, *upstream.layer_names]
    columns = [FEATURES, *(f"state_{number}" for number in range(upstream.num_layers))]
    rows, unequal = [], 0
    for utterance in progress(subject.utterances, total=len(subject.utterances), what=f"lnsr {subject.name}"):
        wav = subject.read(utterance)
        with enough_memory(f"the utterance {utterance.id} is too long; leave it out"):
            clean, perturbed = (
                _states(upstream, sound.to(subject.device), utterance.id) for sound in (wav, perturb(utterance, wav))
            )
            ratios = [noise_to_signal(r, a) for r, a in zip(clean, perturbed, strict=True)]
        for layer, ratio in zip(layers, ratios, strict=True):
            if math.isnan(ratio):
                raise DataError(
                    f"the utterance {utterance.id}: {layer} of {subject.name} is zero throughout, so there is no ratio; leave it out"
                )
        unequal += len(clean[-1]) != len(perturbed[-1])
        row = {"upstream": subject.name, "id": utterance.id, "speaker": utterance.speaker, "frames": len(clean[-1])}
        rows.append({**row, **dict(zip(columns, ratios, strict=True))})
    metrics = list(evaluate([Mean(column, column, "", False) for column in columns], rows).values())
    cut = [f"{unequal} pair(s) differ in length: both are cut to the shorter one"] if unequal else []
    notes = [*subject.notes, *cut, *interval_notes(metrics)]
    return Examined(subject.facts, layers, rows, metrics, notes)


def findings(examined: Sequence[Examined], perturbation: Perturbation) -> Findings:
    """The ratios of one upstream or several, as what is to be written."""
    from headwater.results.plots import layers_plot

    names = [one.facts["upstream"]["name"] for one in examined]
    body: list[list[Cell]] = [
        [name, layer, metric.value, *(metric.ci95 or (None, None)), metric.n, metric.clusters]
        for name, one in zip(names, examined, strict=True)
        for layer, metric in zip(one.layers, one.metrics, strict=True)
    ]
    axis = [FEATURES, *common_names([one.layers[1:] for one in examined])]
    image = layers_plot({name: one.metrics for name, one in zip(names, examined, strict=True)}, axis, name="LNSR")
    systems = [
        {**one.facts["upstream"], "layers": one.layers, "lnsr": [metric.to_json() for metric in one.metrics]}
        for one in examined
    ]
    said = {key: value for key, value in asdict(perturbation).items() if value is not None}
    return Findings(
        "lnsr",
        f"Layer-wise noise-to-signal ratio of {', '.join(names)}",
        [f"How much of {perturbation} arrives in each hidden state: 0 nothing, 1 as much as the state itself."],
        ["upstream", "layer", "LNSR", "low", "high", "n", "clusters"],
        body,
        {"lnsr.svg": image},
        {**examined[0].facts, "upstream": systems, "perturbation": said},
        [row for one in examined for row in one.rows],
        list(dict.fromkeys(note for one in examined for note in one.notes)),
    )


def _states(upstream: Upstream, sound: Tensor, name: str) -> list[Tensor]:
    """The front-end's output and all hidden states of one utterance, (T, D) each."""
    x, lengths = upstream.inputs([sound])
    features = upstream.encode(x, lengths)
    states = [x[0, : int(lengths[0])], *(state[0, : int(features.lengths[0])] for state in features.hidden_states)]
    if not all(bool(torch.isfinite(state).all()) for state in states):
        raise HeadwaterError(
            f"upstream {upstream.name!r} gave NaN or infinite features for the utterance {name!r}; its weights or this audio are broken"
        )
    return states
