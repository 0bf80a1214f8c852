"""Measuring classifiers: metrics with intervals, comparisons of two models."""

from kdnative.evaluate.calibration import Bin, calibration_error, chance_error, reliability
from kdnative.evaluate.intervals import Interval, agreement, examples_needed, paired_difference, paired_ratio, wilson
from kdnative.evaluate.metrics import Metrics, evaluate, macro_f1, measure
from kdnative.evaluate.predict import Predictions, logits_of, predict
from kdnative.evaluate.targets import TargetMetrics, correlation, measure_targets, pearson, spearman

__all__ = [
    "Bin",
    "Interval",
    "Metrics",
    "Predictions",
    "TargetMetrics",
    "agreement",
    "correlation",
    "calibration_error",
    "chance_error",
    "evaluate",
    "examples_needed",
    "logits_of",
    "macro_f1",
    "measure",
    "measure_targets",
    "paired_difference",
    "paired_ratio",
    "pearson",
    "predict",
    "reliability",
    "spearman",
    "wilson",
]
