"""The tandem detection cost: what a countermeasure is worth in front of a speaker verification system (ASV).

Two versions are in use: "legacy" of ASVspoof 2019 (Kinnunen et al., Odyssey 2018), and "ASV-constrained" of ASVspoof 2021 (Kinnunen et al.,
IEEE/ACM TASLP 2020). In both the ASV is given: three error rates at its own threshold. Positives are bona fide speech.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from headwater.errors import DataError, UsageError
from headwater.metrics.detection import DetCurve, det_curve, score_lists

Year = Literal[2019, 2021]

# Priors and costs of both evaluation plans.
P_SPOOF = 0.05
P_TARGET = (1 - P_SPOOF) * 0.99
P_NONTARGET = (1 - P_SPOOF) * 0.01
C_MISS, C_FALSE_ALARM, C_SPOOF = 1.0, 10.0, 10.0

SOFT = 3  # distinct scores from which on a countermeasure gives scores and not decisions


@dataclass(frozen=True)
class AsvRates:
    """The errors of an ASV system at one threshold, as shares in [0, 1].

    miss: of target trials, rejected. false_alarm: of bona fide impostors, accepted. spoof: of spoofed trials, accepted; None where there were none.
    """

    miss: float
    false_alarm: float
    spoof: float | None

    def __post_init__(self) -> None:
        for name in ("miss", "false_alarm", "spoof"):
            rate = getattr(self, name)
            if not (rate is None and name == "spoof") and not 0 <= rate <= 1:
                raise UsageError(f"The {name} rate of an ASV system is a share in [0, 1], not {rate!r}.")

    @classmethod
    def of_scores(cls, target: ArrayLike, nontarget: ArrayLike, spoof: ArrayLike, threshold: float) -> AsvRates:
        """The rates when scores >= `threshold` are accepted. Raises DataError for no target or nontarget, or scores not finite."""
        accepted, impostors = score_lists(target=target, nontarget=nontarget)
        spoofs = np.asarray(spoof, dtype=np.float64)
        attacked = float(np.mean(score_lists(spoof=spoofs)[0] >= threshold)) if len(spoofs) else None
        return cls(float(np.mean(accepted < threshold)), float(np.mean(impostors >= threshold)), attacked)


# The ASV that ASVspoof 5 gives to those of its track 2 who bring none.
ASVSPOOF5_ASV = AsvRates(miss=0.01880141010575793, false_alarm=0.01881016557566423, spoof=0.4607082907604729)


def asv_threshold(target: ArrayLike, nontarget: ArrayLike) -> float:
    """Where the evaluation plans put the ASV: at its equal error rate on bona fide trials, by the convention "asvspoof"."""
    return det_curve(target, nontarget, "asvspoof").eer_threshold()


def asv_rates(target: ArrayLike, nontarget: ArrayLike, spoof: ArrayLike) -> AsvRates:
    """The rates of an ASV system of three lists of scores, at `asv_threshold`.

    They are counted by comparison, as the evaluation packages do: on the score at the threshold itself they differ by a trial from the curve.
    """
    return AsvRates.of_scores(target, nontarget, spoof, asv_threshold(target, nontarget))


@dataclass(frozen=True)
class TandemCosts:
    """t-DCF = (fixed + of_miss P_miss + of_false_alarm P_fa) / scale, with the rates of the countermeasure: C0, C1 and C2 of the papers."""

    fixed: float
    of_miss: float
    of_false_alarm: float

    @property
    def scale(self) -> float:
        """The cost of the better of no countermeasure and one that rejects all."""
        return self.fixed + min(self.of_miss, self.of_false_alarm)

    @property
    def floor(self) -> float:
        """The normalised cost of a flawless countermeasure."""
        return self.fixed / self.scale


def tandem_costs(asv: AsvRates, year: Year) -> TandemCosts:
    """The weights of a countermeasure's errors behind the given ASV.

    Raises DataError where the cost is not defined: no spoofed ASV trials, an ASV so poor that rejecting everybody is cheaper than any use of
    it (C1 < 0), or one that lets no spoof through where there is then nothing to win (the normaliser is 0).
    """
    check_year(year)
    if asv.spoof is None:
        raise DataError("The ASV scores hold no spoofed trial, so the t-DCF of a countermeasure is not defined.")
    asv_cost = P_TARGET * C_MISS * asv.miss + P_NONTARGET * C_FALSE_ALARM * asv.false_alarm
    of_miss = P_TARGET * C_MISS - asv_cost
    if of_miss < 0:
        raise DataError(
            f"The t-DCF is not defined behind this ASV (miss {asv.miss:.4f}, false alarm {asv.false_alarm:.4f}): its errors cost more than rejecting "
            "everybody (C1 < 0); are its scores higher for the same speaker?"
        )
    costs = TandemCosts(asv_cost if year == 2021 else 0.0, of_miss, P_SPOOF * C_SPOOF * asv.spoof)
    if costs.scale == 0:
        raise DataError(
            f"The t-DCF ({year}) is not defined behind this ASV: it lets no spoof through, so a countermeasure has nothing to do (C2 = 0)."
        )
    return costs


def min_tdcf(bonafide: ArrayLike, spoof: ArrayLike, asv: AsvRates, year: Year = 2021) -> float:
    """The least normalised t-DCF over all thresholds of a countermeasure, from `TandemCosts.floor` to 1.

    Raises DataError for an empty class, scores not finite, decisions in the place of scores (fewer than three distinct values), and as
    `tandem_costs` does.
    """
    return tandem_point(det_curve(bonafide, spoof, "asvspoof"), asv, year)[0]


def tandem_point(curve: DetCurve, asv: AsvRates, year: Year = 2021) -> tuple[float, float]:
    """The least normalised t-DCF of a countermeasure's curve, and the threshold of its first minimum. Raises DataError as `min_tdcf` does."""
    check_soft(curve.distinct)
    costs = tandem_costs(asv, year)
    cost, threshold = curve.cheapest(costs.of_miss / costs.scale, costs.of_false_alarm / costs.scale)
    return costs.floor + cost, threshold


def check_soft(distinct: int) -> None:
    """Raises DataError for a countermeasure of fewer than three distinct scores, which decides where it should score."""
    if distinct < SOFT:
        raise DataError(
            f"The countermeasure gives {distinct} distinct score{'s' * (distinct != 1)}; the t-DCF needs scores, not decisions."
        )


def check_year(year: int) -> None:
    """Raises UsageError for a year without a version of the t-DCF of its own."""
    if year not in get_args(Year):
        raise UsageError(f"There is no t-DCF of {year}; use one of {', '.join(map(str, get_args(Year)))}.")
