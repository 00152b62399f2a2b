"""Scores that claim to be log-likelihood ratios: what they cost when they are believed.

A score is the natural logarithm of how many times likelier a trial is under the positive class. Then the best threshold follows from prior
and costs alone, and need not be looked for in the data (Bruemmer and du Preez 2006, "Application-independent evaluation of speaker detection").
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headwater.metrics.detection import check_costs, score_lists

Floats = NDArray[np.float64]


def bayes_threshold(p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
    """The log-likelihood ratio from which on accepting costs less: -ln(c_miss p / (c_fa (1 - p)))."""
    check_costs(p_target, c_miss, c_fa)
    return -math.log(c_miss * p_target / (c_fa * (1 - p_target)))


def dcf_of_rates(
    miss: Floats | float, false_alarm: Floats | float, p_target: float, c_miss: float, c_fa: float
) -> Floats:
    """Detection costs of single operating points, over that of the better blind decision; any shape."""
    of_miss, of_false_alarm = c_miss * p_target, c_fa * (1 - p_target)
    return np.asarray((of_miss * miss + of_false_alarm * false_alarm) / min(of_miss, of_false_alarm))


def act_dcf(
    positives: ArrayLike, negatives: ArrayLike, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    """The actual detection cost: that of accepting scores >= `bayes_threshold`, normalised as `min_dcf` is. It can exceed 1.

    Raises DataError for an empty class or scores that are not finite.
    """
    threshold = bayes_threshold(p_target, c_miss, c_fa)
    accepted, rejected = score_lists(positive=positives, negative=negatives)
    rates = float(np.mean(accepted < threshold)), float(np.mean(rejected >= threshold))
    return float(dcf_of_rates(*rates, p_target, c_miss, c_fa))


def cllr(positives: ArrayLike, negatives: ArrayLike) -> float:
    """The cost of log-likelihood ratios in bits: 0 is perfect, 1 what scores of 0 have, more is misleading.

    Raises DataError as `act_dcf` does.
    """
    accepted, rejected = score_lists(positive=positives, negative=negatives)
    return float(bits(-accepted).mean() + bits(rejected).mean()) / 2


def bits(wrong: Floats) -> Floats:
    """log2(1 + exp(s)) of log-likelihood ratios s for the class that a trial is not of; finite for every finite s."""
    return np.asarray(np.logaddexp(0.0, wrong) / math.log(2))
