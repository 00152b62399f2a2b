"""Metrics: pure functions on numpy arrays and rows of scores, with bootstrap intervals."""

from __future__ import annotations

from headwater.metrics.base import Metric, number
from headwater.metrics.breakdown import Breakdown, Groups, break_down
from headwater.metrics.calibration import act_dcf, bayes_threshold, cllr
from headwater.metrics.classification import accuracy, confusion_matrix
from headwater.metrics.detection import Convention, DetCurve, SortedScores, det_curve, eer, min_dcf
from headwater.metrics.detection_measures import ActDcf, Cllr, Eer, MinDcf, MinTdcf
from headwater.metrics.measures import Mean, Measure, Ratio, evaluate, measure_from_json, paired_difference
from headwater.metrics.sasv import AdcfCosts, SasvEers, TeerPath, a_dcf, sasv_eers, t_eer
from headwater.metrics.sasv_measures import ADcf, SasvEer, TEer
from headwater.metrics.tandem import AsvRates, TandemCosts, asv_rates, min_tdcf, tandem_costs

__all__ = [
    "ADcf",
    "ActDcf",
    "AdcfCosts",
    "AsvRates",
    "Breakdown",
    "Cllr",
    "Convention",
    "DetCurve",
    "Eer",
    "Groups",
    "Mean",
    "Measure",
    "Metric",
    "MinDcf",
    "MinTdcf",
    "Ratio",
    "SasvEer",
    "SasvEers",
    "SortedScores",
    "TEer",
    "TandemCosts",
    "TeerPath",
    "a_dcf",
    "accuracy",
    "act_dcf",
    "asv_rates",
    "bayes_threshold",
    "break_down",
    "cllr",
    "confusion_matrix",
    "det_curve",
    "eer",
    "evaluate",
    "measure_from_json",
    "min_dcf",
    "min_tdcf",
    "number",
    "paired_difference",
    "sasv_eers",
    "t_eer",
    "tandem_costs",
]
