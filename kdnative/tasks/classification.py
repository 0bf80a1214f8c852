"""Which of some classes an example belongs to: a text, or a pair of texts, or a picture."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor, nn

from kdnative.data import Batch, Dataset, DataSplits
from kdnative.data.batches import UNLABELLED
from kdnative.distill import HardLabelLoss
from kdnative.distill.terms import SOFT_LOSSES
from kdnative.evaluate import (
    Interval,
    Predictions,
    agreement,
    calibration_error,
    chance_error,
    logits_of,
    macro_f1,
    measure,
    paired_difference,
    paired_ratio,
    reliability,
)
from kdnative.evaluate.metrics import accuracy, mean_divergence
from kdnative.shown import listed
from kdnative.tasks.base import Measure, Task, Trained, estimate
from kdnative.tasks.heads import fit_head, mismatch
from kdnative.tasks.texts import TextTask

__all__ = ["Classification", "TextClassification"]

# Of a scale; fewer are mostly names, more are mostly numbers of topics.
_FEWEST_STEPS, _MOST_STEPS = 4, 11


class Classification(Task):
    """One class of several, whatever is classified. A soft label is the teacher's logits; accuracy decides."""

    measures = (
        Measure("accuracy", "accuracy", short="accuracy"),
        Measure("macro_f1", "macro-F1", short="macro-F1"),
        Measure("agreement", "agreement", short="agree"),
        Measure("ece", "calib. error"),
    )
    selectable = {"accuracy": "max", "macro_f1": "max", "loss": "min", "kl": "min"}
    from_teacher = "kl"
    divergence_unit = "nats"

    def hard_loss(self, weight: float, settings: Trained, class_weights: Sequence[float] | None) -> nn.Module:
        return HardLabelLoss(weight=weight, class_weights=class_weights, label_smoothing=settings.label_smoothing)

    def soft_loss(self, weight: float, temperature: float, kind: str = "kd") -> nn.Module:
        return SOFT_LOSSES[kind](temperature, weight=weight)

    def labels_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = logits_of(model(**batch.inputs))
        known = batch.labels != UNLABELLED
        if not known.any():  # the mean of nothing is NaN
            return logits.sum() * 0.0
        return nn.functional.cross_entropy(logits[known], batch.labels[known])

    def loss(self, predictions: Predictions) -> float:
        """Cross entropy in nats."""
        return float(nn.functional.cross_entropy(predictions.logits.double(), predictions.labels))

    def measured(self, predictions: Predictions) -> dict[str, float]:
        """Also "ece", the calibration error."""
        sure, chosen = (found.numpy() for found in predictions.logits.double().softmax(-1).max(-1))
        labels = predictions.labels.numpy()
        return {
            "loss": self.loss(predictions),
            "accuracy": self.score(predictions),
            "macro_f1": macro_f1(labels, chosen),
            "ece": calibration_error(sure, chosen == labels),
        }

    def score(self, predictions: Predictions) -> float:
        return accuracy(predictions)

    def agreement(self, a: Predictions, b: Predictions) -> Interval:
        """The share of examples on which both choose the same class."""
        return agreement(a, b)

    def divergence(self, original: Tensor, changed: Tensor) -> float:
        return mean_divergence(original, changed)

    def difference(self, before: Predictions, after: Predictions, seed: int) -> Interval:
        return paired_difference(before, after, after.labels, seed=seed)

    def ratio(self, before: Predictions, after: Predictions, seed: int) -> Interval | None:
        return paired_ratio(before, after, after.labels, seed=seed)

    def quality(self, predictions: Predictions, teacher: Predictions, seed: int) -> dict[str, Any]:
        metrics = measure(predictions, seed=seed)
        return {
            "accuracy": estimate(metrics.intervals["accuracy"]),
            "macro_f1": estimate(metrics.intervals["macro_f1"]),
            "agreement": estimate(agreement(predictions, teacher)),
            "ece": metrics.ece,
            "n": metrics.n,
            "per_class": metrics.per_class,
        }

    def calibration(self, predictions: Predictions) -> dict[str, Any] | None:
        confidence, chosen = (found.numpy() for found in predictions.logits.double().softmax(-1).max(-1))
        hits = chosen == predictions.labels.numpy()
        return {
            "ece": calibration_error(confidence, hits),
            "chance": chance_error(confidence),
            "n": len(hits),
            "bins": [b._asdict() for b in reliability(confidence, hits)],
        }

    def disagreements(self, teacher: Predictions, student: Predictions, most: int) -> list[dict[str, Any]]:
        """Those first where both models are sure."""
        sure, answers = zip(*(p.probabilities.max(-1) for p in (teacher, student)), strict=True)
        differ = (answers[0] != answers[1]).nonzero()[:, 0]
        order = (sure[0] * sure[1])[differ].argsort(descending=True, stable=True)[:most]
        names = teacher.label_names or tuple(str(i) for i in range(teacher.logits.shape[1]))

        def answer(model: int, index: int) -> str:
            return f"{names[answers[model][index]]} ({100 * sure[model][index]:.0f} %)"

        return [
            {
                "index": index,
                "label": names[teacher.labels[index]],
                "teacher": answer(0, index),
                "student": answer(1, index),
            }
            for index in differ[order].tolist()
        ]


class TextClassification(Classification, TextTask):
    """Which class a text, or a pair of texts, belongs to."""

    def notes(self, data: DataSplits) -> list[str]:
        return [note for note in (_untrained(data), _single(data), _ordinal(data.labels)) if note]

    def head(self, labels: Sequence[str]) -> dict[str, Any]:
        numbered = dict(enumerate(labels))
        return {"num_labels": len(labels), "id2label": numbered, "label2id": {name: i for i, name in numbered.items()}}

    def fit_head(
        self,
        model: nn.Module,
        own: Sequence[str],
        train: Dataset,
        missing: Collection[str],
        replaced: Collection[str],
        source: str,
    ) -> bool:
        return fit_head(model, own, train.labels, missing, source)

    def head_mismatch(self, own: Sequence[str], labels: Sequence[str]) -> str | None:
        return mismatch(own, labels)


def _untrained(data: DataSplits) -> str:
    """A note on classes that are asked for and can't be learned."""
    tested = [name for name, n in data.validation.counts.items() if n or data.test.counts[name]]
    missing = [name for name in tested if not data.train.counts[name]]
    if not missing:
        return ""
    return (
        f"the training split has no example of {len(missing)} of the {len(data.labels)} classes "
        f"({listed(missing)}), but the validation or test split has some: every answer for these classes will "
        "be wrong; give more data, other shares (data.split), a higher data.limit, or separate files for "
        "validation and test"
    )


def _single(data: DataSplits) -> str:
    """A note on classes of one example in all splits together: nobody learns one and is tested on it."""
    total = {name: n + data.validation.counts[name] + data.test.counts[name] for name, n in data.train.counts.items()}
    single = [name for name, n in total.items() if n == 1]
    if not single:
        return ""
    classes = f"{listed(single)} {'has' if len(single) == 1 else 'have'} a single example"
    return (
        f"{classes}: a class needs one example for training and one for testing; add examples, or leave these rows out"
    )


def _ordinal(labels: Sequence[str]) -> str:
    """A note on classes that may be the steps of a scale."""
    try:
        steps = sorted(map(int, labels))
    except ValueError:
        return ""
    consecutive = steps == list(range(steps[0], steps[0] + len(steps))) if steps else False
    if not consecutive or not _FEWEST_STEPS <= len(steps) <= _MOST_STEPS:
        return ""
    return (
        f"the {len(steps)} classes are the numbers {steps[0]} to {steps[-1]}. Classification ignores their "
        "order. If they are scores, set task: text-regression (for pairs sentence-pair-regression)"
    )
