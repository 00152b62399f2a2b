"""Frozen features of a run's utterances: from the store, from memory, or computed anew, with the same bits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Generic

import torch
from torch import Tensor

from headwater.errors import HeadwaterError
from headwater.nn.lengths import pad
from headwater.nn.upstream import Upstream
from headwater.store.compute import READERS, Extractor, Identified, Key, enough_memory, mean_over_time
from headwater.store.keys import Bank
from headwater.store.plan import bytes_of, count_frames, plan_shards, share
from headwater.store.shards import Form, Row
from headwater.store.store import Index, Store

DTYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class Workers:
    """Who else fills the same store at the same time: this is number `rank` of `ranks`, and `barrier` waits for all."""

    rank: int = 0
    ranks: int = 1
    barrier: Callable[[], object] = lambda: None


@dataclass
class Filled:
    """What `fill` found and did. cached, computed: utterances; bytes: of them all, wherever they are kept; error: what `FrozenFeatures.error` measured."""

    cached: int = 0
    computed: int = 0
    bytes: int = 0
    error: list[float] | None = None


class FrozenFeatures(Generic[Key]):
    """The chosen hidden states of utterances under a frozen upstream.

    On CPU every utterance is computed alone, so its numbers depend on nothing but itself: not on its batch, not on whether a run was resumed, and not on where
    they were kept. On other devices batches are computed together.

    Parameters
    ----------
    upstream: in eval mode, on its device. layers: which hidden states are kept. read: key -> waveform (samples,), called from several threads.
    pooled: whether each is the mean over the utterance, as a single frame.
    memory: bytes that may be held in main memory, for what the store does not take. store: where features outlive the run; None keeps none on disk.
    dtype: what is kept, float32 or float16; given out is always float32. extract_dtype: see `Extractor`.
    device: where states are computed and given out; the upstream's own by default. say: told in one line what could not be kept.
    """

    def __init__(
        self,
        upstream: Upstream,
        layers: Sequence[int],
        read: Callable[[Key], Tensor],
        *,
        pooled: bool = False,
        memory: float = float("inf"),
        store: Store | None = None,
        dtype: str = "float32",
        extract_dtype: str = "float32",
        device: torch.device | None = None,
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        self.extractor: Extractor[Key] = Extractor(upstream, layers, read, device=device, dtype=extract_dtype)
        self.upstream, self.layers, self.read, self.pooled, self.say = upstream, tuple(layers), read, pooled, say
        self.memory, self.store, self.dtype, self.extract_dtype = memory, store, dtype, extract_dtype
        self.device = self.extractor.device
        self.filled = Filled()
        self._held: dict[str, Row] = {}
        self._left = memory
        self._content: dict[str, bytes] = {}
        self._index = Index(self.layers)
        self._table: dict[str, int] = {}
        self._columns: Row = ()

    def fill(
        self,
        keys: Sequence[Key],
        progress: Callable[[int], object] = lambda count: None,
        *,
        size: int = 1,
        bank: Bank | None = None,
        content: Mapping[str, bytes] | None = None,
        seconds: Callable[[Key], float] = lambda key: 1.0,
        workers: Workers | None = None,
    ) -> None:
        """Keep the features of `keys`: in the store where there is one and the bank and the content of all are known, in memory what it does not take.

        progress: told of utterances as they are done. size: utterances that are computed together on other devices than the CPU.
        """
        workers = workers or Workers()
        unique = list({key.id: key for key in keys}.values())
        if self.store is not None and bank is not None and content is not None:
            self._content = {key.id: content[key.id] for key in unique}
            self._fill_store(self.store, bank, unique, progress, size, seconds, workers)
        self._fill_memory([key for key in unique if not self.holds(key)], progress, size)
        held = [key for key in unique if self.holds(key)]
        self.filled.bytes = bytes_of(self.upstream, self.layers, sum(map(self._length, held)), self.dtype)
        if self.pooled and self.filled.bytes <= self.memory:
            self._tabulate(held)

    @property
    def form(self) -> Form:
        return "mean" if self.pooled else "frames"

    def look(self, store: Store, bank: Bank, wanted: Collection[bytes], *, shown: bool) -> tuple[Index, Index]:
        """What the store holds; and frames of which means can be taken, whose bits are those of means computed afresh."""
        found = store.look(bank, self.form, self.layers, wanted, shown=shown)
        rest = {name for name in wanted if name not in found}
        framed = bool(rest) and self.pooled and self.dtype == "float32"
        return found, store.look(bank, "frames", self.layers, rest, shown=shown) if framed else Index(self.layers)

    def holds(self, key: Key) -> bool:
        """Whether the features of `key` need not be computed."""
        return key.id in self._held or self._content.get(key.id, b"") in self._index

    def _fill_store(
        self,
        store: Store,
        bank: Bank,
        keys: Sequence[Key],
        progress: Callable[[int], object],
        size: int,
        seconds: Callable[[Key], float],
        workers: Workers,
    ) -> None:
        content: dict[str, bytes] = self._content
        costs: dict[Path, float] = {}
        wanted = set(content.values())
        shown = workers.rank == 0
        self._index, frames = self.look(store, bank, wanted, shown=shown)
        for key in keys:
            if not self.holds(key) and content[key.id] in frames:
                self._hold(key, tuple(mean_over_time(state) for state in frames.row(content[key.id])))
        cached = sum(self.holds(key) for key in keys)
        self.filled.cached += cached
        progress(cached)
        durations = [seconds(key) for key in keys]
        rate = self._bytes(keys, durations) / max(sum(durations), 1e-9)
        shards = plan_shards([content[key.id] for key in keys], durations, rate, max_bytes=store.shard_bytes)
        possible = True
        # Where ranks see different disks, each does in the second round what it did not find.
        for rank, ranks in dict.fromkeys([(workers.rank, workers.ranks), (0, 1)]):
            parts = [[keys[place] for place in part if not self.holds(keys[place])] for part in shards]
            workers.barrier()  # all have looked, so all deal the same
            todo = share([part for part in parts if part], rank, ranks) if possible else []
            possible = self._compute_shards(store, bank, todo, progress, size, costs)
            workers.barrier()
            self._index, _ = self.look(store, bank, wanted, shown=shown)
        if workers.rank == 0:
            store.used(bank, costs, {shard.path for shard in (*self._index.shards, *frames.shards)} | set(costs))

    def _compute_shards(
        self,
        store: Store,
        bank: Bank,
        shards: Sequence[Sequence[Key]],
        progress: Callable[[int], object],
        size: int,
        costs: dict[Path, float],
    ) -> bool:
        """Compute and write shards. False where one could not be written: what it holds goes to memory, and the rest is left."""
        groups = [list(part[start : start + size]) for part in shards for start in range(0, len(part), size)]
        stream = self.fresh(groups)
        started = monotonic()
        try:
            for part in shards:
                rows: list[Row] = []
                while len(rows) < len(part):
                    group = next(stream)
                    rows += group
                    progress(len(group))
                    self.filled.computed += len(group)
                ids = [key.id for key in part]
                names = [self._content[name] for name in ids]
                layers = sorted({layer for name in names for layer in self._index.lacks(name)})
                chosen = [tuple(row[self.layers.index(layer)] for layer in layers) for row in rows]
                try:
                    costs[store.write(bank, self.form, ids, names, layers, chosen)] = monotonic() - started
                except OSError as error:
                    why = f"{error.filename or store.root}: {error.strerror}" if error.strerror else error
                    self.say(f"not kept on disk ({why}): in memory as far as store.memory_gib goes, else computed anew")
                    for key, row in zip(part, rows, strict=True):
                        self._hold(key, row)
                    return False
                started = monotonic()
        finally:
            stream.close()
        return True

    def _fill_memory(self, keys: Sequence[Key], progress: Callable[[int], object], size: int) -> None:
        groups = [list(keys[start : start + size]) for start in range(0, len(keys), size)]
        if not groups or self._left <= 0:
            return
        stream = self.fresh(groups)
        try:
            for group, rows in zip(groups, stream):
                self.filled.computed += len(group)
                progress(len(group))
                if not all(self._hold(key, row) for key, row in zip(group, rows, strict=True)):
                    return
        finally:
            stream.close()

    def _hold(self, key: Key, row: Row) -> bool:
        """Hold in memory, where there is room."""
        cost = sum(state.numel() * state.element_size() for state in row)
        if cost > self._left:
            return False
        self._left -= cost
        self._held[key.id] = row
        return True

    def _tabulate(self, keys: Sequence[Key]) -> None:
        """Means as one tensor (N, D) a layer, of which batches are rows."""
        dims = [self.upstream.layer_dims[layer] for layer in self.layers]
        self._columns = tuple(torch.empty(len(keys), dim, dtype=DTYPES[self.dtype]) for dim in dims)
        self._table = {key.id: number for number, key in enumerate(keys)}
        shards: dict[int, tuple[list[int], list[int]]] = {}
        for key, number in zip(keys, self._table.values(), strict=True):
            place = self._index.whole.get(self._content.get(key.id, b""))
            if place is None or key.id in self._held:
                for column, state in zip(self._columns, self._row(key), strict=True):
                    column[number] = state[0]
            else:
                numbers, positions = shards.setdefault(place[0], ([], []))
                numbers.append(number)
                positions.append(place[1])
        for shard, (numbers, positions) in shards.items():
            for column, layer in zip(self._columns, self.layers, strict=True):
                column[numbers] = self._index.shards[shard].layers[layer][positions]

    def _bytes(self, keys: Sequence[Key], durations: Sequence[float]) -> int:
        samples = [max(1, round(duration * self.upstream.sample_rate)) for duration in durations]
        rows = len(keys) if self.pooled else count_frames(self.upstream, samples)
        return bytes_of(self.upstream, self.layers, rows, self.dtype)

    def batches(
        self, groups: Sequence[Sequence[Key]], pieces: Sequence[Sequence[slice]] = ()
    ) -> Iterator[tuple[Row, Tensor]]:
        """For each group in turn its padded states, one (B, T, D) float32 for each layer, and lengths (B,); what is not held is computed ahead.

        pieces: which frames of each utterance are given; all of them when not said. What a piece is cut from is always the whole.
        """
        lacking = [[key for key in group if not self.holds(key)] for group in groups]
        stream = self.fresh([part for part in lacking if part])
        try:
            for number, (group, absent) in enumerate(zip(groups, lacking, strict=True)):
                fresh = dict(zip([key.id for key in absent], next(stream) if absent else [], strict=True))
                yield self._together(group, fresh, pieces[number] if pieces else ())
        finally:
            stream.close()

    def _together(self, group: Sequence[Key], fresh: Mapping[str, Row], pieces: Sequence[slice]) -> tuple[Row, Tensor]:
        if self._table and not fresh:
            chosen = torch.tensor([self._table[key.id] for key in group])
            states = tuple(column[chosen][:, None, :] for column in self._columns)
            lengths = torch.ones(len(group), dtype=torch.int64)
        else:
            rows = [fresh[key.id] if key.id in fresh else self._row(key) for key in group]
            if pieces:
                rows = [tuple(state[piece] for state in row) for row, piece in zip(rows, pieces, strict=True)]
            padded = [pad([row[column] for row in rows]) for column in range(len(self.layers))]
            # One utterance is not padded: it would lie wherever its file puts it, and sums of products depend on where a matrix begins.
            states = tuple(state.clone() if len(group) == 1 else state for state, _ in padded)
            lengths = padded[0][1]
        return tuple(self._given(state) for state in states), lengths.to(self.device)

    def _given(self, state: Tensor) -> Tensor:
        if self.device.type == "cuda" and state.device.type == "cpu":
            state = state.pin_memory()
        return state.to(self.device, non_blocking=True).float()

    def _length(self, key: Key) -> int:
        return len(self._held[key.id][0]) if key.id in self._held else self._index.length(self._content[key.id])

    def _row(self, key: Key) -> Row:
        return self._held[key.id] if key.id in self._held else self._index.row(self._content[key.id])

    def fresh(self, groups: Sequence[Sequence[Key]]) -> Generator[list[Row], None, None]:
        """What is kept of each group, freshly computed, in main memory."""
        for group, rows in zip(groups, self.extractor(groups) if groups else ()):
            yield [tuple(self._kept(key, state) for state in row) for key, row in zip(group, rows, strict=True)]

    def _kept(self, key: Key, state: Tensor) -> Tensor:
        state = (mean_over_time(state) if self.pooled else state).cpu()
        if self.dtype == "float32":
            return state
        kept = state.to(DTYPES[self.dtype])
        if not bool(torch.isfinite(kept).all()):
            raise HeadwaterError(
                f"the features of {key.id!r} go up to {float(state.abs().max()):.3g}, beyond what {self.dtype} can hold: leave out --cache-dtype"
            )
        return kept


__all__ = ["READERS", "Filled", "FrozenFeatures", "Identified", "Workers", "enough_memory"]
