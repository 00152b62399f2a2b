"""Metrics: pure functions on numpy arrays and rows of scores, with bootstrap intervals."""

from __future__ import annotations

from headwater.metrics.base import Metric, number
from headwater.metrics.classification import accuracy, confusion_matrix
from headwater.metrics.detection import Convention, DetCurve, SortedScores, det_curve, eer, min_dcf
from headwater.metrics.measures import (
    Eer,
    Mean,
    Measure,
    MinDcf,
    Ratio,
    evaluate,
    measure_from_json,
    paired_difference,
)

__all__ = [
    "Convention",
    "DetCurve",
    "Eer",
    "Mean",
    "Measure",
    "Metric",
    "MinDcf",
    "Ratio",
    "SortedScores",
    "accuracy",
    "confusion_matrix",
    "det_curve",
    "eer",
    "evaluate",
    "measure_from_json",
    "min_dcf",
    "number",
    "paired_difference",
]
