"""Whether a classifier is as often right as it says: reliability in bins, and the expected calibration error."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Bin", "calibration_error", "chance_error", "reliability"]


class Bin(NamedTuple):
    """Examples of about equal confidence.

    Attributes:
        confidence: mean probability of the predicted class. accuracy: share that is right. n: examples.
    """

    confidence: float
    accuracy: float
    n: int


def reliability(confidence: np.ndarray, hits: np.ndarray, bins: int = 15) -> list[Bin]:
    """The reliability diagram in equal-width bins (low, high], those without an example left out.

    Args:
        confidence: [N], probability of the predicted class. hits: bool [N], whether it was right. bins: at least 1.
    """
    which = _bins_of(confidence, bins)
    n, sure, right = (np.bincount(which, weights=w, minlength=bins) for w in (None, confidence, hits))
    return [Bin(float(sure[i] / n[i]), float(right[i] / n[i]), int(n[i])) for i in np.flatnonzero(n)]


def calibration_error(confidence: np.ndarray, hits: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: ``sum_b n_b / n * |accuracy_b - confidence_b|`` over equal-width bins.

    Guo et al., "On Calibration of Modern Neural Networks" (2017). The arguments are those of `reliability`.
    """
    found = reliability(confidence, hits, bins)
    return sum(b.n * abs(b.accuracy - b.confidence) for b in found) / len(confidence)


def chance_error(confidence: np.ndarray, bins: int = 15, draws: int = 500, seed: int = 0) -> float:
    """The calibration error that chance alone gives a perfectly calibrated classifier in 95 % of the cases, at most.

    Few examples look badly calibrated whatever the classifier is. Here each example is right with the probability that
    the classifier states (consistency resampling: Bröcker and Smith, 2007).

    Args:
        confidence: [N], probability of the predicted class. bins: as for `calibration_error`. draws, seed: of chance.
    """
    which, n = _bins_of(confidence, bins), len(confidence)
    generator = np.random.Generator(np.random.PCG64(seed))
    errors = []
    for _ in range(draws):
        hits = generator.random(n) < confidence
        errors.append(np.abs(np.bincount(which, weights=hits - confidence, minlength=bins)).sum() / n)
    return float(np.quantile(errors, 0.95))


def _bins_of(confidence: np.ndarray, bins: int) -> np.ndarray:
    if bins < 1:
        raise ValueError(f"bins={bins}: at least 1")
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
