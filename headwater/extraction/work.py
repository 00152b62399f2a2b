"""What one worker does, wherever it runs: a part of the plan from audio to files that are whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from torch import Tensor

from headwater.config import ExtractConfig
from headwater.errors import DataError, HeadwaterError
from headwater.extraction.folder import OutFolder
from headwater.loading import load_upstream
from headwater.nn.upstream import Upstream
from headwater.registry import add_plugin
from headwater.store import FrozenFeatures, Store
from headwater.store.compute import READERS
from headwater.store.shards import Row
from headwater.train.distributed import local_device
from headwater.train.kept import bank_for
from headwater.train.parts import item_reader
from headwater.train.task import Item
from headwater.weights import state_sha256

Left = tuple[str, str, str]  # id, path and what is wrong with it


@dataclass(frozen=True)
class Job:
    """All that workers share, in plain data: paths in full, so that it means the same in every folder.

    bank: fingerprint of the upstream and its settings as the plan knows them; a worker that sees another refuses. store: where features are kept;
    out: the folder of plain files in its place.
    """

    config: ExtractConfig
    layers: tuple[int, ...]
    plugins: tuple[str, ...]
    device: str
    bank: str | None
    store: Path
    out: OutFolder | None = None


@dataclass(frozen=True)
class Part:
    """What one file of the plan is to hold. number: its place in the plan. keys: the content of each item. layers: those to be written.

    names: of each item's file, where plain files are written.
    """

    number: int
    items: tuple[Item, ...]
    keys: tuple[bytes, ...]
    layers: tuple[int, ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Done:
    """A finished part. path: its shard, None where nothing of it could be read or plain files were written. seconds: what it took."""

    number: int
    path: Path | None
    seconds: float
    left_out: tuple[Left, ...] = ()


class Worker:
    """Computes parts. upstream: the one that the job names, where it is loaded already.

    Raises `UsageError`, `DataError` and `HeadwaterError` as a run does.
    """

    def __init__(self, job: Job, upstream: Upstream | None = None) -> None:
        config = job.config
        for plugin in job.plugins:
            add_plugin(plugin)
        device = local_device(job.device)
        if upstream is None:
            named = config.upstream
            upstream = load_upstream(named.name, ckpt=named.ckpt, config=named.config, device=str(device))
            upstream.take_features(named.features)
        self.job = job
        self.bank = bank_for(config, upstream, device.type, state_sha256(upstream))
        if (self.bank.fingerprint if self.bank else None) != job.bank:
            raise HeadwaterError(
                f"this worker would compute other features of {upstream.name!r} than the plan means: its version of headwater or of a library, "
                "its weights or its kind of device differ from those of the process that planned"
            )
        self._read_item = item_reader(config, config.sample_rate, upstream)
        self._wavs: dict[str, Tensor] = {}
        self.features: FrozenFeatures[Item] = FrozenFeatures(
            upstream,
            job.layers,
            self._read,
            pooled=config.pooled,
            dtype=config.store.dtype,
            extract_dtype=config.store.extract_dtype,
            device=device,
        )
        # The planner made room for everything, so no worker removes what another one wrote.
        self.store = Store(job.store, float("inf"))

    def __call__(self, part: Part) -> Done:
        """Compute a part and write it."""
        started = monotonic()
        left_out = self._read_ahead(part.items) if self.job.config.data.skip_bad_audio else []
        lost = {name for name, _, _ in left_out}
        chosen = [place for place, item in enumerate(part.items) if item.id not in lost]
        items = [part.items[place] for place in chosen]
        keys = [part.keys[place] for place in chosen]
        path = None
        try:
            if self.job.out is not None:
                names = [part.names[place] for place in chosen]
                self.job.out.write_part(part.items, part.keys, items, names, self._rows(items), left_out)
            elif items:
                path = self._keep(part, items, keys)
        except OSError as error:
            where = error.filename or (self.job.out.path if self.job.out is not None else self.job.store)
            raise HeadwaterError(
                f"{where}: {error.strerror or error}; what is finished stays, and the same command goes on from there"
            ) from None
        finally:
            self._wavs.clear()
        return Done(part.number, path, monotonic() - started, tuple(left_out))

    def _keep(self, part: Part, items: Sequence[Item], keys: Sequence[bytes]) -> Path:
        assert self.bank is not None
        columns = [self.job.layers.index(layer) for layer in part.layers]
        rows = [tuple(row[column] for column in columns) for row in self._rows(items)]
        return self.store.write(self.bank, self.features.form, [item.id for item in items], keys, part.layers, rows)

    def _rows(self, items: Sequence[Item]) -> Iterator[Row]:
        # An accelerator wants batches of equal lengths, which a part nearly is; on CPU each utterance is computed alone in any case.
        size = 1 if self.features.device.type == "cpu" else self.job.config.batch.size
        for rows in self.features.fresh([items[start : start + size] for start in range(0, len(items), size)]):
            yield from rows

    def _read(self, item: Item) -> Tensor:
        held = self._wavs.get(item.id)
        return self._read_item(item) if held is None else held

    def _read_ahead(self, items: Sequence[Item]) -> list[Left]:
        """Read a whole part before any of it is computed, and say what cannot be read."""

        def attempt(item: Item) -> Tensor | str:
            try:
                return self._read_item(item)
            except DataError as error:
                return str(error).splitlines()[0]

        left_out = []
        with ThreadPoolExecutor(READERS) as pool:
            for item, read in zip(items, pool.map(attempt, items), strict=True):
                if isinstance(read, str):
                    left_out.append((item.id, str(item.utterance.path), read))
                else:
                    self._wavs[item.id] = read
        return left_out
