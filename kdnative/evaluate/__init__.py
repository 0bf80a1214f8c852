"""Measuring classifiers: metrics with intervals, comparisons of two models, sensitivity of single layers."""

from .intervals import Interval, agreement, paired_difference, wilson
from .layers import Sensitivity, sensitivity
from .metrics import Metrics, calibration_error, evaluate, macro_f1, measure
from .predict import Predictions, logits_of, predict

__all__ = [
    "Interval",
    "Metrics",
    "Predictions",
    "Sensitivity",
    "agreement",
    "calibration_error",
    "evaluate",
    "logits_of",
    "macro_f1",
    "measure",
    "paired_difference",
    "predict",
    "sensitivity",
    "wilson",
]
