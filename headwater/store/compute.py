"""Hidden states of a frozen upstream, computed as fast as the device allows, and the same bits whoever computes them.

On CPU every utterance is computed alone, unpadded, by one thread, and as many utterances at once as there are threads: a batch gives no speed there and padding
costs nearly half (`bench/extraction.py`). So the bits of an utterance depend on nothing but the utterance and the machine's kind. On other devices groups are
computed together, as they are given.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from headwater.errors import HeadwaterError
from headwater.nn.packed import Prepared, require_bfloat16
from headwater.nn.upstream import Upstream

READERS = 4
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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


class Extractor(Generic[Key]):
    """Groups of utterances -> the chosen hidden states of each, reading and computing ahead of whoever asks.

    Parameters
    ----------
    upstream: in eval mode, on its device. layers: which hidden states are given, in this order.
    read: key -> waveform (samples,) at the upstream's rate, or features (T, in_dim); called from several threads.
    device: where states are computed and given out; the upstream's own by default, which one without parameters does not tell.
    dtype: float32; or bfloat16 for the encoder (front-ends, convolutions and what is given out stay in float32).
    workers: utterances computed at once on CPU, each by one thread; as many as torch has threads by default. Other devices have no use for it.

    Raises `UsageError` where the device does not compute bfloat16.
    """

    def __init__(
        self,
        upstream: Upstream,
        layers: Sequence[int],
        read: Callable[[Key], Tensor],
        *,
        device: torch.device | None = None,
        dtype: str = "float32",
        workers: int | None = None,
    ) -> None:
        tensors = (*upstream.parameters(), *upstream.buffers())
        self.device = device or next((tensor.device for tensor in tensors), torch.device("cpu"))
        self.upstream, self.layers, self.read = upstream, tuple(layers), read
        self.dtype, self.workers = DTYPES[dtype], workers or torch.get_num_threads()
        if self.dtype == torch.bfloat16:
            require_bfloat16(self.device)
        self._prepared: Prepared | None = None

    def __call__(self, groups: Iterable[Sequence[Key]]) -> Iterator[list[tuple[Tensor, ...]]]:
        """For each group in turn, one tuple of (T, D) float32 tensors, one a layer, for each key.

        What `read` or the upstream raises is raised here, in its group's turn; what waits in line is then not read any more.

        Raises `HeadwaterError` for NaN and infinite features, with the utterance's name, and where memory is used up.
        """
        if self._prepared is None or self._prepared.stale:
            self._prepared = Prepared(self.upstream, self.device, self.dtype)
        together = self.device.type != "cpu"
        readers = ThreadPoolExecutor(READERS, "read")
        # Other devices compute one thing after the other anyway; a thread of their own leaves them busy while the caller works.
        computers = ThreadPoolExecutor(1 if together else self.workers, "extract")
        pending: deque[list[Future[list[tuple[Tensor, ...]]]]] = deque()
        sizes: deque[int] = deque()
        try:
            if not together:
                _single_threaded(computers, self.workers)
            for group in groups:
                wavs = [readers.submit(self._read, key) for key in group]
                parts = [(list(group), wavs)] if together else [([key], [wav]) for key, wav in zip(group, wavs)]
                pending.append([computers.submit(self._compute, self._prepared, *part) for part in parts if part[0]])
                sizes.append(len(group))
                while sum(sizes) - sizes[0] >= 2 * (READERS + self.workers) or (together and len(sizes) > 2):
                    sizes.popleft()
                    yield [row for future in pending.popleft() for row in future.result()]
            while pending:
                yield [row for future in pending.popleft() for row in future.result()]
        finally:
            # Broken audio or Ctrl-C: what waits in line is neither read nor computed.
            readers.shutdown(wait=False, cancel_futures=True)
            computers.shutdown(cancel_futures=True)
            readers.shutdown()

    def _read(self, key: Key) -> Tensor:
        wav = self.read(key)
        return wav.pin_memory() if self.device.type == "cuda" else wav

    def _compute(
        self, prepared: Prepared, keys: Sequence[Key], wavs: Sequence[Future[Tensor]]
    ) -> list[tuple[Tensor, ...]]:
        return self._extract(prepared, keys, [future.result() for future in wavs])

    @torch.no_grad()
    def _extract(self, prepared: Prepared, keys: Sequence[Key], wavs: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        with enough_memory("lower batch.seconds or batch.size"):
            x, lengths = self.upstream.inputs([wav.to(self.device, non_blocking=True) for wav in wavs])
            with prepared.context():
                features = self.upstream.encode(x, lengths)
            rows = [
                tuple(features.hidden_states[layer][position, :length].float().clone() for layer in self.layers)
                for position, length in enumerate(features.lengths.tolist())
            ]
            # One wait for the device. A NaN here would show itself as a diverged training, far from its cause.
            fine = torch.stack([torch.isfinite(state).all() for row in rows for state in row])
        if not bool(fine.all()):
            name = keys[int((~fine).nonzero()[0]) // len(self.layers)].id
            raise HeadwaterError(
                f"upstream {self.upstream.name!r} gave NaN or infinite features for the utterance {name!r}; "
                "its weights or this audio are broken"
            )
        return rows


def mean_over_time(state: Tensor) -> Tensor:
    """(T, D) -> (1, D). On CPU added up in float64 and in order, so that its bits depend on nothing but the frames."""
    if state.device.type != "cpu":
        return state.mean(0, keepdim=True)
    return torch.from_numpy(state.numpy().mean(0, dtype=np.float64, keepdims=True).astype(np.float32))


def _single_threaded(pool: ThreadPoolExecutor, size: int) -> None:
    """Start the pool's threads, and let each compute alone. Setting torch's number of threads sets the caller's own, and that of threads to come."""
    before, started = torch.get_num_threads(), threading.Barrier(size)

    def begin(_: int) -> None:
        # A thread takes over torch's common number when it is first asked for it: that must not come after its own is set.
        torch.get_num_threads()
        torch.set_num_threads(1)
        started.wait()

    list(pool.map(begin, range(size)))
    torch.set_num_threads(before)
