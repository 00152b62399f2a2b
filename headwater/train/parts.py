"""The parts of an evaluation, put together: task, upstream, probe and the feed between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import headwater
from headwater.audio.io import resampled
from headwater.config import ExtractConfig, FeatureSet, RunConfig
from headwater.data.features import common_features, features_of_file, is_features
from headwater.errors import DataError, HeadwaterError, UsageError
from headwater.identity import numbers
from headwater.loading import load_upstream
from headwater.nn.featurizer import Featurizer
from headwater.nn.upstream import Upstream
from headwater.probes.heads import head_for
from headwater.registry import downstreams
from headwater.results.bundle import source_sha256
from headwater.settings import validate
from headwater.store import Bank
from headwater.train.corpora import Reader
from headwater.train.distributed import World, local_device
from headwater.train.feed import Feed, Listen, keeps_nothing, listens
from headwater.train.kept import GIB, bank_for, contents_of, open_store, plan_features
from headwater.train.probe import Probe, freeze
from headwater.train.task import Item, Task
from headwater.weights import read_safetensors, state_sha256

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

    def utterances(self) -> list[Item]:
        """Every item once, of all splits whose features can be kept."""
        if self.feed.passes:
            return []
        kept = [part for split, part in self.items.items() if split != "train" or not self.task.draws]
        return list({item.id: item for split in kept for item in split}.values())

    def keys(self) -> tuple[Bank | None, dict[str, bytes] | None]:
        """Under which keys the store holds the features of these items; None where it has no part in this run."""
        # Precomputed features that are passed on as they are lie in files already.
        passed_on = self.config.upstream.features is not None and (
            type(self.upstream).hidden_states is Upstream.hidden_states
        )
        if self.feed.store.store is None or passed_on or self.feed.passes:
            return None, None
        bank = bank_for(self.config, self.upstream, self.device.type, self.weights_sha256)
        return bank, self._contents if bank is not None else None

    @cached_property
    def _contents(self) -> dict[str, bytes]:
        # Unlike the bank, which bundled weights change, audio is looked at once a run: every look asks the file system about every file.
        rates = (self.task.spec.sample_rate, self.upstream.sample_rate)
        return contents_of(self.utterances(), self.config, rates, self.world.first)


def task_class(config: RunConfig) -> type[Task]:
    """The task that `config.downstream` names."""
    card = downstreams[config.downstream]
    expert = card.load()
    if not (isinstance(expert, type) and issubclass(expert, Task)):
        raise UsageError(f"downstream {config.downstream!r}: {card.expert} is no headwater Task")
    return expert


def build_task(config: RunConfig) -> Task:
    """That task, with its checked settings."""
    expert = task_class(config)
    return expert(validate(expert.Config, config.task, "task"), config.data, config.seed)


def build_probe(config: RunConfig, task: Task, upstream: Upstream, device: torch.device) -> Probe:
    """Featurizer and head with weights drawn from the seed, on the upstream (a part of it when fine-tuned)."""
    settings = config.upstream
    featurizer = Featurizer(upstream.spec, settings.selection, settings.layer, settings.normalize)
    spec = upstream.spec
    if featurizer.out_dim != spec.out_dim:
        spec = type(spec)(**{**vars(spec), "out_dim": featurizer.out_dim})
    # The head is made on the CPU, whose generator alone it draws from.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        head = head_for(config, task, task.head(spec), spec.out_dim)
    upstream.requires_grad_(settings.trainable)
    if settings.trainable:
        freeze(upstream, settings.freeze)
    # A probe that is computed learns no weights of layers: they count alike.
    featurizer.requires_grad_(config.probe == "head")
    probe = Probe(featurizer, head, upstream if settings.trainable else None, config.specaug)
    return probe.to(device)


def settle_features(config: RunConfig | ExtractConfig, upstream: Upstream, items: Mapping[str, Sequence[Item]]) -> None:
    """Make the upstream ready for what the data is, waveforms or precomputed features.

    The settings say which features from here on: a finished run predicts on files, without the data it was trained on. `UsageError` where upstream and data
    do not fit each other, `DataError` where the data is not what the settings say.
    """
    before = config.upstream.features
    paths = (file.path for part in items.values() for item in part for file in item.utterance.heard)
    given = common_features(paths) if items else before
    if before is not None and given != before:
        raise DataError(f"{config.data.path}: this data is {said(given)}, and the run has {said(before)}")
    if items or given is not None:
        upstream.take_features(given)
    config.upstream.features = given


def said(features: FeatureSet | None) -> str:
    """Features in words, None being waveforms."""
    return "waveforms" if features is None else f"precomputed features ({features.model_dump_json()})"


def item_reader(
    config: RunConfig | ExtractConfig, rate: int, upstream: Upstream, reader: Reader | None = None
) -> Callable[[Item], Tensor]:
    """Item -> waveform (samples,), read at `rate` and given at the upstream's, or precomputed features (T, D)."""
    reader = reader or Reader(config.data, rate)

    def read_item(item: Item) -> Tensor:
        utterance = item.utterance
        if is_features(utterance.path) and (given := features_of_file(utterance.path)) != config.upstream.features:
            raise DataError(f"{utterance.path}: {said(given)} where this run has {said(config.upstream.features)}")
        wav = reader(utterance)
        if rate != upstream.sample_rate and not is_features(utterance.path):
            wav = torch.from_numpy(resampled(wav.numpy(), rate, upstream.sample_rate))
        return wav

    return read_item


def item_listener(reader: Reader) -> Listen:
    """Item -> waveform (samples,) and the parts (C, samples) of a mixture, at the task's rate."""

    def listen(item: Item) -> tuple[Tensor, Tensor | None]:
        if is_features(item.utterance.path):
            raise UsageError(
                f"{item.utterance.path}: this task needs the sound itself, and this data is precomputed features; give the audio with --data"
            )
        return reader.both(item.utterance)

    return listen


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
    weights = state_sha256(upstream)
    card = upstream.card
    if task is None:
        task = build_task(config)
    if items is None:
        items = task.corpora()
    settle_features(config, upstream, items)
    say(
        f"upstream   {card.name}: {upstream.out_dim} dims every {1000 * upstream.stride / upstream.sample_rate:g} ms, {upstream.num_layers} hidden state(s)"
    )
    about = downstreams[config.downstream]
    say(f"task       {about.name}: {about.summary}")
    for note in task.notes:
        say(f"data       {note}")
    if items:
        rate = task.spec.sample_rate
        sizes = ", ".join(
            f"{name} {len(part)} ({sum(item.num_samples for item in part) / rate / 60:.1f} min)"
            for name, part in items.items()
        )
        say(f"data       utterances: {sizes}")
    probe = build_probe(config, task, upstream, where)
    if probe.featurizer.left_out:
        say(f"layers     left out, as they are of another width: {', '.join(probe.featurizer.left_out)}")
    pooled = pools(config, task)
    notes = (
        [f"audio is resampled from {task.spec.sample_rate} to {upstream.sample_rate} Hz for the upstream"]
        if task.spec.sample_rate != upstream.sample_rate and config.upstream.features is None
        else []
    )
    for note in notes:
        say(f"audio      {note}")
    # What is read in each epoch is kept in memory, too, which it then shares with features.
    again = listens(task) or keeps_nothing(upstream)
    memory = config.store.memory_gib * GIB * (0.5 if again else 1.0)
    sounds = Reader(config.data, task.spec.sample_rate, memory if again else 0.0)
    reader = item_reader(config, task.spec.sample_rate, upstream, sounds)
    if pooled and items:
        prove_pooling(probe, upstream, reader, next(part for part in items.values() if part)[:2])
    feed = Feed(
        upstream,
        Featurizer(upstream.spec) if config.grid.layers is not None else probe.featurizer,
        task,
        reader,
        item_listener(sounds),
        device=where,
        trainable=config.upstream.trainable,
        rates=(task.spec.sample_rate, upstream.sample_rate),
        memory=memory,
        store=open_store(config, say),
        dtype=config.store.dtype,
        extract_dtype=config.store.extract_dtype,
        pooled=pooled,
        say=say,
    )
    parts = Prepared(config, task, upstream, probe, feed, items, where, world, weights, [*task.notes, *notes])
    for line in varying(task, feed) if items else ():
        say(line)
    if items and not config.upstream.trainable and parts.utterances():
        cost = plan_features(feed, parts.utterances(), task.spec.sample_rate, *parts.keys(), shown=world.first)
        for line in cost.lines():
            say(f"features   {line}")
    return parts


def varying(task: Task, feed: Feed) -> list[str]:
    """What of the data is not the same in each epoch, and what of the features is therefore not kept, for the plan."""
    lines = []
    if task.draws:
        lines.append("data       training items are drawn anew each epoch")
    if task.crop_seconds is not None:
        lines.append(
            f"data       training sees pieces of at most {task.crop_seconds:g} s, drawn anew each epoch; dev and tests are whole"
        )
    if feed.passes:
        lines.append("features   the sound itself, read from its files: nothing is kept")
    elif task.draws and not feed.trainable:
        lines.append("features   of training items are computed on the fly, as they are other ones in each epoch")
    return lines


def pools(config: RunConfig, task: Task) -> bool:
    """Whether means over time may stand for the frames: a frozen upstream, a head that declares it, whole utterances, and nothing between them that is not
    affine."""
    return (
        task.pooling == "mean"
        and not task.draws
        and task.crop_seconds is None
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
        if not all(bool(torch.isfinite(state).all()) for state in states):
            raise HeadwaterError(
                f"upstream {upstream.name!r} gives NaN or infinity for {item.utterance.path}; `headwater check upstream NAME` examines it"
            )
        whole, _ = probe(states, features.lengths, {})
        means, _ = probe(tuple(state.mean(1, keepdim=True) for state in states), torch.ones_like(features.lengths), {})
        for a, b in zip(*(out if isinstance(out, tuple) else (out,) for out in (whole, means)), strict=True):
            if a is not None and not torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max().clamp(min=1))):
                raise HeadwaterError(
                    'this task declares pooling = "mean", yet its head gives something else on the mean than on the frames; remove the declaration'
                )


def identity_of(parts: Prepared, *, initialised: bool = False) -> dict[str, Any]:
    """What a run is: the version, the settings that change numbers, the data's content, the weights it starts from, the source of plugins."""
    cards = [parts.upstream.card, downstreams[parts.config.downstream]]
    return {
        "headwater": headwater.__version__,
        "plugins": [source_sha256(card.folder) for card in cards if card.plugin is not None],
        "init_sha256": state_sha256(parts.probe) if initialised else None,
        **numbers(parts.config, task=parts.task.Config),
        "upstream.name": parts.upstream.card.name,
        "downstream": downstreams[parts.config.downstream].name,
        "data.sha256": parts.task.description.get("sha256"),
        "upstream.weights_sha256": parts.weights_sha256,
        "ranks": parts.world.ranks,
    }


def initialise(probe: Probe, path: Path) -> None:
    """Start from the weights of another run (`-i`): its folder, or its model.safetensors."""
    state = read_safetensors(path / "model.safetensors" if path.is_dir() else path)
    if wrong := misfits(probe, state):
        raise UsageError(
            f"-i {path}: these weights do not fit this probe; {', '.join(wrong[:5])} differ(s) in name or shape"
        )
    probe.load_state_dict(state)


def misfits(module: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that only one of them has, or that differ in shape."""
    own = module.state_dict()
    return [
        name
        for name in sorted({*own, *state})
        if name not in own or name not in state or own[name].shape != state[name].shape
    ]
