"""Frozen features: a plan of what they cost, one pass of the upstream, and reading them back from memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from headwater.nn.lengths import pad
from headwater.nn.upstream import Upstream

READERS = 4


class Identified(Protocol):
    """Anything with an id that names its audio."""

    @property
    def id(self) -> str: ...


Key = TypeVar("Key", bound=Identified)


@dataclass(frozen=True)
class Plan:
    """What the features of some utterances cost: bytes in memory (float32, the layers that are kept), and whether they are kept at all."""

    frames: int
    bytes: int
    kept: bool
    pooled: bool = False

    def sentence(self) -> str:
        size = f"{self.bytes / 2**20:.0f} MiB" if self.bytes < 2**30 else f"{self.bytes / 2**30:.1f} GiB"
        what = "the mean over each utterance is all the head needs" if self.pooled else f"{self.frames} frames"
        return f"{what}, {size}: " + (
            "computed once, kept in memory"
            if self.kept
            else "more than store.memory_gib, so computed anew in each epoch"
        )


def plan(
    upstream: Upstream, layers: Sequence[int], num_samples: Sequence[int], budget_bytes: float, pooled: bool
) -> Plan:
    """What keeping `layers` of utterances of so many samples (at the upstream's rate) takes; only their means over time where `pooled`."""
    frames = sum(upstream.frames(samples) for samples in num_samples)
    size = 4 * (len(num_samples) if pooled else frames) * sum(upstream.layer_dims[layer] for layer in layers)
    return Plan(frames, size, size <= budget_bytes, pooled)


class FrozenFeatures(Generic[Key]):
    """The chosen hidden states of utterances under a frozen upstream.

    On CPU every utterance is computed alone, so its numbers depend on nothing but itself: not on its batch, and not on whether a run was resumed. On other
    devices batches are computed together.

    Parameters
    ----------
    upstream: in eval mode, on its device. layers: which hidden states are kept. read: key -> waveform (samples,), called from several threads.
    keep: whether results are held in memory. pooled: whether each is the mean over the utterance, as a single frame.
    """

    def __init__(
        self,
        upstream: Upstream,
        layers: Sequence[int],
        read: Callable[[Key], Tensor],
        *,
        keep: bool,
        pooled: bool = False,
    ) -> None:
        self.upstream, self.layers, self.read, self.keep, self.pooled = upstream, tuple(layers), read, keep, pooled
        self.device = next((p.device for p in (*upstream.parameters(), *upstream.buffers())), torch.device("cpu"))
        self._held: dict[str, tuple[Tensor, ...]] = {}

    def fill(self, keys: Sequence[Key], progress: Callable[[int], object] = lambda count: None) -> None:
        """Compute and hold the features of `keys`, reading ahead of the upstream."""
        missing = [[key] for key in keys if key.id not in self._held]
        for group, wavs in self.ahead(missing):
            self._held.update(zip([key.id for key in group], self._compute(wavs), strict=True))
            progress(len(group))

    def ahead(self, groups: Sequence[list[Key]]) -> Iterator[tuple[list[Key], list[Tensor]]]:
        """The groups with the waveforms of what is not held, read by threads a little ahead."""
        if all(key.id in self._held for group in groups for key in group):
            yield from ((group, []) for group in groups)
            return
        with ThreadPoolExecutor(READERS) as pool:
            pending = []
            for position, group in enumerate(groups):
                pending.append([pool.submit(self.read, key) for key in group if key.id not in self._held])
                if len(pending) > 2 * READERS:
                    yield groups[position - 2 * READERS], [future.result() for future in pending.pop(0)]
            for group, futures in zip(groups[len(groups) - len(pending) :], pending, strict=True):
                yield group, [future.result() for future in futures]

    def __call__(self, group: Sequence[Key], wavs: list[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Padded states, one (B, T, D) for each of `layers`, and lengths (B,), of a group that `ahead` gave."""
        fresh = iter(self._compute(wavs))
        rows = []
        for key in group:
            row = self._held.get(key.id)
            if row is None:
                row = next(fresh)
                if self.keep:
                    self._held[key.id] = row
            rows.append(row)
        columns = [pad([row[position] for row in rows]) for position in range(len(self.layers))]
        return tuple(padded.to(self.device) for padded, _ in columns), columns[0][1].to(self.device)

    @torch.no_grad()
    def _compute(self, wavs: list[Tensor]) -> list[tuple[Tensor, ...]]:
        if not wavs:
            return []
        groups = [[wav] for wav in wavs] if self.device.type == "cpu" else [[wav.to(self.device) for wav in wavs]]
        rows: list[tuple[Tensor, ...]] = []
        for group in groups:
            features = self.upstream.extract(group)
            lengths = features.lengths.tolist()
            states = [features.hidden_states[layer] for layer in self.layers]
            rows.extend(
                tuple(self._kept(state[position, :length]) for state in states)
                for position, length in enumerate(lengths)
            )
        return rows

    def _kept(self, state: Tensor) -> Tensor:
        return state.mean(0, keepdim=True) if self.pooled else state.clone()
