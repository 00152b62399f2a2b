"""Error rates of many resamples of the same trials, exactly, without the curve of each.

Trials in the order of their scores are cut into blocks. What every resample weighs in every block is a product of sparse and dense matrices; it
gives every curve at the blocks' ends. The equal error rate then lies in one known block, and the least cost in those that could undercut the best
end: only there the curve is followed trial by trial.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from headwater.metrics.detection import Convention, SortedScores, check_costs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BLOCK = 4096  # trials
SMALL_BLOCK = 1024  # of trials of one side, whose blocks cost next to nothing
HELD = 1 << 22  # numbers that a product makes at once
EXACT = 1 << 24  # whole numbers that float32 holds


class Resampled:
    """The trials of a table with the clusters of both sides.

    A trial of clusters i and j weighs m_i m_j in a resample that drew them m_i and m_j times, and one of a single cluster m_i.

    Parameters
    ----------
    trials: N of them, sorted. first, second: (N,) clusters in the same order. clusters: how many there are.
    convention: "interpolated" (equal scores move together) or "asvspoof" (each trial is a point), as in `SortedScores.rates`.
    edges: where blocks end, in trials, 0 and N among them; where it is best for the speed by default.
    """

    def __init__(
        self,
        trials: SortedScores,
        first: Ints,
        second: Ints,
        clusters: int,
        convention: Convention = "interpolated",
        edges: Ints | None = None,
    ) -> None:
        self.convention, self.positive = convention, trials.positive
        self.first, self.second = first, np.where(first == second, clusters, second)
        self.one_sided = bool(np.array_equal(first, second))
        size = len(trials.scores)
        block = max(SMALL_BLOCK, min(BLOCK, size // SMALL_BLOCK)) if self.one_sided else BLOCK
        ends = trials.ends if convention == "interpolated" else slice(None)
        self.points = np.arange(1, size + 1) if isinstance(ends, slice) else ends + 1
        # Blocks end at points of the curve: each holds few trials, or is one group of equal scores.
        near = np.searchsorted(self.points, np.arange(block, size, block))
        if edges is None:
            edges = np.unique(np.concatenate([[0, size], self.points[near], self.points[np.maximum(near - 1, 0)]]))
        self.edges: Ints = edges
        self._products = [self._product(np.flatnonzero(self.positive)), self._product(np.flatnonzero(~self.positive))]
        self._last: tuple[Ints, _Curves] | None = None

    def _product(self, chosen: Ints) -> tuple[Ints, Ints, Ints, Ints]:
        """What a class weighs: rows by (block, first cluster) with their columns, as `second[start[row]:start[row + 1]]`, and where each block's rows start."""
        block = np.searchsorted(self.edges, chosen, side="right") - 1
        order = np.lexsort((self.first[chosen], block))
        chosen, block = chosen[order], block[order]
        first = self.first[chosen]
        new = (
            np.append(True, (first[1:] != first[:-1]) | (block[1:] != block[:-1])) if len(chosen) else np.zeros(0, bool)
        )
        starts = np.flatnonzero(new)
        rows = np.searchsorted(block[starts], np.arange(len(self.edges)))
        return first[starts], np.append(starts, len(chosen)), self.second[chosen].astype(np.int32), rows

    def curves(self, drawn: Ints) -> _Curves:
        """What multiplicities (R, S) make of the trials; asked again of the same array, as several measures do, it is not computed again."""
        if self._last is None or self._last[0] is not drawn:
            self._last = drawn, _Curves(self, drawn)
        return self._last[1]

    def sums(self, weights: NDArray[np.floating], positive: bool) -> Floats:
        """What a class weighs in each block, (blocks, R), of weights (S + 1, R) of clusters."""
        from scipy.sparse import csr_array

        first, starts, second, rows = self._products[0 if positive else 1]
        if self.one_sided:
            counts = np.diff(starts).astype(weights.dtype)
            product = csr_array((counts, first, rows), shape=(len(self.edges) - 1, len(weights))) @ weights
            return np.asarray(product, dtype=np.float64)
        sums = np.zeros((len(self.edges) - 1, weights.shape[1]))
        step = max(1, HELD // weights.shape[1])
        low = 0
        while low < len(sums):
            # As many blocks as fit, at least one.
            high = max(low + 1, int(np.searchsorted(rows, rows[low] + step, side="right")) - 1)
            row, last = rows[low], rows[high]
            if last > row:
                part = slice(starts[row], starts[last])
                ones = np.ones(part.stop - part.start, dtype=weights.dtype)
                shape = (last - row, len(weights))
                product = csr_array((ones, second[part], starts[row : last + 1] - starts[row]), shape=shape) @ weights
                product *= weights[first[row:last]]
                there = np.flatnonzero(np.diff(rows[low : high + 1])) + low
                sums[there] = np.add.reduceat(product, rows[there] - row, axis=0)
            low = high
        return sums


class _Curves:
    """The curves of R resamples at the ends of blocks, and between them where somebody asks."""

    def __init__(self, trials: Resampled, drawn: Ints) -> None:
        self.trials = trials
        largest = int(drawn.max(initial=1)) ** 2 * int(np.diff(trials.edges).max())
        kind = np.float32 if largest < EXACT else np.float64
        self.weights = np.ones((drawn.shape[1] + 1, len(drawn)), dtype=kind)
        self.weights[:-1] = drawn.T
        self.counts = [
            np.concatenate([np.zeros((1, len(drawn))), np.cumsum(trials.sums(self.weights, positive), axis=0)])
            for positive in (True, False)
        ]
        self.totals = [counts[-1] for counts in self.counts]
        self.miss, self.false_alarm = self._rates(self.counts[0], self.counts[1], np.arange(len(drawn)))

    def _rates(self, positives: Floats, negatives: Floats, which: Ints) -> tuple[Floats, Floats]:
        with np.errstate(invalid="ignore", divide="ignore"):
            # The difference is taken on whole numbers: 1 - negatives / total breaks exact ties of the two rates.
            return (
                positives / self.totals[0][which],
                (self.totals[1][which] - negatives) / self.totals[1][which],
            )

    def within(self, block: int, which: Ints) -> Iterator[tuple[Floats, Floats, Ints]]:
        """Miss and false alarm (K, r) at the points of a block after its start, of the resamples `which`, some of them at a time."""
        trials = self.trials
        low, high = trials.edges[block], trials.edges[block + 1]
        inside = trials.points[
            np.searchsorted(trials.points, low, "right") : np.searchsorted(trials.points, high, "right")
        ]
        if len(inside) == 1:  # one group of equal scores
            yield self.miss[block + 1 : block + 2, which], self.false_alarm[block + 1 : block + 2, which], which
            return
        part, positive = slice(low, high), trials.positive[low:high, None]
        step = max(1, HELD // (high - low))
        for start in range(0, len(which), step):
            some = which[start : start + step]
            each = self.weights[trials.first[part, None], some]
            if not trials.one_sided:
                each *= self.weights[trials.second[part, None], some]
            all_of_them = np.cumsum(each, axis=0, dtype=np.float64)[inside - low - 1]
            accepted = np.cumsum(each * positive, axis=0, dtype=np.float64)[inside - low - 1]
            rates = self._rates(
                self.counts[0][block, some] + accepted, self.counts[1][block, some] + (all_of_them - accepted), some
            )
            yield *rates, some

    def eer(self) -> Floats:
        """Equal error rates (R,) in [0, 1]; NaN where a class is empty."""
        found = np.full(self.miss.shape[1], np.nan)
        defined = np.flatnonzero((self.totals[0] > 0) & (self.totals[1] > 0))
        blocks = np.argmax(self.miss[:, defined] >= self.false_alarm[:, defined], axis=0) - 1
        for block in np.unique(blocks).tolist():
            for miss, false_alarm, some in self.within(block, defined[blocks == block]):
                miss = np.concatenate([self.miss[block, some][None], miss])
                false_alarm = np.concatenate([self.false_alarm[block, some][None], false_alarm])
                after = np.argmax(miss >= false_alarm, axis=0)
                column = np.arange(len(some))
                (m0, f0), (m1, f1) = ((miss[k, column], false_alarm[k, column]) for k in (after - 1, after))
                if self.trials.convention == "asvspoof":
                    found[some] = np.where(f0 - m0 <= m1 - f1, m0 + f0, m1 + f1) / 2
                else:
                    found[some] = m0 + (f0 - m0) / ((f0 - m0) + (m1 - f1)) * (m1 - m0)
        return found

    def min_dcf(self, p_target: float, c_miss: float, c_fa: float) -> Floats:
        """Normalised minimum detection costs (R,); NaN where a class is empty."""
        check_costs(p_target, c_miss, c_fa)
        scale = min(c_miss * p_target, c_fa * (1 - p_target))
        return self.min_cost(c_miss * p_target / scale, c_fa * (1 - p_target) / scale)

    def min_cost(self, of_miss: float, of_false_alarm: float) -> Floats:
        """The least `of_miss` miss + `of_false_alarm` false alarm of each resample (R,), neither weight below 0; NaN where a class is empty."""
        best: Floats = (of_miss * self.miss + of_false_alarm * self.false_alarm).min(axis=0)
        # Within a block misses only grow and false alarms only fall.
        least = of_miss * self.miss[:-1] + of_false_alarm * self.false_alarm[1:]
        while True:
            # The most promising block of each resample first: what it gives rules out most of the others.
            blocks = np.argmin(least, axis=0)
            open_ones = np.flatnonzero(least[blocks, np.arange(len(best))] < best)
            if not len(open_ones):
                return best
            for block in np.unique(blocks[open_ones]).tolist():
                for miss, false_alarm, some in self.within(block, open_ones[blocks[open_ones] == block]):
                    costs = (of_miss * miss + of_false_alarm * false_alarm).min(axis=0)
                    best[some] = np.minimum(best[some], costs)
                    least[block, some] = np.inf
