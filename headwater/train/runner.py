"""One evaluation from settings to result: data, plan, training, test, report."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import headwater
from headwater.audio import read
from headwater.config import RunConfig, fingerprint, numbers, validate
from headwater.errors import HeadwaterError, UsageError
from headwater.loading import load_upstream
from headwater.metrics import Metric
from headwater.nn.featurizer import Featurizer
from headwater.nn.upstream import Upstream
from headwater.progress import bar
from headwater.registry import downstreams, upstreams
from headwater.results.bundle import copy_plugins, save_model
from headwater.results.files import write_bytes, write_json, write_rows
from headwater.results.run import RunFolder
from headwater.store.features import plan
from headwater.train.checkpoint import Checkpoint
from headwater.train.distributed import World, local_device
from headwater.train.feed import Feed
from headwater.train.loop import Standing, Trainer, evaluate
from headwater.train.probe import Probe, freeze
from headwater.train.task import Accumulator, Item, Task

Say = Callable[[str], None]


@dataclass
class Prepared:
    """All parts of an evaluation, put together but not yet run."""

    config: RunConfig
    task: Task
    upstream: Upstream
    probe: Probe
    feed: Feed
    items: dict[str, list[Item]]
    device: torch.device
    world: World
    weights_sha256: str | None
    notes: list[str] = field(default_factory=list)


def build_task(config: RunConfig) -> Task:
    """The task that `config.downstream` names, with its checked settings."""
    card = downstreams[config.downstream]
    expert = card.load()
    if not (isinstance(expert, type) and issubclass(expert, Task)):
        raise UsageError(f"downstream {config.downstream!r}: {card.expert} is no headwater Task")
    return expert(validate(expert.Config, config.task, "task"), config.data, config.seed)


def default_name(config: RunConfig, identity: dict[str, Any]) -> str:
    """UPSTREAM-TASK-HASH8 of what changes numbers."""
    return f"{upstreams[config.upstream.name].name}-{downstreams[config.downstream].name}-{fingerprint(identity)[:8]}"


def build_probe(config: RunConfig, task: Task, upstream: Upstream, device: torch.device) -> Probe:
    """Featurizer and head with weights drawn from the seed, on the upstream (a part of it when fine-tuned)."""
    settings = config.upstream
    featurizer = Featurizer(upstream.spec, settings.selection, settings.layer, settings.normalize)
    spec = upstream.spec
    if featurizer.out_dim != spec.out_dim:
        spec = type(spec)(**{**vars(spec), "out_dim": featurizer.out_dim})
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        head = task.head(spec)
    upstream.requires_grad_(settings.trainable)
    if settings.trainable:
        freeze(upstream, settings.freeze)
    probe = Probe(featurizer, head, upstream if settings.trainable else None, config.specaug)
    return probe.to(device)


def item_reader(config: RunConfig, task: Task, upstream: Upstream) -> Callable[[Item], Tensor]:
    """Item -> waveform (samples,) at the upstream's rate."""
    data, rate = config.data, task.spec.sample_rate

    def read_item(item: Item) -> Tensor:
        utterance = item.utterance
        wav = read(
            utterance.path,
            start=utterance.start,
            end=utterance.end,
            sample_rate=rate,
            resample=data.resample,
            channel=data.channel,
        )  # type: ignore[arg-type]
        if rate != upstream.sample_rate:
            import soxr

            wav = torch.from_numpy(soxr.resample(wav.numpy(), rate, upstream.sample_rate, quality="VHQ"))
        return wav

    return read_item


def prepare(
    config: RunConfig,
    *,
    device: str | None,
    say: Say,
    items: dict[str, list[Item]] | None = None,
    task: Task | None = None,
) -> Prepared:
    """Read the data, load the upstream, and plan. Nothing is written. `items` and `task`: given where they are known already (prediction)."""
    where = local_device(device)
    world = World(where)
    say = say if world.first else lambda line: None
    upstream = load_upstream(
        config.upstream.name, ckpt=config.upstream.ckpt, config=config.upstream.config, device=str(where)
    )
    from headwater.weights import state_sha256

    weights = state_sha256(upstream)
    card = upstream.card
    say(
        f"upstream   {card.name}: {upstream.out_dim} dims every {1000 * upstream.stride / upstream.sample_rate:g} ms, {upstream.num_layers} hidden state(s)"
    )
    if task is None:
        task = build_task(config)
        say(f"task       {config.downstream}: {downstreams[config.downstream].summary}")
    if items is None:
        items = task.corpora()
        for note in task.notes:
            say(f"data       {note}")
        rate = task.spec.sample_rate
        sizes = ", ".join(
            f"{name} {len(part)} ({sum(item.num_samples for item in part) / rate / 60:.1f} min)"
            for name, part in items.items()
        )
        say(f"data       utterances: {sizes}")
    probe = build_probe(config, task, upstream, where)
    if probe.featurizer.left_out:
        say(f"layers     left out, as they are of another width: {', '.join(probe.featurizer.left_out)}")
    scale = task.spec.sample_rate / upstream.sample_rate
    keep, pooled = False, pools(config, task)
    if not config.upstream.trainable:
        unique = {item.id: item for part in items.values() for item in part}
        cost = plan(
            upstream,
            probe.featurizer.layers,
            [max(1, round(item.num_samples / scale)) for item in unique.values()],
            config.store.memory_gib * 2**30,
            pooled,
        )
        say(f"features   {cost.sentence()}")
        keep = cost.kept
    notes = (
        [f"audio is resampled from {task.spec.sample_rate} to {upstream.sample_rate} Hz for the upstream"]
        if scale != 1
        else []
    )
    for note in notes:
        say(f"audio      {note}")
    reader = item_reader(config, task, upstream)
    if pooled and items:
        prove_pooling(probe, upstream, reader, next(part for part in items.values() if part)[:2])
    feed = Feed(
        upstream,
        probe.featurizer,
        reader,
        device=where,
        trainable=config.upstream.trainable,
        keep=keep,
        pooled=pooled,
        scale=scale,
    )
    return Prepared(config, task, upstream, probe, feed, items, where, world, weights, [*task.notes, *notes])


def pools(config: RunConfig, task: Task) -> bool:
    """Whether means over time may stand for the frames: a frozen upstream, a head that declares it, and nothing between them that is not affine."""
    return (
        task.pooling == "mean"
        and not config.upstream.trainable
        and not config.upstream.normalize
        and config.specaug is None
    )


@torch.no_grad()
def prove_pooling(probe: Probe, upstream: Upstream, reader: Callable[[Item], Tensor], items: Sequence[Item]) -> None:
    """The head gives the same on the means as on the frames of some utterances, or the task's `pooling` is wrong."""
    device = next((p.device for p in probe.parameters()), torch.device("cpu"))
    for item in items:
        features = upstream.extract([reader(item).to(device)])
        states = tuple(features.hidden_states[layer] for layer in probe.featurizer.layers)
        whole, _ = probe(states, features.lengths, {})
        means, _ = probe(tuple(state.mean(1, keepdim=True) for state in states), torch.ones_like(features.lengths), {})
        for a, b in zip(*(out if isinstance(out, tuple) else (out,) for out in (whole, means)), strict=True):
            if a is not None and not torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max().clamp(min=1))):
                raise HeadwaterError(
                    'this task declares pooling = "mean", yet its head gives something else on the mean than on the frames; remove the declaration'
                )


def identity_of(parts: Prepared) -> dict[str, Any]:
    """What a run is: the settings that change numbers, the data's content, the weights."""
    return {
        **numbers(parts.config),
        "upstream.name": parts.upstream.card.name,
        "downstream": downstreams[parts.config.downstream].name,
        "data.sha256": parts.task.description.get("sha256"),
        "upstream.weights_sha256": parts.weights_sha256,
        "ranks": parts.world.ranks,
    }


def extract(parts: Prepared) -> float:
    """One pass of the frozen upstream over all utterances, where features are kept. Returns seconds."""
    started = time.monotonic()
    if parts.feed.store.keep:
        unique = list({item.id: item for split in parts.items.values() for item in split}.values())
        with bar(total=len(unique), what="features", unit="utterance", shown=parts.world.first) as counter:
            parts.feed.store.fill(unique, counter.update)
    return time.monotonic() - started


def train(parts: Prepared, folder: RunFolder) -> Standing:
    """Fit the probe, or return at once where it has nothing to train."""
    checkpoint = Checkpoint(folder.path / "checkpoint")
    # Layer weights alone are nothing to train: without a head's parameters there is no loss.
    learners = [module for module in (parts.probe.head, parts.probe.upstream) if module is not None]
    if not any(parameter.requires_grad for module in learners for parameter in module.parameters()):
        return Standing()
    events = None
    if parts.world.first:
        from tensorboardX import SummaryWriter

        events = SummaryWriter(str(folder.path))
    with torch.random.fork_rng():
        torch.manual_seed(parts.config.seed + 1000003 * (1 + parts.world.rank))
        trainer = Trainer(
            parts.probe,
            parts.task,
            parts.feed,
            parts.items,
            parts.config,
            world=parts.world,
            device=parts.device,
            checkpoint=checkpoint,
            events=events,
        )
        try:
            return trainer.fit()
        finally:
            if events is not None:
                events.close()


def score(parts: Prepared, splits: Sequence[str]) -> dict[str, Accumulator]:
    return {
        split: evaluate(parts.probe, parts.task, parts.feed, parts.items[split], split, parts.config, parts.world)
        for split in splits
        if parts.items.get(split)
    }


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
) -> dict[str, Any]:
    """Train and test. The same settings resume a run that was stopped, and print the result of one that is finished.

    Raises UsageError, DataError, HeadwaterError; see `headwater.errors`.
    """
    started = time.monotonic()
    parts = prepare(config, device=device, say=say)
    identity = identity_of(parts)
    place = RunFolder(folder or Path("result") / "downstream" / default_name(config, identity))
    if parts.world.first:
        place.check(identity, fresh=fresh)
    if place.begun and place.finished and not fresh:
        say(f"finished   {place.path} holds this run already; --fresh starts it over")
        if not (place.path / "report.html").is_file():
            illustrate(place)
        return place.result()
    if init_ckpt is not None:
        initialise(parts.probe, init_ckpt)
    if dry_run:
        rehearse(parts)
        say(f"dry run    all parts fit together; nothing was trained or written (the run would go to {place.path})")
        return {}
    seconds = {"extract_s": extract(parts)}
    if parts.world.first:
        place.begin(config, identity, fresh=fresh)
    try:
        standing = train(parts, place)
        seconds["train_s"] = standing.seconds
        before = time.monotonic()
        scores = score(parts, [name for name in parts.items if name != "train"])
        if not parts.world.first:
            return {}
        metrics = {split: part.result(seed=config.seed) for split, part in scores.items()}
        seconds["evaluate_s"] = time.monotonic() - before
        result = describe(parts, standing, metrics, {**seconds, "total_s": time.monotonic() - started})
        write_run(parts, place, scores, result, bundle=bundle)
        return result
    finally:
        place.release()
        parts.world.close()


def initialise(probe: Probe, path: Path) -> None:
    """Start from the weights of another run (`-i`): its folder, or its model.safetensors."""
    from headwater.weights import read_safetensors

    state = read_safetensors(path / "model.safetensors" if path.is_dir() else path)
    own = probe.state_dict()
    wrong = [
        name
        for name in sorted({*own, *state})
        if name not in own or name not in state or own[name].shape != state[name].shape
    ]
    if wrong:
        raise UsageError(
            f"-i {path}: these weights do not fit this probe; {', '.join(wrong[:5])} differ(s) in name or shape"
        )
    probe.load_state_dict(state)


def rehearse(parts: Prepared) -> None:
    """One batch forwards and backwards, so that a dry run finds what would fail later."""
    split = "train" if "train" in parts.items else next(iter(parts.items))
    with torch.random.fork_rng():
        for ready in parts.feed([parts.items[split][: min(4, parts.config.batch.size)]]):
            output, _ = parts.probe(ready.states, ready.lengths, ready.batch.inputs, ready.x)
            if split == "train":
                total, count = parts.task.loss(output, ready.batch)
                if total.requires_grad:
                    (total / count).backward()


def describe(
    parts: Prepared, standing: Standing, metrics: dict[str, dict[str, Metric]], timing: dict[str, float]
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
    card = downstreams[config.downstream]
    return {
        "schema": 1,
        "status": "done",
        # what was asked
        "upstream": {
            "name": parts.upstream.card.name,
            "weights_sha256": parts.weights_sha256,
            "selection": selection,
            "fine_tuned": settings.trainable,
            "layer_names": list(featurizer.layer_names),
            "layer_weights": featurizer.layer_weights(),
            "settings": settings.config,
        },
        "downstream": {"name": card.name, "metric": parts.task.spec.measures[0].name, "level": parts.task.spec.level},
        "data": parts.task.description,
        # what came out
        "metrics": {
            split: {name: metric.to_json() for name, metric in group.items()} for split, group in metrics.items()
        },
        "best_step": standing.best_step,
        "steps": standing.step,
        "history": standing.history,
        # how it came about
        "seed": config.seed,
        "parameters": sum(parameter.numel() for parameter in parts.probe.parameters() if parameter.requires_grad),
        "config_sha256": fingerprint(config.model_dump(mode="json")),
        "timing": {name: round(value, 3) for name, value in timing.items()},
        "versions": versions(parts.device),
        "notes": [*parts.notes, *conclusions(parts, metrics)],
    }


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
        for name, picture in part.pictures().items():
            write_bytes(place.path / "plots" / f"{name}_{split}.png", picture)
    plugins = copy_plugins(place.path, [upstreams[parts.config.upstream.name], downstreams[parts.config.downstream]])
    save_model(
        place.path, parts.probe, parts.upstream, parts.task.state(), parts.weights_sha256, plugins, bundle=bundle
    )
    write_json(place.path / "result.json", result)
    illustrate(place)


def illustrate(place: RunFolder) -> None:
    """Plots and `report.html`, from what the folder holds."""
    from headwater.results.report import draw, render

    kept = {file.name for file in (place.path / "plots").glob("*")}
    for name, picture in draw(place.path, without=kept).items():
        write_bytes(place.path / "plots" / name, picture)
    write_bytes(place.path / "report.html", render(place.path).encode())


def reopen(
    path: Path, *, data: str | None, device: str | None, overrides: dict[str, Any], say: Say, with_data: bool
) -> Prepared:
    """A finished run from its folder alone, with its trained probe; `data` takes the place of its own corpus."""
    from headwater.config import merge
    from headwater.results.bundle import read_model, register_plugins
    from headwater.weights import read_safetensors

    place = RunFolder(path)
    if not place.finished:
        raise UsageError(f"{path} is no finished run: it has no result.json")
    model = read_model(place)
    register_plugins(path, model["plugins"])
    settings = merge(place.config().model_dump(), overrides, {"data": {"path": data}} if data is not None else {})
    config = validate(RunConfig, settings)
    task = build_task(config)
    task.restore(model["task"])
    items = task.corpora() if with_data else {}
    parts = prepare(config, device=device, say=say, items=items, task=task)
    if parts.weights_sha256 != model["upstream"]["weights_sha256"]:
        raise HeadwaterError(
            f"upstream {config.upstream.name!r} has other weights now than when {path} was made; name the file it was trained on with -k"
        )
    parts.probe.load_state_dict(read_safetensors(path / "model.safetensors"))
    parts.probe.eval()
    return parts
