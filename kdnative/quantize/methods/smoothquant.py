"""SmoothQuant: inputs with outliers are made smaller and their weights larger (Xiao et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kdnative.formats.scheme import Scheme
from kdnative.quantize.methods.base import Method
from kdnative.quantize.methods.rtn import RoundToNearest
from kdnative.quantize.methods.scaling import Scaling, best_of, normalized
from kdnative.quantize.rtn import TINY
from kdnative.quantize.statistics import Statistics

__all__ = ["SmoothQuant"]

_SMALLEST = 1e-4  # of the largest weight: what a column without weights counts as


@dataclass(frozen=True)
class SmoothQuant(Scaling):
    """Input j is divided by ``s_j = max|x_j|^alpha / max|w_j|^(1 - alpha)``, and its weights multiplied by it.

    Both maxima are over all linears that read the input; s has the geometric mean 1. The paper folds 1 / s into the
    layer before; here it is a vector in the quantizing step, since the output of a post-norm feeds the residual too.

    Args:
        alpha: how much of the range goes from the inputs to the weights, within [0, 1]; or several, of which the one
            with the least error of the layer's output on a sample of its inputs is taken. The paper has 0.5; 0.6 was
            better in MiniLM and no worse in MPNet, where a choice for each layer made the model worse.
        weights: the method for the weights that result.
    """

    alpha: float | Sequence[float] = 0.6
    weights: Method = field(default_factory=RoundToNearest)

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", self.alpha if isinstance(self.alpha, float | int) else tuple(self.alpha))
        if not self._alphas or not all(0 <= alpha <= 1 for alpha in self._alphas):
            raise ValueError(f"alpha={self.alpha}; one number within [0, 1] or several are needed")

    @property
    def _alphas(self) -> tuple[float, ...]:
        return self.alpha if isinstance(self.alpha, tuple) else (self.alpha,)

    @property
    def name(self) -> str:
        """ "smoothquant", and the method for the weights where it is another one."""
        return "smoothquant" if isinstance(self.weights, RoundToNearest) else f"smoothquant+{self.weights.name}"

    @property
    def needs(self) -> frozenset[str]:
        return self.weights.needs | {"largest"} | ({"sample"} if len(self._alphas) > 1 else set())

    def _divisor(self, weight: Tensor, scheme: Scheme, statistics: Statistics) -> Tensor:
        assert statistics.largest is not None
        widest = weight.abs().amax(0)
        most = float(widest.max())
        if most < TINY:  # nothing to make room for
            return torch.ones_like(widest)
        widest = widest.clamp(min=_SMALLEST * most)
        divisors = (normalized(statistics.largest**alpha / widest ** (1 - alpha)) for alpha in self._alphas)
        return next(divisors) if len(self._alphas) == 1 else best_of(divisors, weight, scheme, statistics.sample)
