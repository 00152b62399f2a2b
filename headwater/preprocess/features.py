"""From audio to a folder of features, in as many processes as there are cores."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from headwater.data.corpus import Utterance, check_unique
from headwater.errors import DataError, HeadwaterError
from headwater.preprocess.acoustic import SAMPLE_RATE, Acoustic
from headwater.preprocess.folder import FeatureFolder, Made, write_array
from headwater.progress import progress

_WORTH = 64  # utterances that are worth the start of a process
_AHEAD = 8  # utterances handed to a process at a time
_SHOWN = 5


@dataclass(frozen=True)
class Job:
    """One utterance and the file its features go to. resample, channel: as in `headwater.audio.read`."""

    utterance: Utterance
    file: Path
    acoustic: Acoustic
    resample: bool
    channel: str | int

    def run(self) -> int | str:
        """The number of frames written, or what is wrong with the utterance."""
        from headwater.audio import read

        utterance = self.utterance
        try:
            wav = read(
                utterance.path,
                start=utterance.start,
                end=utterance.end,
                sample_rate=SAMPLE_RATE,
                resample=self.resample,
                channel=self.channel,  # type: ignore[arg-type]
            )
            features = self.acoustic(wav.numpy())
        except DataError as error:
            return str(error) if str(utterance.path) in str(error) else f"{utterance.path}: {error}"
        write_array(self.file, features)
        return len(features)


@dataclass(frozen=True)
class Outcome:
    """How many utterances were made, how many were there already, and what is wrong with those that were left out."""

    made: int
    there: int
    left_out: tuple[str, ...]


def preprocess(
    chosen: Sequence[tuple[Utterance, str]],
    acoustic: Acoustic,
    folder: FeatureFolder,
    *,
    num_processes: int,
    resample: bool = False,
    channel: str | int = "single",
    skip_bad: bool = False,
) -> Outcome:
    """Make the features of all utterances that are not done, and finish the folder.

    Raises
    ------
    DataError: files that cannot be used; the first five are named, and what could be made stays. With `skip_bad` they are left out.
    """
    check_unique([utterance for utterance, _ in chosen], [str(one.path) for one, _ in chosen], "rename one of the two")
    folder.begin()
    made, jobs, groups = [], [], []
    for utterance, group in chosen:
        frames = folder.frames(group, utterance.id, utterance.path)
        if frames is None:
            jobs.append(Job(utterance, folder.file(group, utterance.id), acoustic, resample, channel))
            groups.append(group)
        else:
            made.append(Made(utterance, group, frames))
    there, faults = len(made), []
    answers = progress(in_processes(jobs, num_processes), total=len(jobs), what="features", unit="utterance")
    for job, group, answer in zip(jobs, groups, answers, strict=True):
        if isinstance(answer, str):
            faults.append(answer)
        else:
            made.append(Made(job.utterance, group, answer))
    if faults and (not skip_bad or not made):
        shown = "".join(f"\n  {fault}" for fault in faults[:_SHOWN])
        more = f"\n  and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise DataError(
            f"{len(faults)} of {len(chosen)} utterances cannot be used:{shown}{more}\nmend or remove them, or leave them out with --skip_bad_audio"
        )
    folder.finish(made)
    return Outcome(len(made) - there, there, tuple(faults))


def in_processes(jobs: Sequence[Job], num_processes: int) -> Iterator[int | str]:
    """The answers of all jobs, in their order."""
    count = min(num_processes, -(-len(jobs) // _WORTH))
    if count <= 1:
        yield from map(Job.run, jobs)
        return
    # Each process has a core to itself; a new interpreter each, as a fork of one that runs threads may hang.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield from pool.map(Job.run, jobs, chunksize=_AHEAD)
    except BrokenProcessPool:
        raise HeadwaterError(
            "a process ended before its work was done, most likely for want of memory; lower --n_jobs, and the same command goes on"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
