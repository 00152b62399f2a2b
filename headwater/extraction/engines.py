"""Where parts are computed: in this process, in several of this machine, or by the actors of a Ray cluster. The function is the same, and so are the bytes."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from headwater.errors import HeadwaterError, UsageError
from headwater.extraction.work import Done, Job, Part, Worker
from headwater.nn.upstream import Upstream

KILLED = "a worker ended before its work was done, most likely for want of memory; what is finished stays: the same command goes on from there"
# What a process elsewhere must be told of this one's surroundings.
_SURROUNDINGS = ("HEADWATER_CACHE", "HEADWATER_STORE", "HEADWATER_OFFLINE", "PYTHONPATH")


def here(job: Job, parts: Sequence[Part], upstream: Upstream) -> Iterator[Done]:
    """One after the other; each part's utterances on as many threads as torch has."""
    if parts:
        yield from map(Worker(job, upstream), parts)


def processes(job: Job, parts: Sequence[Part], workers: int) -> Iterator[Done]:
    """In local processes of one thread each, as they are finished.

    Raises `HeadwaterError` where one was killed, and what a worker raises.
    """
    # A new interpreter each, as a fork of one that runs threads may hang; OpenMP asks the environment when it is loaded.
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(parts)), context, _begin, (job, context.Value("i", 0)))
    try:
        for future in as_completed([pool.submit(_do, part) for part in parts]):
            yield future.result()
    except BrokenProcessPool:
        raise HeadwaterError(KILLED) from None
    finally:
        pool.shutdown(cancel_futures=True)
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


_job: Job | None = None
_worker: Worker | None = None


def _begin(job: Job, started: Any) -> None:
    """The first thing that happens in a worker's process."""
    global _job
    import torch

    _job = job
    torch.set_num_threads(1)
    with started.get_lock():
        number, started.value = started.value, started.value + 1
    # Processes share the accelerators of this machine, unless somebody dealt them already.
    if "LOCAL_RANK" not in os.environ and torch.cuda.is_available():
        os.environ["LOCAL_RANK"] = str(number % torch.cuda.device_count())
    # Ctrl-C reaches all processes of a terminal: the first one says what is to be said.
    signal.signal(signal.SIGINT, lambda *_: os._exit(1))
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    """Whoever waits for work of a process that was killed waits for ever."""
    parent.join()
    os._exit(1)


def _do(part: Part) -> Done:
    global _worker
    assert _job is not None
    if _worker is None:  # not before: what goes wrong in the beginning of a process cannot be told
        _worker = Worker(_job)
    return _worker(part)


def ray_cluster() -> Any:
    """The module `ray`, connected to the cluster that RAY_ADDRESS names, or to one of this machine alone.

    Raises `UsageError` where Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--engine ray needs Ray: pip install 'headwater[ray]'; --workers N needs nothing")
    import ray

    if not ray.is_initialized():
        try:
            # Workers find this code as this process does.
            surroundings = {name: value for name in _SURROUNDINGS if (value := os.environ.get(name))}
            ray.init(
                runtime_env={"env_vars": {**surroundings, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}},
                log_to_driver=False,
                logging_level="ERROR",
                include_dashboard=False if os.environ.get("RAY_ADDRESS") is None else None,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise HeadwaterError(f"--engine ray: the cluster cannot be reached ({error})") from None
    return ray


def on_ray(ray: Any, job: Job, parts: Sequence[Part], workers: int | None) -> Iterator[Done]:
    """On a cluster's actors, one processor each (or one accelerator, where the job asks for it): as many as it has, when `workers` does not say."""
    kind = "GPU" if job.device.startswith("cuda") else "CPU"
    there = int(ray.cluster_resources().get(kind, 0))
    if there < 1:
        raise UsageError(f"--engine ray: the cluster has no {kind}")
    count = min(workers or there, there, len(parts))
    needs = {"num_cpus": 1, "num_gpus": 1} if kind == "GPU" else {"num_cpus": 1}
    actors = [ray.remote(**needs)(Actor).remote(job) for _ in range(count)]
    waiting = list(reversed(parts))
    running = {actor.do.remote(waiting.pop()): actor for actor in actors}
    try:
        while running:
            ready, _ = ray.wait(list(running), num_returns=1)
            actor = running.pop(ready[0])
            yield ray.get(ready[0])
            if waiting:
                running[actor.do.remote(waiting.pop())] = actor
    except ray.exceptions.RayTaskError as error:
        # Ray shows the traceback of the other side; people are told what an error of ours says.
        raise (error.cause if isinstance(error.cause, HeadwaterError) else error) from None
    except ray.exceptions.RayActorError:
        raise HeadwaterError(KILLED) from None
    finally:
        for actor in actors:
            ray.kill(actor)


class Actor:
    """A worker on a cluster."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.worker: Worker | None = None

    def do(self, part: Part) -> Done:
        import torch

        torch.set_num_threads(1)
        self.worker = self.worker or Worker(self.job)
        return self.worker(part)
