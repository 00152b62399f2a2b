"""One pretraining from settings to an upstream: data, objective, training, the weight file, and what is to be seen of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import headwater
from headwater.config import DataConfig, PretrainConfig
from headwater.data.corpus import Corpus, Utterance
from headwater.data.demo import demo_corpus
from headwater.data.features import common_features, count_frames
from headwater.data.measure import audio_sha256, measure
from headwater.errors import DataError, UsageError
from headwater.identity import anchored, fingerprint, numbers
from headwater.metrics import evaluate
from headwater.registry import objectives
from headwater.results.bundle import source_sha256
from headwater.results.files import write_bytes, write_json, write_rows
from headwater.results.run import RunFolder
from headwater.settings import flatten, validate
from headwater.store.features import enough_memory
from headwater.train.corpora import load_corpus, read_utterance, spread
from headwater.train.distributed import World, local_device
from headwater.train.loop import Standing, fit
from headwater.train.objective import Objective
from headwater.train.parts import Say
from headwater.train.pretraining import LOSS, Piece, Pretraining, Source, hold_out
from headwater.train.runner import versions
from headwater.train.work import Portion
from headwater.weights import state_sha256


@dataclass
class Speech:
    """What there is to train and to validate on, and what a result says of it."""

    train: list[Piece]
    dev: list[Piece]
    description: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def read_any(data: DataConfig) -> Corpus:
    """The corpus that the settings name. A folder without a known layout is taken as any audio files: no speaker is needed here.

    Raises DataError as `load_corpus`.
    """
    try:
        return load_corpus(data, demo_corpus)
    except DataError as error:
        if data.path is None or data.reader != "auto" or not Path(data.path).is_dir():
            raise
        try:
            return load_corpus(data.model_copy(update={"reader": "files"}), demo_corpus)
        except DataError:
            raise error from None


def crop_of(config: PretrainConfig, objective: Objective) -> int | None:
    """Size of the longest piece that is trained on, as `Piece.size` counts; None for whole utterances."""
    crop = objective.crop if config.crop_seconds is None else round(config.crop_seconds * objective.sample_rate)
    if crop is not None and objective.features is not None:
        crop //= objective.features.stride
    return None if crop is None else max(1, crop)


def read_speech(config: PretrainConfig, corpus: Corpus, objective: Objective, crop: int | None) -> Speech:
    """What of a corpus the objective can be trained on, measured, and some speakers held out unless the data states a dev split.

    Raises DataError where nothing is left.
    """
    data, features, rate = config.data, objective.features, objective.sample_rate
    good, samples, skipped = measure(
        corpus.utterances, sample_rate=rate, resample=data.resample, channel=data.channel, skip_bad=data.skip_bad_audio
    )
    samples_of = {utterance.id: int(size) for utterance, size in zip(good, samples, strict=True)}
    seconds = {name: size / rate for name, size in samples_of.items()}
    notes = list(corpus.notes)
    if skipped:
        notes.append(f"{len(skipped)} broken file(s) skipped: {', '.join(str(path) for _, path, _ in skipped[:5])}")
    kept, more = _wanted(config, corpus, good, seconds)
    notes += more
    size_of = {
        utterance.id: samples_of[utterance.id] if features is None else count_frames(utterance.path, features)
        for utterance in kept
    }
    frames: Callable[[int], int] = objective.frames if features is None else int
    usable = [
        utterance
        for utterance in kept
        if not objective.too_short(frames(min(size_of[utterance.id], crop or size_of[utterance.id])))
    ]
    if len(usable) < len(kept):
        notes.append(f"{len(kept) - len(usable)} utterance(s) too short to learn from skipped")
    if {"train", "dev"} <= set(corpus.splits()):
        held = {utterance.id for utterance in usable if utterance.split == "dev"}
    else:
        held = hold_out(usable, [seconds[utterance.id] for utterance in usable], config.dev_share, config.seed)
    parts = {
        name: [
            Piece(utterance, size_of[utterance.id]) for utterance in usable if (utterance.id in held) == (name == "dev")
        ]
        for name in ("train", "dev")
    }
    if not parts["train"]:
        reason = (
            "every utterance is too short to learn from" if kept and not usable else "no utterance is left to train on"
        )
        raise DataError(f"{data.path or corpus.name}: {reason} ({'; '.join(notes)})")
    if not parts["dev"]:
        notes.append(
            "nothing is held out (no dev utterance is left, or no speaker has a small share of the audio): the last weights are kept"
        )
    description = {
        "name": corpus.name,
        "reader": corpus.reader,
        "path": data.path,
        "sha256": fingerprint(corpus.sha256(), audio_sha256(good), sorted(size_of.items())),
        "splits": {
            name: {
                "utterances": len(part),
                "seconds": round(sum(seconds[piece.utterance.id] for piece in part), 2),
                "speakers": len({piece.utterance.speaker for piece in part} - {None}) or None,
            }
            for name, part in parts.items()
        },
        "skipped": [{"id": name, "path": str(path), "reason": reason} for name, path, reason in skipped],
    }
    return Speech(parts["train"], parts["dev"], description, notes)


def _wanted(
    config: PretrainConfig, corpus: Corpus, utterances: Sequence[Utterance], seconds: Mapping[str, float]
) -> tuple[list[Utterance], list[str]]:
    """The utterances that the settings ask for, and notes on the others. A corpus with splits of its own keeps its tests out of pretraining."""
    notes = []
    long = [utterance for utterance in utterances if seconds[utterance.id] >= config.min_seconds]
    if short := len(utterances) - len(long):
        notes.append(f"{short} utterance(s) shorter than min_seconds ({config.min_seconds:g}) left out")
    # A test split alone is a corpus that somebody chose to train on.
    others = set(corpus.splits()) - {"test"}
    kept = [utterance for utterance in long if utterance.split != "test" or not others]
    if tests := len(long) - len(kept):
        notes.append(f"{tests} utterance(s) of test splits left out")
    if config.data.limit is not None:
        kept = spread(kept, config.data.limit)
        notes.append(f"limited to {config.data.limit} utterances: for trying out")
    return kept, notes


@dataclass
class Prepared:
    """All parts of a pretraining, put together but not yet run."""

    config: PretrainConfig
    objective: Objective
    work: Pretraining
    speech: Speech
    device: torch.device
    world: World


def prepare(config: PretrainConfig, *, device: str | None, say: Say) -> Prepared:
    """Read the data and build the model. Nothing is written."""
    where = local_device(device)
    world = World(where)
    say = say if world.first else lambda line: None
    card = objectives[config.objective]
    expert = card.load()
    if not (isinstance(expert, type) and issubclass(expert, Objective)):
        raise UsageError(f"objective {card.name!r}: {card.expert} is no headwater Objective")
    settings = validate(expert.Config, config.model, "model")
    say(f"objective  {card.name}: {card.summary}")
    corpus = read_any(config.data)
    features = common_features(utterance.path for utterance in corpus.utterances)
    with torch.random.fork_rng(devices=[]), enough_memory("the model is too large; choose a smaller one"):
        torch.manual_seed(config.seed)
        objective = expert(settings, features)
    config.model = settings.model_dump(mode="json")
    crop = crop_of(config, objective)
    speech = read_speech(config, corpus, objective, crop)
    objective.check({piece.utterance.id: piece.size for part in (speech.train, speech.dev) for piece in part})
    rate = float(objective.sample_rate) if features is None else features.sample_rate / features.stride
    if features is not None:
        speech.notes.append(
            f"precomputed features ({features.kind}, {features.dim} dims) are what is learnt from: no front-end of the settings has a part in it"
        )
    for note in speech.notes:
        say(f"data       {note}")
    for name, part in speech.description["splits"].items():
        people = f", {part['speakers']} speakers" if part["speakers"] else ""
        say(f"{name:<10} {part['utterances']} utterances, {part['seconds'] / 60:.1f} min{people}")
    count = sum(parameter.numel() for parameter in objective.parameters())
    say(
        f"model      {count / 1e6:.2f} M parameters; crops of {'whole utterances' if crop is None else f'{crop / rate:g} s'}"
    )

    def read_piece(piece: Piece) -> Tensor:
        return read_utterance(piece.utterance, config.data, objective.sample_rate)

    source = Source(read_piece, objective.level, config.store.memory_gib * 2**30)
    work = Pretraining(
        objective.to(where), source, speech.train, speech.dev, config, crop=crop, rate=rate, world=world, device=where
    )
    return Prepared(config, objective, work, speech, where, world)


def identity_of(parts: Prepared) -> dict[str, Any]:
    """What a pretraining is: the version, the source of a plugin, the settings that change numbers, the content of its data."""
    card = objectives[parts.config.objective]
    return {
        "headwater": headwater.__version__,
        **({"plugins": [source_sha256(card.folder)]} if card.plugin is not None else {}),
        **numbers(parts.config, model=parts.objective.Config),
        "objective": card.name,
        "data.sha256": parts.speech.description["sha256"],
        "ranks": parts.world.ranks,
        "init_sha256": state_sha256(parts.objective),
        **flatten(parts.objective.origins()),
    }


def pretrain(
    config: PretrainConfig, *, folder: Path, device: str | None, fresh: bool, dry_run: bool, say: Say
) -> dict[str, Any] | None:
    """Train, or go on where the same command was stopped. Returns the result; None after a dry run and on other ranks than the first.

    Raises UsageError, DataError, HeadwaterError; see `headwater.errors`.
    """
    started = time.monotonic()
    parts = prepare(config, device=device, say=say)
    identity = identity_of(parts)
    place = RunFolder(folder, PretrainConfig)
    world = parts.world
    if world.first:
        place.check(identity, fresh=fresh)
    if world.gather(place.begun and place.finished and not fresh)[0]:
        world.close()
        if not world.first:
            return None
        say(f"finished   {place.path} holds this run already; --fresh starts it over")
        return place.result()
    if dry_run:
        rehearse(parts.work)
        world.close()
        say(f"dry run    all parts fit together; nothing was trained or written (the run would go to {place.path})")
        return None
    try:
        if world.first:
            place.begin(anchored(config, model=parts.objective.Config), identity, fresh=fresh)
        world.barrier()
        standing = fit(parts.work, config, place.path, world=world, device=parts.device)
        rows = parts.work.losses() if parts.work.dev else []
        if not world.first:
            return None
        result = describe(parts, standing, rows, time.monotonic() - started)
        write_run(parts, place, rows, result)
        return result
    finally:
        place.release()
        world.close()


def rehearse(work: Pretraining) -> None:
    """One small batch forwards and backwards, so that a dry run finds what would fail later."""
    few = np.arange(min(4, work.config.batch.size, len(work.durations)))
    with torch.random.fork_rng(devices=[work.device] if work.device.type == "cuda" else []):
        for ready in work.ready([Portion(0, 0, few, 0, 1)]):
            total, count = work.loss(work.module, ready)
            (total / count).backward()


def describe(parts: Prepared, standing: Standing, rows: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """`result.json`, schema 1; docs/pretrain.md explains its keys."""
    config = parts.config
    metrics = (
        {"dev": {name: metric.to_json() for name, metric in evaluate((LOSS,), rows, seed=0).items()}} if rows else {}
    )
    return {
        "schema": 1,
        "status": "done",
        "objective": {
            "name": objectives[config.objective].name,
            "upstream": parts.objective.upstream,
            **parts.objective.origins(),
        },
        "weights_sha256": state_sha256(parts.objective),
        "data": parts.speech.description,
        "metrics": metrics,
        "best_step": standing.best_step,
        "steps": standing.step,
        "history": standing.history,
        "seed": config.seed,
        "parameters": sum(parameter.numel() for parameter in parts.objective.parameters()),
        "config_sha256": fingerprint(config.model_dump(mode="json")),
        "timing": {"train_s": round(standing.seconds, 3), "total_s": round(seconds, 3)},
        "versions": versions(parts.device),
        "notes": parts.speech.notes,
    }


def write_run(parts: Prepared, place: RunFolder, rows: list[dict[str, Any]], result: dict[str, Any]) -> None:
    """Scores, weights, pictures; then `result.json`, which makes a run finished."""
    from headwater.results.plots import learning_curve

    if rows:
        write_rows(place.path / "scores" / "dev.jsonl", rows)
    data = result["data"]
    facts = {
        "trained_on": {key: data[key] for key in ("name", "sha256", "splits")},
        "steps": result["best_step"],
        "seed": result["seed"],
        "version": headwater.__version__,
        **parts.objective.origins(),
    }
    parts.objective.export(place.path / "model.safetensors", facts)
    losses = [(row["step"], row["loss"]) for row in result["history"] if "loss" in row]
    dev = [(row["step"], row["dev"][LOSS.name]) for row in result["history"] if "dev" in row]
    curve = learning_curve(losses, dev, metric=LOSS.name, best_step=result["best_step"])
    write_bytes(place.path / "plots" / "learning_curve.svg", curve)
    if (picture := parts.work.picture()) is not None:
        write_bytes(place.path / "plots" / "reconstruction.png", picture)
    write_json(place.path / "result.json", result)
