"""Verification trials: from embeddings to numbers with intervals, against the loops that one would write first.

    OMP_WAIT_POLICY=PASSIVE python bench/trials.py [--trials 3500000] [--embeddings 5000] [--speakers 1200]

Embeddings are synthetic. Each rival does the same work on the first --subset trials, its answers are compared with ours, and its time is
multiplied up to all of them:

- scores: a Python loop with one product of two vectors a trial;
- rates: a Python loop over all thresholds in the order of scores, counting what each rejects (EER and two costs);
- intervals: 1000 times the sort of a resample of the trials and its curve by numpy, as a bootstrap is written out; 3 resamples are timed;
- scores file: a dictionary a trial through json, and the whole file joined before it is written.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import torch
from headwater.downstream.speaker.verification import TrialAccumulator

from headwater.data.corpus import Utterance
from headwater.data.trials import Trials
from headwater.metrics import Eer, MinDcf, SortedScores, det_curve
from headwater.metrics.bootstrap import RESAMPLES
from headwater.metrics.detection import eer_of_rates, min_dcf_of_rates
from headwater.results.files import write_rows
from headwater.results.table import read_scores
from headwater.speed.machine import limits

PRIORS = (0.01, 0.05)
DIM = 192
Answer = TypeVar("Answer")


def synthetic(trials: int, embeddings: int, speakers: int) -> tuple[Trials, np.ndarray]:
    """Half of the trials of one speaker, half of two."""
    generator = np.random.default_rng(0)
    people = np.sort(generator.integers(speakers, size=embeddings))
    starts = np.searchsorted(people, np.arange(speakers + 1))
    enrol, test = generator.integers(embeddings, size=(2, trials))
    same = np.arange(trials) % 2 == 0
    own = people[enrol[same]]
    test[same] = starts[own] + generator.integers(1 << 30, size=len(own)) % (starts[own + 1] - starts[own])
    utterances = tuple(
        Utterance(f"id{10000 + who}/video/{number:05d}", Path("a.wav"), speaker=f"id{10000 + who}")
        for number, who in enumerate(people.tolist())
    )
    labels = (people[enrol] == people[test]).astype(np.uint8)
    voices = generator.normal(size=(speakers, DIM))[people] + 2.5 * generator.normal(size=(embeddings, DIM))
    return Trials(labels, enrol.astype(np.int32), test.astype(np.int32), utterances), voices


def timed(function: Callable[[], Answer]) -> tuple[Answer, float]:
    started = time.perf_counter()
    return function(), time.perf_counter() - started


def loop_scores(table: np.ndarray, trials: Trials, size: int) -> list[float]:
    scores = []
    for one, two in zip(trials.enrol[:size].tolist(), trials.test[:size].tolist(), strict=True):
        a, b = table[one], table[two]
        scores.append(float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
    return scores


def loop_rates(scores: list[float], labels: list[int]) -> list[float]:
    """EER and the costs of `PRIORS`, a threshold at a time."""
    positives = sum(labels)
    negatives, missed, rejected = len(labels) - positives, 0, 0
    rate, costs = None, [1.0 for _ in PRIORS]
    before = 0.0, 1.0
    for _, label in sorted(zip(scores, labels, strict=True)):
        missed, rejected = missed + label, rejected + 1 - label
        miss, false_alarm = missed / positives, (negatives - rejected) / negatives
        for number, prior in enumerate(PRIORS):
            costs[number] = min(costs[number], (prior * miss + (1 - prior) * false_alarm) / min(prior, 1 - prior))
        if rate is None and miss >= false_alarm:
            low, high = before[1] - before[0], miss - false_alarm
            rate = before[0] + low / (low + high) * (miss - before[0])
        before = miss, false_alarm
    assert rate is not None
    return [rate, *costs]


def loop_resamples(rows: Any, times: int) -> None:
    """Resamples of trials by speaker, each with a curve of its own."""
    first, second, clusters = rows.clusters()
    generator = np.random.default_rng(0)
    for _ in range(times):
        drawn = np.bincount(generator.integers(clusters, size=clusters), minlength=clusters)
        weights = drawn[first] * np.where(first == second, 1, drawn[second])
        kinds = [np.repeat(rows.scores[rows.targets == kind], weights[rows.targets == kind]) for kind in (1, 0)]
        curve = det_curve(*kinds)
        curve.eer(), *(curve.min_dcf(prior) for prior in PRIORS)


def json_lines(rows: list[dict[str, Any]], file: Path) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rates_of(scores: np.ndarray, targets: np.ndarray) -> list[float]:
    rates = SortedScores.sort(scores, targets == 1).rates()
    return [
        float(eer_of_rates(*rates, "interpolated")),
        *(float(min_dcf_of_rates(*rates, prior, 1.0, 1.0)) for prior in PRIORS),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=3_500_000)
    parser.add_argument("--embeddings", type=int, default=5000)
    parser.add_argument("--speakers", type=int, default=1200)
    parser.add_argument("--subset", type=int, default=100_000)
    given = parser.parse_args()
    subset = min(given.subset, given.trials)
    trials, table = synthetic(given.trials, given.embeddings, given.speakers)
    measures = (Eer(), *(MinDcf(f"min_dcf_{prior}", prior) for prior in PRIORS))
    accumulator = TrialAccumulator(measures, trials)
    batch = SimpleNamespace(ids=[utterance.id for utterance in trials.utterances])
    accumulator.add((None, torch.from_numpy(table)), batch)  # type: ignore[arg-type]
    machine = limits(torch.get_num_threads())
    print(
        f"{machine}; {given.trials} trials over {given.embeddings} embeddings of {DIM} dims, {given.speakers} speakers"
    )
    rows, scoring = timed(accumulator.rows)
    found, rating = timed(lambda: rates_of(rows.scores, rows.targets))
    metrics, resampling = timed(accumulator.result)
    assert np.allclose(found, [metrics["eer"].value / 100, *(metrics[f"min_dcf_{prior}"].value for prior in PRIORS)])
    more = given.trials / subset
    theirs, loop_scoring = timed(lambda: loop_scores(table, trials, subset))
    ours = TrialAccumulator(
        measures, Trials(trials.labels[:subset], trials.enrol[:subset], trials.test[:subset], trials.utterances)
    )
    ours.merge(accumulator.state())
    assert np.allclose(np.sort(theirs), np.sort(ours.rows().scores))
    labels = trials.labels[:subset].tolist()
    answers, loop_rating = timed(lambda: loop_rates(theirs, labels))
    assert np.allclose(answers, rates_of(np.array(theirs), trials.labels[:subset]))
    _, loop_resampling = timed(lambda: loop_resamples(rows, 3))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _, writing = timed(lambda: write_rows(place / "scores" / "test.jsonl", rows))
        read, reading = timed(lambda: read_scores(place, "test"))
        assert np.array_equal(read.scores, rows.scores)  # type: ignore[attr-defined]
        few = rows[:subset]
        _, loop_writing = timed(lambda: json_lines(few, place / "rival.jsonl"))
    for what, seconds, rival in (
        ("scores", scoring, more * loop_scoring),
        ("EER and two costs", rating, more * loop_rating),
        ("with 1000 resamples", resampling, loop_resampling * RESAMPLES / 3),
        ("scores file", writing, more * loop_writing),
    ):
        print(f"{what:<20} {seconds:8.2f} s, the loop {rival:9.1f} s: ratio {rival / seconds:.1f}")
    print(f"{'reading it back':<20} {reading:8.2f} s")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
