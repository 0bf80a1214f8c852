"""Measuring classifiers: metrics with intervals, comparisons of two models, sensitivity of single layers."""

from kdnative.evaluate.intervals import Interval, agreement, paired_difference, wilson
from kdnative.evaluate.layers import Sensitivity, sensitivity
from kdnative.evaluate.metrics import Metrics, calibration_error, evaluate, macro_f1, measure
from kdnative.evaluate.predict import Predictions, logits_of, predict

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
