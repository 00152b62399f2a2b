"""One extraction: plan, share, compute, say."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from headwater.config import ExtractConfig
from headwater.errors import HeadwaterError, UsageError
from headwater.extraction.engines import here, on_ray, processes, ray_cluster
from headwater.extraction.folder import OutFolder
from headwater.extraction.names import file_names
from headwater.extraction.plan import Subject, cut, find, lacking
from headwater.extraction.work import Done, Job, Left, Part
from headwater.identity import anchored
from headwater.paths import store_root
from headwater.progress import bar
from headwater.store import FrozenFeatures, Store
from headwater.store.plan import share, size
from headwater.store.quality import relative_error, speed
from headwater.store.store import NoRoom
from headwater.train.distributed import local_device
from headwater.train.kept import GIB, WORTH_TIMING, sample
from headwater.train.parts import item_reader
from headwater.train.task import Item

Say = Callable[[str], None]


@dataclass
class Outcome:
    """What an extraction did. utterances: of the whole plan; cached: those that were there; computed: by this command; seconds: of audio, of these.

    complete: whether nothing of the whole plan is left. error: relative RMS of each layer, where features are not float32 throughout.
    """

    utterances: int
    cached: int
    computed: int = 0
    seconds: float = 0.0
    wall: float = 0.0
    complete: bool = False
    left_out: list[Left] = field(default_factory=list)
    error: dict[str, float] | None = None


def extract(
    config: ExtractConfig,
    *,
    plugins: Sequence[str] = (),
    out: Path | None = None,
    format: Literal["npy", "safetensors"] = "npy",
    shard: tuple[int, int] = (0, 1),
    workers: int | None = None,
    engine: Literal["local", "ray"] = "local",
    device: str | None = None,
    dry_run: bool = False,
    say: Say = print,
) -> Outcome:
    """Compute the features that are not there yet: in the store, or in the folder `out`.

    Whatever `shard`, `workers` and `engine` are, the files are the same byte for byte (on CPU; accelerators compute batches, and are their own kind).

    Parameters
    ----------
    shard: this command does the parts i, i + n, ... of the plan. workers: processes of one thread each; None computes in this process, or on all of a cluster.
    dry_run: hash, plan and say; compute and write nothing but what is remembered of hashes.

    Raises
    ------
    UsageError: settings; a folder that holds something else; Ray is not installed. DataError: the corpus or its audio.
    HeadwaterError: no room, a worker was killed, NaN. What is finished stays, and the same command goes on from there.
    """
    started = time.monotonic()
    config = anchored(config)
    ray = ray_cluster() if engine == "ray" else None
    if ray is not None:
        name = device or ("cuda" if ray.cluster_resources().get("GPU") else "cpu")
        kind, own = name.partition(":")[0], torch.device("cpu")
    else:
        where = local_device(device)
        alone = workers is None or workers == 1
        name, kind, own = (
            (str(where) if alone else device or where.type),
            where.type,
            where if alone else torch.device("cpu"),
        )
    subject = find(config, device=own, device_type=kind, say=say)
    _introduce(subject, say)
    kept: FrozenFeatures[Item] = FrozenFeatures(
        subject.upstream,
        subject.layers,
        item_reader(config, config.sample_rate, subject.upstream),
        pooled=config.pooled,
        dtype=config.store.dtype,
        extract_dtype=config.store.extract_dtype
        if own.type == kind
        else "float32",  # what this process cannot, workers may
        device=own,
    )
    target = _Files(subject, out, format) if out is not None else _Shards(subject, kept, say)
    parts, mine, outcome = target.plan(shard)
    outcome.left_out += subject.left_out
    todo = sum(len(part.items) for part in mine)
    seconds = sum(subject.seconds(item) for part in mine for item in part.items)
    form = "means" if config.pooled else f"{subject.frames(subject.items)} frames"
    say(
        f"features   {form}: {size(subject.num_bytes(subject.items))} in {len(parts)} part(s); "
        f"{outcome.cached} of {outcome.utterances} utterances are there already"
    )
    told = f"shard {shard[0]}/{shard[1]} computes" if shard[1] > 1 else "to compute"
    comparable = own.type == kind
    rate = _speed(subject, kept, mine) if dry_run and comparable and seconds > WORTH_TIMING else None
    time_ = f", about {seconds / rate / 60:.1f} min at {rate:.1f} seconds of audio a second" if rate else ""
    say(f"plan       {told} {todo} utterances, {seconds / 60:.1f} min of audio, in {len(mine)} part(s){time_}")
    if dry_run:
        say("dry run    nothing was computed or written; the same command without --dry-run extracts")
        return outcome
    target.begin(parts)
    job = Job(
        config,
        subject.layers,
        tuple(str(Path(path).expanduser().resolve()) for path in plugins),
        name,
        subject.bank.fingerprint if subject.bank is not None else None,
        store_root().absolute(),
        target.folder,
    )
    if ray is not None:
        stream = on_ray(ray, job, mine, workers) if mine else iter(())
    elif alone or not mine:
        stream = here(job, mine, subject.upstream)
    else:
        stream = processes(job, mine, workers or 1)
    _follow(stream, {part.number: part for part in mine}, subject, target, outcome, shown=shard[0] == 0)
    if comparable and outcome.computed and (errors := relative_error(kept, sample(subject.items))) is not None:
        outcome.error = dict(zip(subject.featurizer.layer_names, errors, strict=True))
    outcome.complete = target.end(outcome)
    outcome.wall = time.monotonic() - started
    _conclude(outcome, target, shard, say)
    return outcome


def _introduce(subject: Subject, say: Say) -> None:
    upstream, chosen = subject.upstream, subject.featurizer
    say(
        f"upstream   {upstream.name}: {upstream.out_dim} dims every {1000 * upstream.stride / upstream.sample_rate:g} ms; "
        f"{len(chosen.layers)} of {upstream.num_layers} hidden state(s)"
    )
    if chosen.left_out:
        say(f"layers     left out, as they are of another width: {', '.join(chosen.left_out)}")
    hours = sum(subject.seconds(item) for item in subject.items) / 3600
    say(f"data       {len(subject.items)} utterances, {hours:.2f} h")
    if subject.config.sample_rate != upstream.sample_rate and subject.config.upstream.features is None:
        say(f"audio      is resampled from {subject.config.sample_rate} to {upstream.sample_rate} Hz for the upstream")


def _speed(subject: Subject, kept: FrozenFeatures[Item], mine: Sequence[Part]) -> float:
    items = sorted((item for part in mine for item in part.items), key=lambda item: item.num_samples)
    timed = items[len(items) // 2 :][: 2 * kept.extractor.workers]
    return speed(kept.extractor, timed, subject.seconds)


def _follow(
    stream: Iterator[Done], mine: dict[int, Part], subject: Subject, target: _Target, outcome: Outcome, *, shown: bool
) -> None:
    """Take in what workers finish, with a bar in seconds of audio."""
    total = round(sum(subject.seconds(item) for part in mine.values() for item in part.items))
    with bar(total=total, what="extracting", unit="s of audio", shown=shown) as counter:
        for done in stream:
            lost = {name for name, _, _ in done.left_out}
            items = [item for item in mine[done.number].items if item.id not in lost]
            seconds = sum(subject.seconds(item) for item in items)
            outcome.computed += len(items)
            outcome.seconds += seconds
            outcome.left_out += done.left_out
            target.take(mine[done.number], done)
            counter.update(round(outcome.seconds) - counter.n)


def _conclude(outcome: Outcome, target: _Target, shard: tuple[int, int], say: Say) -> None:
    for name, path, reason in outcome.left_out[:5]:
        say(f"left out   {name} ({path}): {reason}")
    if len(outcome.left_out) > 5:
        say(f"left out   {len(outcome.left_out) - 5} more")
    if outcome.error is not None:
        say(
            f"note       relative RMS error against float32: up to {100 * max(outcome.error.values()):.2g} %, measured on a few utterances"
        )
    pace = (
        f", {outcome.seconds / outcome.wall:.1f} seconds of audio a second, start and plan included"
        if outcome.computed
        else ""
    )
    say(f"done       {outcome.computed} utterances computed in {outcome.wall:.1f} s{pace}")
    rest = "" if outcome.complete else " (parts of other shards are still to come)" if shard[1] > 1 else ""
    say(f"result     {target.place}{rest}")


class _Target(ABC):
    """Where features go."""

    place: str
    folder: OutFolder | None = None

    @abstractmethod
    def plan(self, shard: tuple[int, int]) -> tuple[list[Part], list[Part], Outcome]:
        """All parts, those that this command is to do, and what is there."""

    @abstractmethod
    def begin(self, parts: Sequence[Part]) -> None:
        """The last thing before the work; raises where it cannot end well."""

    def take(self, part: Part, done: Done) -> None:
        """A part is finished; nothing is to be done about it by default."""
        return

    @abstractmethod
    def end(self, outcome: Outcome) -> bool:
        """The last thing after it. Whether the whole plan is done."""


class _Shards(_Target):
    """The feature store."""

    def __init__(self, subject: Subject, kept: FrozenFeatures[Item], say: Say) -> None:
        if subject.bank is None:
            raise UsageError(
                f"the features of {subject.upstream.name!r} cannot be kept: part of its code has no source file to be known by; --out DIR writes plain files"
            )
        self.subject, self.kept, self.bank = subject, kept, subject.bank
        gib = subject.config.store.budget_gib
        self.store = Store(
            store_root().absolute(), None if gib is None else gib * GIB, lambda line: say(f"features   {line}")
        )
        self.place = str(self.store.folder(self.bank))
        self.costs: dict[Path, float] = {}
        self.absent: list[Item] = []
        self.missing: set[bytes] = set()
        self.handled = 0

    def plan(self, shard: tuple[int, int]) -> tuple[list[Part], list[Part], Outcome]:
        subject, first = self.subject, shard[0] == 0
        content = subject.contents(subject.items, shown=first)
        parts = cut(subject, content, subject.layers, {})
        # Means of frames that are there are taken from them.
        self.found, frames = self.kept.look(self.store, self.bank, set(content.values()), shown=first)
        self.absent = [
            item for item in subject.items if content[item.id] not in self.found and content[item.id] not in frames
        ]
        self.missing = {content[item.id] for item in self.absent}
        left = [rest for part in share(parts, *shard) if (rest := lacking(part, self.missing, self.found)) is not None]
        return parts, left, Outcome(len(subject.items), len(subject.items) - len(self.absent))

    def begin(self, parts: Sequence[Part]) -> None:
        try:
            self.store.make_room(self.subject.num_bytes(self.absent))
        except NoRoom as error:
            raise HeadwaterError(
                f"{self.store.root}: {error}; raise it, extract one layer (-l) or means (--pooled), keep float16 (--cache-dtype), or set HEADWATER_STORE"
            ) from None

    def take(self, part: Part, done: Done) -> None:
        self.handled += len(part.keys)
        if done.path is not None:
            self.costs[done.path] = done.seconds

    def end(self, outcome: Outcome) -> bool:
        self.store.used(self.bank, self.costs, {*(shard.path for shard in self.found.shards), *self.costs})
        return self.handled >= len(self.missing)


class _Files(_Target):
    """A folder of plain files."""

    def __init__(self, subject: Subject, path: Path, format: Literal["npy", "safetensors"]) -> None:
        upstream = subject.upstream
        layers = tuple((number, upstream.layer_names[number], upstream.layer_dims[number]) for number in subject.layers)
        about = json.loads(json.dumps({**subject.facts(), "format": format}, default=str))
        self.folder: OutFolder = OutFolder(path.absolute(), format, about, layers, subject.config.pooled)
        self.subject, self.place = subject, str(path)
        self.names = file_names([item.id for item in subject.items])

    def plan(self, shard: tuple[int, int]) -> tuple[list[Part], list[Part], Outcome]:
        subject = self.subject
        self.folder.check()
        self.parts = cut(subject, None, subject.layers, self.names)
        mine = share(self.parts, *shard)
        # Other shards look after their own audio.
        content = subject.contents([item for part in mine for item in part.items], shown=shard[0] == 0)
        mine = [replace(part, keys=tuple(content[item.id] for item in part.items)) for part in mine]
        skip = subject.config.data.skip_bad_audio
        left = [part for part in mine if not self.folder.done(part.items, part.keys, part.names, skip_bad=skip)]
        own = {part.number for part in mine}
        there = [part for part in mine if part not in left]
        there += [part for part in self.parts if part.number not in own and self.folder.frames(part.items) is not None]
        return self.parts, left, Outcome(len(subject.items), sum(len(part.items) for part in there))

    def begin(self, parts: Sequence[Part]) -> None:
        self.folder.begin()

    def end(self, outcome: Outcome) -> bool:
        facts = {"error": outcome.error} if outcome.error is not None else {}
        return self.folder.finish([part.items for part in self.parts], self.names, facts)
