"""Distances of single utterances that take long: through WORLD, PESQ, STOI. Of a large test they are computed by several processes."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import torch

from headwater.metrics.extras import Extra, computed
from headwater.separation.quality import ESTOI, PESQ_WB, STOI
from headwater.vocoder.distances import world_distances
from headwater.vocoder.tracks import kept_track
from headwater.vocoder.world import INSTALL

RATE = 16000
Samples = np.ndarray[Any, np.dtype[np.float32]]
Distances = dict[str, float | None]
# Below so much sound, new processes would take longer to start than the work takes here.
_ALONE_SECONDS = 60.0
_AHEAD = 8  # utterances that wait, for each process


def distances(original: Samples, copy: Samples) -> Distances:
    """By column, None where a distance is not defined. Columns of missing packages are left out."""
    return computed(EXTRAS, original, copy, RATE)


def defined(value: float) -> float | None:
    """NaN, which stands for what is not defined, as null."""
    return None if math.isnan(value) else value


def _through_world(original: Samples, copy: Samples, rate: int) -> Distances:
    found = world_distances(torch.from_numpy(original), torch.from_numpy(copy), rate, find=kept_track)
    return {
        "mcd": defined(found.mcd),
        "mcd_dtw": defined(found.mcd_dtw),
        "f0_rmse": defined(found.f0.rmse_cents),
        "f0_correlation": defined(found.f0.correlation),
        "vuv_error": defined(100 * found.f0.vuv_error),
    }


THROUGH_WORLD = Extra("pyworld", INSTALL, ("mcd", "mcd_dtw", "f0_rmse", "f0_correlation", "vuv_error"), _through_world)
EXTRAS = (THROUGH_WORLD, PESQ_WB, STOI, ESTOI)


class Crew:
    """Distances of many utterances: here, or by as many processes as there are processors once there is much to do.

    Values do not depend on who computed them, and no more sound is held than is being worked on.
    """

    def __init__(self) -> None:
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._waiting: dict[str, tuple[Samples, Samples]] = {}
        self._futures: dict[str, Future[Distances]] = {}
        self._found: dict[str, Distances] = {}
        self._pool: ProcessPoolExecutor | None = None
        self._seconds = 0.0

    def add(self, name: str, original: Samples, copy: Samples) -> None:
        """Take in an utterance: two waveforms (samples,) float32."""
        self._waiting[name] = original, copy
        self._seconds += len(original) / RATE
        if self._seconds <= _ALONE_SECONDS:
            return
        workers = _processors()
        if workers > 1 and self._pool is None:
            # New interpreters, as a fork of one that runs threads may hang.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(workers, context, _begin)
        if self._pool is not None:
            for each in self._waiting.keys() - self._futures.keys():
                self._futures[each] = self._pool.submit(distances, *self._waiting[each])
        while len(self._waiting) > (workers * _AHEAD if workers > 1 else 0):
            self._settle(next(iter(self._waiting)))

    def take(self) -> dict[str, Distances]:
        """All distances since the last time, by name."""
        try:
            for name in list(self._waiting):
                self._settle(name)
            return self._found
        finally:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)
            self._begin_anew()

    def _settle(self, name: str) -> None:
        pair = self._waiting.pop(name)
        self._found[name] = _result(self._futures.pop(name, None), *pair)


def _result(future: Future[Distances] | None, original: Samples, copy: Samples) -> Distances:
    if future is not None:
        try:
            return future.result()
        except BrokenProcessPool:
            # A worker was killed, or cannot be started from where this program came (a pipe).
            pass
    return distances(original, copy)


def _processors() -> int:
    """Those that this process may use, shared with the others of its run."""
    known = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, known // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _begin() -> None:
    """The first thing that happens in a worker's process."""
    torch.set_num_threads(1)
    # Ctrl-C reaches all processes of a terminal: the first one says what is to be said.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    """Whoever waits for work of a process that was killed waits for ever."""
    parent.join()
    os._exit(1)
