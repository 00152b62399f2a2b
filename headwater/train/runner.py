"""One evaluation from settings to result: plan, training, test, report."""

from __future__ import annotations

import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import headwater
from headwater.config import RunConfig
from headwater.identity import anchored, fingerprint
from headwater.metrics import Metric
from headwater.metrics.breakdown import Groups, break_down
from headwater.metrics.rows import Row, Table
from headwater.probes.fit import fit_probe
from headwater.progress import bar
from headwater.registry import downstreams
from headwater.results.audio import write_clips
from headwater.results.bundle import copy_plugins, save_model
from headwater.results.files import write_bytes, write_json, write_rows
from headwater.results.run import RunFolder
from headwater.store import Workers
from headwater.store.quality import relative_error
from headwater.train.grid import SideBySide, race, untrained
from headwater.train.kept import error_note, sample, section
from headwater.train.loop import fit
from headwater.train.outcome import Outcome
from headwater.train.parts import Prepared, Say, identity_of, initialise, prepare
from headwater.train.probing import Probing, audio_seconds, draws_of
from headwater.train.task import Accumulator


def default_name(config: RunConfig, identity: dict[str, Any]) -> str:
    """UPSTREAM-TASK-HASH8 of what changes numbers, in letters that any file system takes."""
    upstream = re.sub(r"[^\w.+-]+", "-", identity["upstream.name"])
    return f"{upstream}-{downstreams[config.downstream].name}-{fingerprint(identity)[:8]}"


def extract(parts: Prepared) -> float:
    """One pass of the frozen upstream over all utterances, where features are kept. Returns seconds."""
    started = time.monotonic()
    if not parts.config.upstream.trainable:
        kept, world, rate = parts.feed.store, parts.world, parts.task.spec.sample_rate
        # An accelerator wants batches of equal lengths; on CPU each utterance is computed alone in any case.
        items = sorted(parts.utterances(), key=lambda item: item.num_samples)
        bank, content = parts.keys()
        with bar(total=len(items), what="features", unit="utterance", shown=world.first) as counter:
            kept.fill(
                items,
                counter.update,
                size=1 if parts.device.type == "cpu" else parts.config.batch.size,
                bank=bank,
                content=content,
                seconds=lambda item: item.num_samples / rate,
                workers=Workers(world.rank, world.ranks, world.barrier),
            )
        kept.filled.error = relative_error(kept, sample(items))
        parts.notes += [note] if (note := error_note(parts)) is not None else []
    return time.monotonic() - started


def train(parts: Prepared, folder: RunFolder) -> Outcome:
    """Fit the probe, or return at once where it has nothing to train."""
    # Layer weights alone are nothing to train: without a head's parameters there is no loss.
    learners = [module for module in (parts.probe.head, parts.probe.upstream) if module is not None]
    trains = any(parameter.requires_grad for module in learners for parameter in module.parameters())
    if parts.config.grid.many:
        return race(parts, folder.path) if trains else untrained(parts)
    if not trains:
        return Outcome()
    work = Probing(parts.probe, parts.task, parts.feed, parts.items, parts.config, parts.world)
    return Outcome.of(fit(work, parts.config, folder.path, world=parts.world, device=parts.device))


def run(
    config: RunConfig,
    *,
    folder: Path | None,
    device: str | None,
    fresh: bool,
    dry_run: bool,
    bundle: bool,
    init_ckpt: Path | None,
    say: Say,
) -> tuple[dict[str, Any] | None, Path]:
    """Train and test. The same settings resume a run that was stopped, and give the result of one that is finished.

    Returns the result (None after a dry run, and on other ranks than the first) and the run folder.
    Raises UsageError, DataError, HeadwaterError; see `headwater.errors`.
    """
    started = time.monotonic()
    parts = prepare(config, device=device, say=say)
    if init_ckpt is not None:
        initialise(parts.probe, init_ckpt)
    identity = identity_of(parts, initialised=init_ckpt is not None)
    place = RunFolder(folder or Path("result") / "downstream" / default_name(config, identity))
    if parts.world.first:
        place.check(identity, fresh=fresh)
    # The first rank decides: the others may look at the folder a moment later.
    if parts.world.gather(place.begun and place.finished and not fresh)[0]:
        parts.world.close()
        say(f"finished   {place.path} holds this run already; --fresh starts it over")
        if parts.world.first and not (place.path / "report.html").is_file():
            illustrate(place)
        return place.result(), place.path
    if dry_run:
        rehearse(parts)
        say(f"dry run    all parts fit together; nothing was trained or written (the run would go to {place.path})")
        return None, place.path
    seconds = {"extract_s": extract(parts)}
    try:
        if parts.world.first:
            place.begin(anchored(config, task=parts.task.Config), identity, fresh=fresh)
        parts.world.barrier()
        outcome = fit_probe(parts) if config.probe != "head" else train(parts, place)
        seconds["train_s"] = outcome.seconds
        before = time.monotonic()
        splits = [name for name in parts.items if name != "train"]
        scores = outcome.score(parts, splits)
        if not parts.world.first:
            return None, place.path
        metrics = {split: part.result() for split, part in scores.items()}
        seconds["evaluate_s"] = time.monotonic() - before
        groups = grouped(parts, scores)
        result = describe(parts, outcome, metrics, groups, {**seconds, "total_s": time.monotonic() - started})
        for name, rows in outcome.files().items():
            write_rows(place.path / "scores" / name, rows)
        write_run(parts, place, scores, result, bundle=bundle)
        return result, place.path
    finally:
        place.release()
        parts.world.close()


def rehearse(parts: Prepared) -> None:
    """One batch forwards and backwards, so that a dry run finds what would fail later."""
    split = "train" if "train" in parts.items else next(iter(parts.items))
    with torch.random.fork_rng(devices=[parts.device] if parts.device.type == "cuda" else []):
        items = parts.items[split][: min(4, parts.config.batch.size)]
        draws = [draws_of(parts.config, range(len(items)))] if split == "train" else None
        for ready in parts.feed([items], draws):
            if parts.config.grid.many and split == "train":
                work = SideBySide(parts)
                work.loss(work.module, ready)[0].sum().backward()
                continue
            output, _ = parts.probe(ready.states, ready.lengths, ready.batch.inputs, ready.x)
            if split == "train":
                total, count = parts.task.loss(output, ready.batch)
                if total.requires_grad:
                    (total / count).backward()


def grouped(parts: Prepared, scores: Mapping[str, Accumulator]) -> dict[str, dict[str, Groups]]:
    """The tests, parted as the task declares: by split and the name of the breakdown."""
    spec = parts.task.spec
    tests = {split: Table(part.rows()) for split, part in scores.items() if split != "dev" and spec.breakdowns}
    return {
        split: {one.name: break_down(one, spec.measures_of(split), table) for one in spec.breakdowns}
        for split, table in tests.items()
    }


def describe(
    parts: Prepared,
    outcome: Outcome,
    metrics: dict[str, dict[str, Metric]],
    groups: dict[str, dict[str, Groups]],
    timing: dict[str, float],
) -> dict[str, Any]:
    """`result.json`, schema 1; docs/results.md explains every key."""
    config, featurizer = parts.config, parts.probe.featurizer
    settings = config.upstream
    selection = (
        f"layer {settings.layer}"
        if settings.layer is not None
        else settings.selection
        if settings.selection != "hidden_states"
        else "weighted_sum"
    )
    if config.probe != "head":
        selection = f"{'mean of layers' if selection == 'weighted_sum' else selection}, {config.probe}"
    card = downstreams[config.downstream]
    said = outcome.said(metrics)
    by_split = {split: {key: _json(one.metrics) for key, one in keys.items()} for split, keys in groups.items()}
    parted = {"breakdown": by_split} if groups else {}
    return {
        "schema": 1,
        "status": "done",
        # what was asked
        "upstream": {
            "name": parts.upstream.card.name,
            "weights_sha256": parts.weights_sha256,
            "weights_file": parts.upstream.weight_file,
            "selection": selection,
            "fine_tuned": settings.trainable,
            "layer_names": list(featurizer.layer_names),
            "layer_weights": featurizer.layer_weights(),
            "settings": settings.config,
        },
        "downstream": {"name": card.name, "metric": parts.task.spec.measures[0].name, "level": parts.task.spec.level},
        "probe": said.pop("probe"),
        "data": parts.task.description,
        "features": section(parts),
        # what came out
        "metrics": _json(metrics),
        **parted,
        **said,
        "best_step": outcome.best_step,
        "steps": outcome.step,
        "audio_s": round(audio_seconds(parts.items.get("train", []), parts.task, config, outcome.step), 1),
        "history": outcome.history,
        # how it came about
        "seed": config.seed,
        "parameters": sum(parameter.numel() for parameter in parts.probe.parameters() if parameter.requires_grad),
        "config_sha256": fingerprint(config.model_dump(mode="json")),
        "timing": {name: round(value, 3) for name, value in timing.items()},
        "versions": versions(parts.device),
        "notes": [
            *parts.notes,
            *outcome.notes(),
            *(
                f"{split} by {key}: {note}"
                for split, keys in groups.items()
                for key, parted in keys.items()
                for note in parted.notes
            ),
            *conclusions(parts, metrics),
        ],
    }


def _json(metrics: Mapping[str, Mapping[str, Metric]]) -> dict[str, Any]:
    return {name: {measure: metric.to_json() for measure, metric in group.items()} for name, group in metrics.items()}


def conclusions(parts: Prepared, metrics: dict[str, dict[str, Metric]]) -> list[str]:
    """What a reader must know about a number: intervals that include chance, with the likely cause."""
    notes = []
    for split, group in metrics.items():
        metric = next(iter(group.values()))
        if split != "dev" and metric.includes_chance:
            known = parts.upstream.card.warning
            cause = (
                f"Likely cause: {known}"
                if known
                else "Likely causes: too few utterances or steps, or a representation without the answer."
            )
            notes.append(
                f"The {split} result is not distinguishable from chance ({metric.chance:.2f} {metric.unit}). {cause}"
            )
    return notes


def versions(device: torch.device) -> dict[str, str]:
    """What a number may depend on besides its settings."""
    packages = ("numpy", "pydantic", "soundfile", "soxr", "safetensors", "transformers")
    accelerator = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    return {
        "headwater": headwater.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: metadata.version(name) for name in packages},
        "platform": sys.platform,
        "device": accelerator,
    }


def write_run(
    parts: Prepared, place: RunFolder, scores: dict[str, Accumulator], result: dict[str, Any], *, bundle: bool
) -> None:
    """Scores, model, pictures; then `result.json`, which makes a run finished; then what is drawn from it."""
    for split, part in scores.items():
        write_rows(place.path / "scores" / f"{split}.jsonl", part.rows())
        for name, picture in part.pictures().items() if split != "dev" else ():
            write_bytes(place.path / "plots" / f"{name}_{split}.png", picture)
        if split != "dev":
            write_clips(place.path, split, part.audio())
    plugins = copy_plugins(place.path, [parts.upstream.card, downstreams[parts.config.downstream]])
    save_model(
        place.path, parts.probe, parts.upstream, parts.task.state(), parts.weights_sha256, plugins, bundle=bundle
    )
    write_json(place.path / "result.json", result)
    illustrate(place, {split: part.rows() for split, part in scores.items()})


def illustrate(place: RunFolder, rows: Mapping[str, Sequence[Row]] | None = None) -> None:
    """Plots and `report.html`, from what the folder holds; `rows` of scores need not be read from it again."""
    from headwater.results.report import draw, render

    kept = {file.name for file in (place.path / "plots").glob("*")}
    for name, picture in draw(place.path, without=kept, rows=rows).items():
        write_bytes(place.path / "plots" / name, picture)
    write_bytes(place.path / "report.html", render(place.path).encode())
