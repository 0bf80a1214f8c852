"""What a quantized model loses, text by text, and intervals of that: the bootstrap over texts (Efron, 1979).

Differences and ratios are paired: both models answer the same resampled texts, so what a text alone brings cancels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdnative.evaluate import Interval

Losses = dict[str, NDArray[np.float64]]
"""For each figure its value on every text, [N]."""

TEN = 10


@dataclass(frozen=True)
class Figure:
    """A mean over texts.

    Attributes:
        name: as tables show it.
        error: whether less is better, from 0 on: two are compared by their ratio. Others are shares, compared by their
            difference in points.
    """

    name: str
    error: bool


FIGURES = {
    "distance": Figure("1 - cosine", error=True),
    "neighbour": Figure("same nearest", error=False),
    "ten": Figure("of ten nearest", error=False),
    "kl": Figure("KL", error=True),
    "agreement": Figure("agreement", error=False),
    "accuracy": Figure("accuracy", error=False),
    "perplexity": Figure("perplexity", error=True),
}


def embedding_losses(exact: Tensor, found: Tensor) -> Losses:
    """What embeddings lose.

    Args:
        exact, found: of the same texts by two models, float64 [N, H], of length 1; N > 10.

    Returns:
        ``distance``, 1 - cosine of a text's two embeddings; ``neighbour``, 1 where the text most similar to it is the
        same in both models; ``ten``, the share of its ten most similar texts that are.
    """
    distance = 1 - (exact * found).sum(1)
    before, after = nearest(exact), nearest(found)
    shared = (before[:, :, None] == after[:, None, :]).any(-1).double().mean(1)
    same = (before[:, 0] == after[:, 0]).double()
    return {"distance": distance.numpy(), "neighbour": same.numpy(), "ten": shared.numpy()}


def nearest(embeddings: Tensor) -> Tensor:
    """The ten other texts most similar to each, most similar first, int64 [N, 10]."""
    similar = embeddings @ embeddings.T
    similar.fill_diagonal_(-math.inf)
    return similar.topk(TEN, dim=1).indices


def classifier_losses(exact: Tensor, found: Tensor, labels: Tensor) -> Losses:
    """What a classifier loses.

    Args:
        exact, found: logits of the same texts by two models, float64 [N, C]. labels: int64 [N].

    Returns:
        ``kl``, the divergence of the answer from the exact model's in nats; ``agreement``, 1 where the class is the
        same; ``accuracy``, 1 where it is right.
    """
    before, after = exact.log_softmax(-1), found.log_softmax(-1)
    divergence = (before.exp() * (before - after)).sum(-1)
    chosen = after.argmax(-1)
    return {
        "kl": divergence.numpy(),
        "agreement": (before.argmax(-1) == chosen).double().numpy(),
        "accuracy": (chosen == labels).double().numpy(),
    }


class Bootstrap:
    """The same resampled texts for every model.

    Args:
        n: texts.
        resamples: draws of n texts with replacement.
        seed: of the draws.
    """

    def __init__(self, n: int, resamples: int = 2000, seed: int = 0) -> None:
        generator = np.random.Generator(np.random.PCG64(seed))
        counts = generator.multinomial(n, np.full(n, 1 / n), size=resamples)
        self.n, self.weights = n, counts / n

    def mean(self, values: NDArray[np.float64]) -> Interval:
        """A mean and its interval."""
        return self._interval(float(values.mean()), self.weights @ values)

    def difference(self, before: NDArray[np.float64], after: NDArray[np.float64]) -> Interval:
        """Mean after minus mean before."""
        return self.mean(after - before)

    def ratio(self, before: NDArray[np.float64], after: NDArray[np.float64]) -> Interval:
        """Mean after divided by mean before; infinite or NaN where there is nothing to divide by."""
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = (self.weights @ after) / (self.weights @ before)
            return self._interval(float(np.divide(after.mean(), before.mean())), drawn)

    def perplexity(self, values: NDArray[np.float64]) -> Interval:
        """``exp`` of the mean loss of windows of text."""
        return self._interval(math.exp(values.mean()), np.exp(self.weights @ values))

    def _interval(self, value: float, drawn: NDArray[np.float64]) -> Interval:
        low, high = np.nanquantile(drawn, (0.025, 0.975))
        return Interval(value, float(low), float(high), self.n)


def summary(bootstrap: Bootstrap, found: Losses) -> dict[str, Interval]:
    """Each figure with its interval."""
    return {
        name: bootstrap.perplexity(values) if name == "perplexity" else bootstrap.mean(values)
        for name, values in found.items()
    }


def against(bootstrap: Bootstrap, before: Losses, after: Losses) -> dict[str, Interval]:
    """Each figure against another model's: the ratio of errors, the difference of shares.

    Perplexities are compared by their ratio too, which is ``exp`` of the difference of the losses.
    """
    compared = {}
    for name, values in after.items():
        if name == "perplexity":
            compared[name] = bootstrap.perplexity(values - before[name])
        else:
            way = bootstrap.ratio if FIGURES[name].error else bootstrap.difference
            compared[name] = way(before[name], values)
    return compared


def pooled(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean over the tokens of a text, of length 1: [B, T, H] and [B, T] -> float64 [B, H]."""
    weights = mask.double()[:, :, None]
    mean = (hidden.double() * weights).sum(1) / weights.sum(1)
    return torch.nn.functional.normalize(mean, dim=1)
