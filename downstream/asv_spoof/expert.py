"""Anti-spoofing: is it real speech, or synthetic, converted, copied or played back? Any upstream as a countermeasure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from headwater.config import Section
from headwater.data.corpus import Corpus, Utterance
from headwater.data.keys import BONAFIDE, SHARED, SPOOF, known_facts
from headwater.data.protocols import find_asv_scores
from headwater.data.splits import parted_by
from headwater.data.text import some
from headwater.errors import DataError, UsageError, nearest
from headwater.metrics import Breakdown, MinTdcf
from headwater.nn.upstream import UpstreamSpec
from headwater.registry import upstreams
from headwater.train.accumulators import RowAccumulator, not_finite
from headwater.train.corpora import load_corpus, measured, needed_splits, shared_speakers
from headwater.train.task import Batch, Item, Specification, Task
from headwater.train.weight_file import WeightFile

from . import nii
from .asv import (
    FORM_2019,
    asv_form,
    check_asv_form,
    check_asv_trials,
    corpus_of,
    read_asv_2019,
    read_asv_2021,
    tandem_measures,
)
from .scoring import KEYS, MEASURES, SUBSET
from .systems import SystemConfig, build, resolved

RATE = 16000
ASV_KEY = "trial_metadata.txt"  # beside the ASV scores of 2021, or a folder above


class AsvSpoofConfig(Section):
    """What this task can be told.

    system: the countermeasure. Where it does not say `input`, a linear layer meets the frames of an upstream, and those of a narrow front-end (no wider
    than that layer's output) go straight in. train: false scores `system.weights` as they stand. conditions: columns of the data that scores carry beside
    speaker and attack.
    """

    system: SystemConfig = Field(default_factory=SystemConfig)
    train: bool = True
    conditions: list[str] = Field(
        default_factory=lambda: ["codec", "transmission", "trim", "source", "vocoder", "gender"]
    )

    @model_validator(mode="after")
    def _has_what_it_scores(self) -> AsvSpoofConfig:
        if not self.train and self.system.weights is None:
            raise ValueError("train: false scores weights as they stand: name them, system.weights=FILE")
        return self


class SpoofAccumulator(RowAccumulator):
    """One score an utterance, higher for bona fide speech, with what the data says of it."""

    def __init__(self, task: AsvSpoof, split: str) -> None:
        super().__init__(task.spec.measures_of(split))
        self.task = task
        self._pending: list[tuple[Batch, Tensor]] = []

    def add(self, output: tuple[Tensor, Tensor], batch: Batch) -> None:
        self._pending.append((batch, self.task.criterion.score(output[1]).double()))

    def settle(self) -> None:
        for batch, scores in self._pending:
            for item, score in zip(batch.items, scores.tolist(), strict=True):
                said = self.task.facts(item)
                self.scored[item.id] = {
                    "id": item.id,
                    "speaker": said.pop("speaker", None),
                    "target": int(item.labels["target"]),
                    "score": finite(score, item),
                    **said,
                }
        self._pending.clear()


def finite(score: float, item: Item) -> float:
    """The score. `HeadwaterError` where it is none."""
    if not math.isfinite(score):
        raise not_finite("the score", item.utterance)
    return score


class AsvSpoof(Task):
    """EER, minDCF, actDCF and Cllr of bona fide speech against spoofs, and min t-DCF behind an ASV system whose scores are given."""

    Config = AsvSpoofConfig
    config: AsvSpoofConfig
    restored = False

    @cached_property
    def system(self) -> SystemConfig:
        """The countermeasure, with what a file of weights says of it."""
        return resolved(self.config.system)

    @property
    def pooling(self) -> Literal["mean"] | None:  # type: ignore[override]
        return self.system.pooling

    def corpora(self) -> dict[str, list[Item]]:
        from headwater.data.demo_spoof import demo_spoof_corpus

        corpus = load_corpus(self.data, demo_spoof_corpus)
        column = self._label_column(corpus)
        needed = needed_splits(self.restored or not self.config.train)
        data = measured(corpus, self.data, seed=self.seed, rate=RATE, needed=needed, by=parted_by(corpus))
        self.notes += [*data.notes, *shared_speakers(data)]
        parts = {
            split: [
                Item(utterance, samples, {"target": self._target(utterance, column)}, self.inputs(utterance))
                for utterance, samples in part
            ]
            for split, part in data.splits.items()
            if self.config.train or split != "train"
        }
        for split, items in parts.items():
            if split in needed:
                self._check_classes(split, items)
        tandem = {split: self._tandem(split, parts[split]) for split in ("dev", "test") if parts.get(split)}
        digests = [measure.to_json() for measures in tandem.values() for measure in measures]
        labels = sorted((item.id, item.labels["target"]) for items in parts.values() for item in items)
        file = self.config.system.weights if not self.restored else None
        start = [WeightFile.of(file).sha256] if file else []
        self.description = data.describe(self.data.path, RATE, [labels, digests, *start])
        self._specify(tandem, parts["test"])
        return parts

    def inputs(self, utterance: Utterance) -> dict[str, int]:
        """`window`: which piece of a long utterance is scored by a system of a fixed length, drawn by its file's name, in evaluation and prediction."""
        digest = hashlib.sha256(f"{self.seed} {utterance.path.stem}".encode()).digest()
        return {"window": int.from_bytes(digest[:4], "little")}

    def facts(self, item: Item) -> dict[str, Any]:
        """What is known of an utterance: its speaker, its attack, and the conditions that scores carry."""
        utterance, label = item.utterance, (SPOOF, BONAFIDE)[int(item.labels["target"])]
        named = {
            name: utterance.labels[name] for name in ("attack", *self.config.conditions) if name in utterance.labels
        }
        return known_facts({"speaker": utterance.speaker, **named}, label)

    def _specify(self, tandem: Mapping[str, tuple[MinTdcf, ...]], test: Sequence[Item]) -> None:
        facts = [self.facts(item) for item in test]
        said = {name: {known.get(name) for known in facts} - {SHARED, None} for name in KEYS}
        self.spec = Specification(
            level="utterance",
            labels="bona fide or spoof",
            measures=(*MEASURES, *tandem.get("test", ())),
            dev_measures=(*MEASURES, *tandem.get("dev", ())),
            classes=(SPOOF, BONAFIDE),
            breakdowns=tuple(Breakdown(name, SHARED) for name in KEYS if len(said[name]) > (name != "attack")),
        )

    def _label_column(self, corpus: Corpus) -> str:
        column = self.data.label_column or "label"
        known = sorted({name for utterance in corpus.utterances for name in utterance.labels})
        if column not in known:
            raise DataError(
                f"{self.data.path or corpus.name} has no column {column!r}, which says {BONAFIDE} or {SPOOF}.{nearest(column, known)} "
                f"Its columns are {', '.join(known) or 'none'}; choose with -o data.label_column=NAME, or give a key of ASVspoof and its audio"
            )
        return column

    def _target(self, utterance: Utterance, column: str) -> int:
        label = utterance.labels.get(column)
        if label not in (SPOOF, BONAFIDE):
            raise DataError(
                f"{self.data.path}: {utterance.id!r} ({utterance.path}) has the {column} {label!r}, which is neither {BONAFIDE} nor {SPOOF}"
            )
        return int(label == BONAFIDE)

    def _check_classes(self, split: str, items: Sequence[Item]) -> None:
        bonafide = sum(item.labels["target"] for item in items)
        if bonafide in (0, len(items)):
            raise DataError(
                f"{self.data.path or 'the demo'}: all {len(items)} utterances of {split} are {BONAFIDE if bonafide else SPOOF}; "
                "training and every measure need both"
            )

    def _tandem(self, split: str, items: Sequence[Item]) -> tuple[MinTdcf, ...]:
        """The t-DCF where ASV scores are given, or lie in the layout of 2019."""
        given = None if self.data.asv_scores is None or split != "test" else Path(self.data.asv_scores).expanduser()
        folder = Path(self.data.path).expanduser() if self.data.path is not None else None
        found = find_asv_scores(folder) if folder is not None and folder.is_dir() else {}
        file = given or found.get(split)
        if file is None:
            return ()
        spoofs = {item.id: self.facts(item).get("attack") for item in items if not item.labels["target"]}
        attacks = {attack for attack in spoofs.values() if attack is not None}
        if None in spoofs.values():
            raise DataError(
                f"{file}: the ASV scores go by attacks, and not every spoof of {split} says its own (column attack)"
            )
        if given is None and self.data.limit is not None:
            self.notes.append(f"no t-DCF of {split}: with data.limit its attacks may not be those of {file.name}")
            return ()
        form = asv_form(file)
        check_asv_form(file, form, corpus_of(item.utterance.labels for item in items))
        if form == FORM_2019:
            asv = read_asv_2019(file)
        else:
            asv = read_asv_2021(file, _asv_key(file), SUBSET)
            check_asv_trials(asv, spoofs.keys(), f"the utterances of {split}")
        self.notes.append(f"the t-DCF of {split} is behind the ASV system of {file}")
        return tandem_measures(asv, attacks)

    def head(self, upstream: UpstreamSpec) -> nn.Module:
        narrow = len(upstream.layer_names) == 1 and upstream.out_dim <= self.system.input_dim
        straight = narrow and "input" not in self.system.model_fields_set
        settings = self.system.model_copy(update={"input": "none"}) if straight else self.system
        if self.restored:  # its weights are the run's
            settings = settings.model_copy(update={"weights": None})
        else:
            self._check_upstream(upstream)
        system = build(settings, upstream.out_dim)
        if not self.config.train:
            system.requires_grad_(False)
        # Loss and score are functions of the activation and of settings, so that of one system serves all of a grid.
        self.criterion = system.criterion
        return system

    def _check_upstream(self, upstream: UpstreamSpec) -> None:
        """What the file of weights was trained on, and what of it is not used."""
        if self.config.system.weights is None:
            return
        found = nii.read(self.config.system.weights)
        if found.unused:
            self.notes.append(f"{found.path}: not used are {some(sorted(found.unused), 5)}")
        if found.tuned and upstream.file_sha256 != WeightFile.of(found.path).sha256:
            raise UsageError(
                f"{found.path} holds an SSL model and the back-end that was trained on it; on {upstream.name} its scores mean nothing. Take both from the "
                f"one file, with its recipe: -u wav2vec2 -k {found.path} -v ssl-llgf (or ssl-lgf, ssl-gf) -o task.system.weights={found.path}"
            )
        if found.tuned:
            self.notes.append(
                f"{found.path}: this back-end was trained on the last hidden state (-s last_hidden_state)"
            )
        if found.upstream is not None and upstreams[found.upstream["name"]].name != upstream.name:
            raise UsageError(
                f"{found.path} was trained on the front-end {found.upstream['name']}, and this is {upstream.name}: take -u {found.upstream['name']}"
            )

    def loss(self, output: tuple[Tensor, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        losses = self.criterion.loss(output[1].float(), batch.labels["target"])
        return losses.sum(), torch.tensor(len(losses), device=losses.device)

    def score(self, split: str) -> SpoofAccumulator:
        return SpoofAccumulator(self, split)

    def predict(self, output: tuple[Tensor, Tensor], batch: Batch) -> list[dict[str, Any]]:
        scores = self.criterion.score(output[1]).double().tolist()
        return [{"id": item.id, "score": finite(score, item)} for item, score in zip(batch.items, scores, strict=True)]

    def state(self) -> dict[str, Any]:
        return {"system": {**self.system.model_dump(include=self.system.model_fields_set), "weights": None}}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.restored, self.system = True, SystemConfig.model_validate(state["system"])
        self.spec = Specification("utterance", "bona fide or spoof", MEASURES, classes=(SPOOF, BONAFIDE))


def _asv_key(scores: Path) -> Path:
    """The key of ASV trials that lies near the scores, as in the packages of 2021."""
    places = [folder / ASV_KEY for folder in (scores.parent, scores.parent.parent)]
    found = next((file for file in places if file.is_file()), None)
    if found is None:
        raise DataError(
            f"{scores}: ASV scores of 2021 need the key of their trials, {ASV_KEY}, beside them or a folder above"
        )
    return found
