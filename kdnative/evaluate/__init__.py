"""Measuring classifiers: metrics with intervals, comparisons of two models, sensitivity of single layers."""

from kdnative.evaluate.intervals import Interval, agreement, paired_difference, wilson
from kdnative.evaluate.layers import Sensitivity, sensitivity
from kdnative.evaluate.metrics import Metrics, calibration_error, evaluate, macro_f1, measure
from kdnative.evaluate.predict import Predictions, logits_of, predict
from kdnative.evaluate.targets import TargetMetrics, correlation, measure_targets, pearson, spearman

__all__ = [
    "Interval",
    "Metrics",
    "Predictions",
    "Sensitivity",
    "TargetMetrics",
    "agreement",
    "correlation",
    "calibration_error",
    "evaluate",
    "logits_of",
    "macro_f1",
    "measure",
    "measure_targets",
    "paired_difference",
    "pearson",
    "predict",
    "sensitivity",
    "spearman",
    "wilson",
]
