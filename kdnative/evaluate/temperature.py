"""The temperature at which a classifier is as often right as it says."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["LOWEST", "HIGHEST", "fit_temperature"]

LOWEST, HIGHEST = 0.1, 10.0


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T within [0.1, 10] that makes ``softmax(logits / T)`` likeliest, by L-BFGS on the cross entropy.

    Guo et al., "On Calibration of Modern Neural Networks" (2017), section 4.2. The predicted classes stay the same. The
    cross entropy is convex in 1 / T, so there is one best T. Where every prediction is right it would be 0, and the
    lower bound is returned.

    Args:
        logits: [N, C], N >= 1. labels: int64 [N]. Both of examples that the classifier was not trained on.
    """
    logits = logits.detach().double().cpu()
    if bool((logits.argmax(-1) == labels).all()):  # the gradient fades on the way to 0: L-BFGS would stop anywhere
        return LOWEST
    factor = torch.ones((), dtype=torch.float64, requires_grad=True)  # 1 / T
    optimizer = torch.optim.LBFGS([factor], max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(logits * factor, labels)
        value.backward()
        return value

    optimizer.step(loss)
    return 1 / min(max(float(factor.detach()), 1 / HIGHEST), 1 / LOWEST)
