"""Spoofing-robust speaker verification: target speakers to accept, other speakers and spoofs to reject.

A single score for both jobs: the three equal error rates of SASV 2022, and a-DCF (Shim et al., Odyssey 2024). Two scores, one for each job: t-EER
(Kinnunen et al., IEEE TPAMI 2023). A higher score means more target, more bona fide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headwater.errors import DataError, UsageError
from headwater.metrics.detection import Convention, SortedScores, eer, score_lists

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ADCF_MARGIN = 1e-8  # how far the first threshold lies below the lowest score


@dataclass(frozen=True)
class SasvEers:
    """Equal error rates in [0, 1] of target trials against all others, against other speakers, and against spoofs."""

    sasv: float
    sv: float
    spf: float


def sasv_eers(
    target: ArrayLike, nontarget: ArrayLike, spoof: ArrayLike, convention: Convention = "interpolated"
) -> SasvEers:
    """The rates of SASV 2022. Raises DataError for an empty class or scores that are not finite."""
    accepted, impostors, spoofs = score_lists(target=target, nontarget=nontarget, spoof=spoof)
    return SasvEers(
        eer(accepted, np.concatenate([impostors, spoofs]), convention),
        eer(accepted, impostors, convention),
        eer(accepted, spoofs, convention),
    )


@dataclass(frozen=True)
class AdcfCosts:
    """Priors of the three classes and costs of their errors; by default those of the a-DCF paper."""

    p_target: float = 0.9
    p_nontarget: float = 0.05
    p_spoof: float = 0.05
    c_miss: float = 1.0
    c_nontarget: float = 10.0
    c_spoof: float = 20.0

    def __post_init__(self) -> None:
        priors = self.p_target, self.p_nontarget, self.p_spoof
        if min(priors) < 0 or not np.isclose(sum(priors), 1) or min(self.c_miss, self.c_nontarget, self.c_spoof) < 0:
            raise UsageError(f"An a-DCF needs priors that sum to 1 and costs not below 0, not {self}.")
        if self.scale == 0:
            raise UsageError(
                f"Accepting or rejecting everybody is free under {self}: there is nothing to compare with."
            )

    @property
    def weights(self) -> tuple[float, float, float]:
        """What misses, false alarms of other speakers, and those of spoofs weigh."""
        return self.c_miss * self.p_target, self.c_nontarget * self.p_nontarget, self.c_spoof * self.p_spoof

    @property
    def scale(self) -> float:
        """The cost of the better blind decision."""
        miss, impostors, spoofs = self.weights
        return min(miss, impostors + spoofs)


ASVSPOOF5_ADCF = AdcfCosts(p_target=0.9405, p_nontarget=0.0095, p_spoof=0.05, c_spoof=10.0)


def a_dcf(
    target: ArrayLike, nontarget: ArrayLike, spoof: ArrayLike, costs: AdcfCosts | None = None
) -> tuple[float, float]:
    """The least normalised cost of one score for both jobs, in [0, 1], and the threshold of its first minimum: what is above it is accepted.

    Raises DataError for an empty class or scores that are not finite.
    """
    costs = costs or AdcfCosts()
    scores, miss, impostors, spoofs = _three_classes(target, nontarget, spoof)
    of_miss, of_impostors, of_spoofs = costs.weights
    curve = of_miss * miss + of_impostors * impostors + of_spoofs * spoofs
    k = int(np.argmin(curve))
    thresholds = np.append(scores[0] - ADCF_MARGIN, scores)
    return float(curve[k]) / costs.scale, float(thresholds[k])


@dataclass(frozen=True, eq=False)
class TeerPath:
    """Two systems in a row, at every threshold of the second (the ASV) that is not worse than a coin, with the first (the countermeasure) set so
    that the misses and the false alarms of both together are nearest: P arrays in the order of the ASV's thresholds.

    t_eer: the mean of the two, in [0, 1]. imbalance: how far the place is from being the same for every spoof prevalence. common: the rate there if it were.
    """

    t_eer: Floats
    imbalance: Floats
    common: Floats

    @property
    def minimum(self) -> float:
        """The least t-EER of the path, in [0, 1]; it depends on the spoof prevalence."""
        return float(self.t_eer.min())

    @property
    def concurrent(self) -> float:
        """The t-EER, in [0, 1], where the paths of all spoof prevalences meet."""
        return float(self.common[np.argmin(self.imbalance)])


def t_eer(
    asv: tuple[ArrayLike, ArrayLike, ArrayLike],
    cm: tuple[ArrayLike, ArrayLike, ArrayLike],
    spoof_prevalence: float = 0.5,
) -> TeerPath:
    """The t-EER path of an ASV system and a countermeasure: each three lists of scores, of target, nontarget and spoofed trials.

    Exact and without a matrix of both thresholds: the difference of misses and false alarms only grows with the countermeasure's threshold, so its change of
    sign is found by bisection, for all thresholds of the ASV at once. The concurrent rate is the one at prevalence 0.5.

    Raises DataError for an empty class, scores that are not finite, or an ASV that is no better than a coin at all thresholds.
    """
    if not 0 <= spoof_prevalence <= 1:
        raise UsageError(f"A spoof prevalence is a share in [0, 1], not {spoof_prevalence!r}.")
    _, asv_miss, impostors, spoofs = _three_classes(*asv)
    target, nontarget, attacks = score_lists(target=cm[0], nontarget=cm[1], spoof=cm[2])
    bonafide = np.concatenate([target, nontarget])
    flags = np.arange(len(bonafide) + len(attacks)) < len(bonafide)
    cm_miss, cm_false_alarm = SortedScores.sort(np.concatenate([bonafide, attacks]), flags).rates("asvspoof")
    rho = spoof_prevalence
    allowed = np.flatnonzero(asv_miss < (1 - rho) * impostors + rho * spoofs)
    if not len(allowed):
        raise DataError(
            "The ASV rejects target trials at least as often as others at every threshold: no t-EER exists."
        )
    asv_miss, impostors, spoofs = asv_miss[allowed], impostors[allowed], spoofs[allowed]

    def rates(k: Ints) -> tuple[Floats, Floats]:
        passed = 1 - cm_miss[k]
        return (
            cm_miss[k] + passed * asv_miss,
            (1 - rho) * passed * impostors + rho * cm_false_alarm[k] * spoofs,
        )

    low, high = np.zeros(len(allowed), dtype=np.int64), np.full(len(allowed), len(cm_miss) - 1)
    while (high - low > 1).any():
        middle = (low + high) // 2
        miss, false_alarm = rates(middle)
        past = miss >= false_alarm
        high, low = np.where(past, middle, high), np.where(past, low, middle)
    before, after = rates(low), rates(high)
    nearer = np.abs(before[0] - before[1]) <= np.abs(after[0] - after[1])
    k = np.where(nearer, low, high)
    miss, false_alarm = rates(k)
    with np.errstate(divide="ignore", invalid="ignore"):
        imbalance = np.abs(impostors / spoofs - cm_false_alarm[k] / (1 - cm_miss[k]))
    return TeerPath(
        (miss + false_alarm) / 2, np.where(np.isnan(imbalance), np.inf, imbalance), spoofs * cm_false_alarm[k]
    )


def _three_classes(target: ArrayLike, nontarget: ArrayLike, spoof: ArrayLike) -> tuple[Floats, Floats, Floats, Floats]:
    """Sorted scores (N,), and the miss rate of targets and the false alarm rates of nontargets and spoofs (N + 1,), one point a trial, targets first
    among equal scores."""
    lists = score_lists(target=target, nontarget=nontarget, spoof=spoof)
    scores, kinds = np.concatenate(lists), np.repeat(np.arange(3, dtype=np.int8), [len(part) for part in lists])
    order = np.argsort(scores, kind="stable")
    kinds = kinds[order]
    # As the packages compute it: here the difference is taken on rates, not on counts.
    rejected = [np.append(0.0, np.cumsum(kinds == kind) / len(part)) for kind, part in enumerate(lists)]
    return scores[order], rejected[0], 1 - rejected[1], 1 - rejected[2]
