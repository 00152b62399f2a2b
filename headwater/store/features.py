"""Frozen features: a plan of what they cost, one pass of the upstream, and reading them back from memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from headwater.errors import HeadwaterError
from headwater.nn.lengths import pad
from headwater.nn.upstream import Upstream

READERS = 4


@contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """`HeadwaterError` with `advice` in place of torch's own where memory, the accelerator's or the machine's, is used up."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise HeadwaterError(f"out of memory: {advice}") from None


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
    devices batches are computed together. What `fill` was given is held in main memory, and nothing else is.

    Parameters
    ----------
    upstream: in eval mode, on its device. layers: which hidden states are kept. read: key -> waveform (samples,), called from several threads.
    keep: whether `fill` is worth its memory. pooled: whether each is the mean over the utterance, as a single frame.
    device: where states are computed and given out; the upstream's own by default, which one without parameters does not tell.
    """

    def __init__(
        self,
        upstream: Upstream,
        layers: Sequence[int],
        read: Callable[[Key], Tensor],
        *,
        keep: bool,
        pooled: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.upstream, self.layers, self.read, self.keep, self.pooled = upstream, tuple(layers), read, keep, pooled
        tensors = (*upstream.parameters(), *upstream.buffers())
        self.device = device or next((tensor.device for tensor in tensors), torch.device("cpu"))
        self._held: dict[str, tuple[Tensor, ...]] = {}

    def fill(self, keys: Sequence[Key], progress: Callable[[int], object] = lambda count: None, size: int = 1) -> None:
        """Compute and hold the features of `keys`, `size` neighbours at a time, reading ahead of the upstream."""
        missing = list({key.id: key for key in keys if key.id not in self._held}.values())
        groups = [missing[start : start + size] for start in range(0, len(missing), size)]
        for group, wavs in self.ahead(groups):
            for key, row in zip(group, self._compute(group, wavs), strict=True):
                self._held[key.id] = tuple(state.cpu() for state in row)
            progress(len(group))

    def ahead(self, groups: Sequence[list[Key]]) -> Iterator[tuple[list[Key], list[Tensor]]]:
        """The groups with the waveforms of what is not held, read by threads a little ahead. What `read` raises is raised here, in its group's turn."""
        if all(key.id in self._held for group in groups for key in group):
            yield from ((group, []) for group in groups)
            return
        pool = ThreadPoolExecutor(READERS)
        try:
            pending = []
            for position, group in enumerate(groups):
                pending.append([pool.submit(self.read, key) for key in group if key.id not in self._held])
                if len(pending) > 2 * READERS:
                    yield groups[position - 2 * READERS], [future.result() for future in pending.pop(0)]
            for group, futures in zip(groups[len(groups) - len(pending) :], pending, strict=True):
                yield group, [future.result() for future in futures]
        finally:
            # Broken audio or Ctrl-C: what waits in line is not read any more.
            pool.shutdown(cancel_futures=True)

    def __call__(self, group: Sequence[Key], wavs: list[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Padded states, one (B, T, D) for each of `layers`, and lengths (B,), of a group that `ahead` gave."""
        unheld = [key for key in group if key.id not in self._held]
        fresh = iter(self._compute(unheld, wavs))
        rows = [self._held[key.id] if key.id in self._held else next(fresh) for key in group]
        columns = [pad([row[position] for row in rows]) for position in range(len(self.layers))]
        return tuple(padded.to(self.device) for padded, _ in columns), columns[0][1].to(self.device)

    def _compute(self, keys: Sequence[Key], wavs: list[Tensor]) -> list[tuple[Tensor, ...]]:
        pairs = list(zip(keys, wavs, strict=True))
        groups = [[pair] for pair in pairs] if self.device.type == "cpu" else [pairs] if pairs else []
        return [row for group in groups for row in self._extract(group)]

    @torch.no_grad()
    def _extract(self, pairs: list[tuple[Key, Tensor]]) -> list[tuple[Tensor, ...]]:
        with enough_memory("lower batch.seconds or batch.size"):
            features = self.upstream.extract([wav.to(self.device) for _, wav in pairs])
        states = [features.hidden_states[layer] for layer in self.layers]
        rows = [
            tuple(self._kept(state[position, :length]) for state in states)
            for position, length in enumerate(features.lengths.tolist())
        ]
        # A NaN here would show itself as a diverged training, far from its cause.
        if not all(bool(torch.isfinite(state).all()) for state in states):
            finite = [all(bool(torch.isfinite(state).all()) for state in row) for row in rows]
            name = next((key.id for (key, _), fine in zip(pairs, finite, strict=True) if not fine), None)
            if name is not None:
                raise HeadwaterError(
                    f"upstream {self.upstream.name!r} gave NaN or infinite features for the utterance {name!r}; "
                    "its weights or this audio are broken"
                )
        return rows

    def _kept(self, state: Tensor) -> Tensor:
        return state.mean(0, keepdim=True) if self.pooled else state.clone()
