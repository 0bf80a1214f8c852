"""Which number belongs to a text, or to a pair of texts."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.data import Batch, Dataset
from kdnative.distill import SoftTargetLoss, TargetLoss
from kdnative.evaluate import Interval, Predictions, correlation, logits_of, measure_targets, pearson, spearman
from kdnative.evaluate.targets import correlation_difference, correlation_ratio, numbers_of
from kdnative.tasks.base import Measure, Trained, estimate
from kdnative.tasks.heads import last_linear, log
from kdnative.tasks.texts import TextTask

__all__ = ["TextRegression"]

_NO_CLASSES = "a regression task has no classes"


class TextRegression(TextTask):
    """One number. A soft label is the teacher's prediction; Pearson's correlation with the targets decides."""

    measures = (
        Measure("pearson", "Pearson correlation", percent=False, short="Pearson"),
        Measure("spearman", "Spearman correlation", percent=False, short="Spearman"),
        Measure("agreement", "agreement", percent=False, short="agree"),
        Measure("rmse", "RMSE", percent=False, short="RMSE"),
    )
    selectable = {"pearson": "max", "spearman": "max", "rmse": "min", "loss": "min", "teacher_mse": "min"}
    from_teacher = "teacher_mse"
    lacks = dict.fromkeys(("fit_temperature", "class_weights", "label_smoothing", "top_k", "soft_loss"), _NO_CLASSES)
    numbers = True
    divergence_unit = "mean squared difference"

    def head(self, labels: Sequence[str]) -> dict[str, Any]:
        return {"num_labels": 1, "problem_type": "regression"}

    def fit_head(
        self,
        model: nn.Module,
        own: Sequence[str],
        train: Dataset,
        missing: Collection[str],
        replaced: Collection[str],
        source: str,
    ) -> bool:
        """A new head begins at the mean of the targets: from 0 it would spend most of its steps on the way there."""
        name = last_linear(model, 1)
        new = name is not None and f"{name}.weight" in {*missing, *replaced}
        if not new or (bias := model.get_submodule(name).bias) is None:
            return False
        targets = [e.label for e in train if e.label is not None]
        mean = sum(targets) / len(targets)
        with torch.no_grad():
            bias.fill_(mean)
        log.info("%s: its head is new and starts at %.4g, the mean of the training labels", source, mean)
        return False

    def head_mismatch(self, own: Sequence[str], labels: Sequence[str]) -> str | None:
        return None if len(own) == 1 else f"its head has {len(own)} outputs, but regression needs one"

    def hard_loss(self, weight: float, settings: Trained, class_weights: Sequence[float] | None) -> nn.Module:
        return TargetLoss(weight=weight)

    def soft_loss(self, weight: float, temperature: float, kind: str = "kd") -> nn.Module:
        return SoftTargetLoss(weight=weight)

    def labels_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        found = logits_of(model(**batch.inputs))[:, 0]
        known = ~batch.labels.isnan()
        if not known.any():  # the mean of nothing is NaN
            return found.sum() * 0.0
        return (found[known] - batch.labels[known]).square().mean()

    def loss(self, predictions: Predictions) -> float:
        """The mean squared error."""
        return float((predictions.logits[:, 0].double() - predictions.labels.double()).square().mean())

    def measured(self, predictions: Predictions) -> dict[str, float]:
        loss = self.loss(predictions)
        return {
            "loss": loss,
            "pearson": self.score(predictions),
            "spearman": spearman(predictions, predictions.labels),
            "rmse": math.sqrt(loss),
        }

    def score(self, predictions: Predictions) -> float:
        return pearson(predictions, predictions.labels)

    def agreement(self, a: Predictions, b: Predictions) -> Interval:
        """Pearson's correlation of the two models' predictions."""
        return correlation(a, b)

    def divergence(self, original: Tensor, changed: Tensor) -> float:
        return float((original.double() - changed.double()).square().mean())

    def difference(self, before: Predictions, after: Predictions, seed: int) -> Interval:
        return correlation_difference(before, after, after.labels, seed=seed)

    def ratio(self, before: Predictions, after: Predictions, seed: int) -> Interval | None:
        return correlation_ratio(before, after, after.labels, seed=seed)

    def quality(self, predictions: Predictions, teacher: Predictions, seed: int) -> dict[str, Any]:
        metrics = measure_targets(predictions, seed=seed)
        return {
            **{name: estimate(interval) for name, interval in metrics.intervals.items()},
            "agreement": estimate(correlation(predictions, teacher, seed=seed)),
            "n": metrics.n,
        }

    def disagreements(self, teacher: Predictions, student: Predictions, most: int) -> list[dict[str, Any]]:
        """Those first whose predictions are farthest apart."""
        theirs, ours, true = (numbers_of(p) for p in (teacher, student, teacher.labels))
        order = abs(theirs - ours).argsort(kind="stable")[::-1][:most].tolist()
        return [
            {"index": i, "label": f"{true[i]:.4g}", "teacher": f"{theirs[i]:.4g}", "student": f"{ours[i]:.4g}"}
            for i in order
        ]
