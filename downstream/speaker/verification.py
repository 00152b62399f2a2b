"""Speaker verification: cosine scores of pooled embeddings over a list of trials."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from headwater.config import Section
from headwater.data.corpus import Corpus
from headwater.data.trials import Trials, read_trials
from headwater.errors import DataError, UsageError
from headwater.metrics import Eer, Measure, MinDcf, Ratio
from headwater.metrics.trials import TrialRows
from headwater.nn.heads import MeanPool, PooledLinear
from headwater.nn.upstream import UpstreamSpec
from headwater.train.accumulators import not_finite
from headwater.train.classification import ClassificationAccumulator
from headwater.train.corpora import Measured, load_corpus, measured
from headwater.train.task import Accumulator, Batch, Item, Specification, Task

RATE = 16000
TILE, WIDE = 512, 1 << 15  # enrolments and tests of one product
SPARSE = 32  # a product may make so many scores for each that is asked for
GATHERED = 1 << 14  # trials whose embeddings are laid side by side


class VerificationConfig(Section):
    """embedding: the mean of the upstream's frames as it is (raw: nothing is trained), or of a projector trained to identify the train speakers (trained)."""

    embedding: Literal["raw", "trained"] = "raw"
    projector: int = Field(256, ge=1, description="dims of the trained embedding")


class TrialAccumulator(Accumulator):
    """Embeddings by utterance; the trials are scored when all are there."""

    def __init__(self, measures: Sequence[Measure], trials: Trials) -> None:
        super().__init__(measures)
        self.trials = trials
        self._embeddings: dict[str, np.ndarray] = {}
        self._scored: TrialRows | None = None

    def add(self, output: tuple[Tensor, Tensor], batch: Batch) -> None:
        self.merge(dict(zip(batch.ids, output[1].double().cpu().numpy(), strict=True)))

    def state(self) -> dict[str, np.ndarray]:
        return self._embeddings

    def merge(self, state: Mapping[str, np.ndarray]) -> None:
        self._embeddings.update(state)
        self._scored = None

    def rows(self) -> TrialRows:
        if self._scored is None:
            self._scored = self._score()
        return self._scored

    def _score(self) -> TrialRows:
        trials, utterances = self.trials, self.trials.utterances
        table = np.stack([self._embeddings[utterance.id] for utterance in utterances])
        for utterance, finite in zip(utterances, np.isfinite(table).all(1).tolist(), strict=True):
            if not finite:
                raise not_finite("the embedding", utterance)
        table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
        scores = cosines(table, trials.enrol, trials.test)
        names, speakers = zip(*((utterance.id, utterance.speaker) for utterance in utterances), strict=True)
        return TrialRows(names, speakers, trials.enrol, trials.test, trials.labels, scores)


def cosines(table: np.ndarray, enrol: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Products (N,) of rows of a table (U, D) with rows of length one: those of many enrolments with all their tests as one product of matrices."""
    scores = np.empty(len(enrol), dtype=table.dtype)
    order = np.argsort(enrol, kind="stable")
    edges = np.searchsorted(enrol[order], np.arange(0, len(table) + TILE, TILE))
    for tile, (low, high) in enumerate(pairwise(edges.tolist())):
        chosen = order[low:high]
        rows = table[tile * TILE : (tile + 1) * TILE]
        tests = np.unique(test[chosen])
        if len(chosen) * SPARSE >= len(rows) * len(tests):
            for start in range(0, len(tests), WIDE):
                part = tests[start : start + WIDE]
                inside = chosen if len(part) == len(tests) else chosen[np.isin(test[chosen], part)]
                product = rows @ table[part].T
                scores[inside] = product[enrol[inside] - tile * TILE, np.searchsorted(part, test[inside])]
        else:
            for start in range(0, len(chosen), GATHERED):
                some = chosen[start : start + GATHERED]
                scores[some] = np.einsum("ij,ij->i", table[enrol[some]], table[test[some]])
    return scores


class Embedder(nn.Module):
    """(B, T, D) -> logits over the train speakers (B, C) and embeddings (B, projector); without training, no logits and the mean over frames."""

    def __init__(self, in_dim: int, classes: int, projector: int) -> None:
        super().__init__()
        self.network: MeanPool | PooledLinear = PooledLinear(in_dim, classes, projector) if classes else MeanPool()

    def forward(self, frames: Tensor, lengths: Tensor, inputs: Mapping[str, Tensor]) -> tuple[Tensor | None, Tensor]:
        if isinstance(self.network, MeanPool):
            return None, self.network(frames, lengths)
        embedding = self.network.embed(frames, lengths)
        return self.network.classifier(embedding), embedding


class IdentificationAccumulator(ClassificationAccumulator):
    """Identification of the dev split, which chooses the trained embedding."""

    def add(self, output: tuple[Tensor, Tensor], batch: Batch) -> None:  # type: ignore[override]
        super().add(output[0], batch)


class Verification(Task):
    """EER and minDCF over the trials of `data.trials`, both speakers resampled for the intervals."""

    Config = VerificationConfig
    pooling = "mean"
    classes: tuple[str, ...] = ()
    trials: Trials

    def _specify(self) -> None:
        measures = (Eer(), MinDcf("min_dcf_0.01", 0.01), MinDcf("min_dcf_0.05", 0.05))
        dev = (Ratio("accuracy", "correct", "total"),) if self.classes else None
        self.spec = Specification(
            level="utterance", labels="trial", measures=measures, dev_measures=dev, classes=self.classes
        )

    def corpora(self) -> dict[str, list[Item]]:
        restored = hasattr(self, "spec")
        corpus = self._corpus()
        trials = self._read_trials(corpus)
        self.notes += trials.notes
        items: dict[str, list[Item]] = {}
        described = None
        if self.config.embedding == "trained" and not restored:
            items, described = self._identification(corpus, trials)
        elif not restored:
            self._specify()
        # Paths enter the hash of the data below a root of its own, so that the place of the files does not.
        folders = [utterance.path.parent for utterance in trials.utterances]
        root = corpus.root if corpus is not None else Path(os.path.commonpath(folders))
        named = Corpus(
            "trials", "trials", root, tuple(replace(utterance, split="test") for utterance in trials.utterances)
        )
        test = measured(
            named,
            self.data.model_copy(update={"min_utterances": 1, "limit": None}),
            seed=self.seed,
            rate=RATE,
            needed=("test",),
        )
        self.notes += [note for note in test.notes if note not in self.notes]
        self.trials = self._without(trials, test)
        if len(np.unique(self.trials.labels)) < 2:
            raise DataError(
                f"{self.data.trials or 'the list'}: all {len(self.trials)} trials have the same label; "
                "verification is measured on both, one speaker (1) and two (0)"
            )
        pairs = [
            self.trials.labels.tolist(),
            [utterance.id for utterance in self.trials.utterances],
            self.trials.enrol.tolist(),
            self.trials.test.tolist(),
        ]
        description = test.describe(
            self.data.path or self.data.trials, RATE, [pairs, described["sha256"] if described else None]
        )
        description["name"] = corpus.name if corpus is not None else Path(str(self.data.trials)).stem
        if described is not None:
            description["splits"] = {**described["splits"], **description["splits"]}
        self.description = {
            **description,
            "trials": {"count": len(self.trials), "targets": int(self.trials.labels.sum())},
        }
        return {**items, "test": [Item(utterance, samples) for utterance, samples in test.splits["test"]]}

    def _corpus(self) -> Corpus | None:
        """The corpus the trials are about; None where there is nothing but the list."""
        if self.data.path is None and self.data.trials is not None:
            return None
        if self.data.path is not None and self.data.trials is None and Path(self.data.path).suffix == ".txt":
            self.data = self.data.model_copy(update={"trials": self.data.path, "path": None})
            return None
        from headwater.data.demo import demo_corpus

        corpus = load_corpus(self.data, demo_corpus)
        self.notes += corpus.notes
        return corpus

    def _read_trials(self, corpus: Corpus | None) -> Trials:
        if self.data.trials is not None:
            return read_trials(self.data.trials, corpus_root=self.data.root, corpus=corpus)
        if self.data.path is None:
            from headwater.data.demo import demo_trials

            return demo_trials()
        folder = Path(self.data.path)
        found = (
            sorted({*folder.glob("veri_test*.txt"), *folder.parent.glob("veri_test*.txt")}) if folder.is_dir() else []
        )
        if len(found) != 1:
            names = f"; found {', '.join(file.name for file in found)}" if found else ""
            raise UsageError(f"verification needs a list of trials (LABEL PATH PATH): -o data.trials=FILE{names}")
        return read_trials(found[0], corpus=corpus)

    def _identification(self, corpus: Corpus | None, trials: Trials) -> tuple[dict[str, list[Item]], dict[str, Any]]:
        """Train and dev of the identification that shapes the embedding."""
        if corpus is None:
            raise UsageError(
                "task.embedding=trained needs speakers to learn from: give a corpus with --data beside the trials"
            )
        data = measured(corpus, self.data, seed=self.seed, rate=RATE, needed=("train", "dev"))
        self.notes += [note for note in data.notes if note not in self.notes]
        parts = {split: data.splits[split] for split in ("train", "dev")}
        nameless = [utterance.id for part in parts.values() for utterance, _ in part if utterance.speaker is None]
        if nameless:
            raise DataError(
                f"{len(nameless)} utterances have no speaker, the first is {nameless[0]!r}; a trained embedding learns from speakers"
            )
        self.classes = tuple(sorted({str(utterance.speaker) for utterance, _ in parts["train"]}))
        self._specify()
        unknown = {str(utterance.speaker) for utterance, _ in parts["dev"]} - set(self.classes)
        if unknown:
            raise DataError(
                f"dev has speakers that train has not ({', '.join(sorted(unknown)[:3])}); identification on dev chooses the embedding"
            )
        shared = {utterance.speaker for utterance in trials.utterances} & set(self.classes)
        if shared:
            self.notes.append(
                f"{len(shared)} speakers of the trials are among the training speakers: this EER is not one of unseen speakers"
            )
        index = {name: number for number, name in enumerate(self.classes)}
        items = {
            split: [Item(utterance, samples, {"class": index[str(utterance.speaker)]}) for utterance, samples in part]
            for split, part in parts.items()
        }
        return items, replace(data, splits=parts).describe(self.data.path, RATE)

    def _without(self, trials: Trials, test: Measured) -> Trials:
        """The trials whose files are readable; fewer than were given only with `data.skip_bad_audio`."""
        if not test.skipped:
            return trials
        bad = {row["id"] for row in test.skipped}
        good = np.array([utterance.id not in bad for utterance in trials.utterances])
        keep = good[trials.enrol] & good[trials.test]
        number = np.cumsum(good) - 1
        self.notes.append(f"{int((~keep).sum())} trials left out, as their files are broken")
        return replace(
            trials, labels=trials.labels[keep], enrol=number[trials.enrol[keep]].astype(np.int32), test=number[trials.test[keep]].astype(np.int32),
            utterances=tuple(utterance for utterance, ok in zip(trials.utterances, good.tolist(), strict=True) if ok),
        )  # fmt: skip

    def head(self, upstream: UpstreamSpec) -> nn.Module:
        return Embedder(upstream.out_dim, len(self.classes), self.config.projector)

    def loss(self, output: tuple[Tensor, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        total = nn.functional.cross_entropy(output[0].float(), batch.labels["class"], reduction="sum")
        return total, torch.tensor(len(batch.items), device=total.device)

    def score(self, split: str) -> Accumulator:
        if split == "test":
            return TrialAccumulator(self.spec.measures, self.trials)
        return IdentificationAccumulator(self.spec.measures_of("dev"), self.classes)

    def predict(self, output: tuple[Tensor, Tensor], batch: Batch) -> list[dict[str, Any]]:
        return [
            {"id": item.id, "embedding": embedding}
            for item, embedding in zip(batch.items, output[1].tolist(), strict=True)
        ]

    def state(self) -> dict[str, Any]:
        return {"classes": list(self.classes)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.classes = tuple(state["classes"])
        self._specify()
