"""Accuracy, macro-F1, calibration and the confusion matrix of a classifier, with intervals."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from kdnative.data.batches import Batches, EncodedDataset
from kdnative.evaluate.calibration import calibration_error
from kdnative.evaluate.intervals import Interval, bootstrap_counts, wilson
from kdnative.evaluate.predict import Predictions, predict

__all__ = ["Metrics", "accuracy", "divergences", "evaluate", "macro_f1", "mean_divergence", "measure"]


@dataclass(frozen=True)
class Metrics:
    """What a test set says about a classifier.

    Attributes:
        accuracy, macro_f1: shares within [0, 1]. ece: expected calibration error. nll: mean cross entropy in nats.
        n: examples. confusion: C lists of C counts, rows are true classes, columns predicted ones.
        per_class: {class name: {"precision", "recall", "f1", "n"}}; 0 where undefined.
        intervals: 95 %: "accuracy" (Wilson) and "macro_f1" (bootstrap). The calibration error has none: its
            bootstrap is biased, since resampling alone makes any classifier look less calibrated.
        predictions: logits and labels of every example, for `agreement` and `paired_difference`.
    """

    accuracy: float
    macro_f1: float
    ece: float
    nll: float
    n: int
    confusion: list[list[int]]
    per_class: dict[str, dict[str, float]]
    intervals: dict[str, Interval]
    predictions: Predictions = field(repr=False, compare=False)


def evaluate(
    model: nn.Module,
    data: EncodedDataset | Batches,
    *,
    batch_size: int = 64,
    device: str | torch.device = "auto",
    amp: bool | str = False,
    resamples: int = 2000,
    seed: int = 0,
) -> Metrics:
    """Runs a classifier over labelled data and measures it; see `predict` and `measure` for the arguments."""
    return measure(predict(model, data, batch_size=batch_size, device=device, amp=amp), resamples=resamples, seed=seed)


def measure(predictions: Predictions, *, bins: int = 15, resamples: int = 2000, seed: int = 0) -> Metrics:
    """Metrics of logits and labels.

    Args:
        predictions: logits [N, C], finite, and labels [N]; N >= 1.
        bins: of the calibration error. resamples, seed: of the bootstrap.

    Raises:
        ValueError: no labels, labels outside of [0, C), or logits that are not finite.
    """
    logits, labels = predictions.logits, predictions.labels
    if labels is None:
        raise ValueError("the data has no labels: accuracy cannot be measured (agreement with a teacher can)")
    n, classes = logits.shape
    if not n or len(labels) != n or int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(f"{n} rows of {classes} logits need {n} >= 1 labels within 0 and {classes - 1}")
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("the logits hold NaN or infinite values: the model is broken, or overflowed in low precision")
    log_p = logits.double().log_softmax(-1)
    confidence, predicted = log_p.exp().max(-1)
    hits = predicted == labels
    confusion = torch.bincount(labels * classes + predicted, minlength=classes * classes).view(classes, classes).numpy()
    names = predictions.label_names or tuple(str(i) for i in range(classes))
    kinds = np.argwhere(confusion)  # only cells that occur: at most n, however many classes there are
    counts = confusion[kinds[:, 0], kinds[:, 1]]
    f1 = bootstrap_counts(counts, lambda c: _macro_f1(kinds[:, 0], kinds[:, 1], c, classes), resamples, seed)
    accuracy = wilson(int(hits.sum()), n)
    return Metrics(
        accuracy=accuracy.value,
        macro_f1=f1.value,
        ece=calibration_error(confidence.numpy(), hits.numpy(), bins),
        nll=float(-log_p.gather(1, labels[:, None]).mean()),
        n=n,
        confusion=confusion.tolist(),
        per_class={name: _one_class(confusion, i) for i, name in enumerate(names[:classes])},
        intervals={"accuracy": accuracy, "macro_f1": f1},
        predictions=predictions,
    )


def accuracy(predictions: Predictions) -> float:
    """Share of the examples whose class is right."""
    return float((predictions.classes == predictions.labels).double().mean())


def divergences(original: Tensor, changed: Tensor) -> Tensor:
    """``KL(original || changed)`` of two classifiers' distributions, from logits [N, C]; fp64 [N], in nats."""
    log_p, log_q = original.double().log_softmax(-1), changed.double().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def mean_divergence(original: Tensor, changed: Tensor) -> float:
    """The mean of `divergences`."""
    return float(divergences(original, changed).mean())


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean F1 over the classes that occur among labels or predictions; int [N] each."""
    classes = int(max(labels.max(), predicted.max())) + 1
    return _macro_f1(labels, predicted, np.ones(len(labels), np.int64), classes)


def _macro_f1(true: np.ndarray, predicted: np.ndarray, counts: np.ndarray, classes: int) -> float:
    same = true == predicted
    right = np.bincount(true[same], weights=counts[same], minlength=classes)
    both = np.bincount(true, counts, classes) + np.bincount(predicted, counts, classes)  # true + predicted examples
    present = both > 0
    return float((2 * right[present] / both[present]).mean())


def _one_class(confusion: np.ndarray, i: int) -> dict[str, float]:
    right, true, predicted = int(confusion[i, i]), int(confusion[i].sum()), int(confusion[:, i].sum())
    precision, recall = right / max(predicted, 1), right / max(true, 1)
    return {"precision": precision, "recall": recall, "f1": 2 * right / max(true + predicted, 1), "n": true}
