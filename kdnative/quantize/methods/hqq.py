"""HQQ: ranges that fit most weights and let a few be wrong, without data (Badri & Shaji 2023)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight
from kdnative.quantize import rtn
from kdnative.quantize.methods.base import Method
from kdnative.quantize.methods.grid import Grid
from kdnative.quantize.statistics import Statistics

__all__ = ["HQQ"]


@dataclass(frozen=True)
class HQQ(Method):
    """Half-quadratic splitting of the sum of ``|w - w'|^p`` with p < 1, which forgives outliers.

    In turn: the codes nearest to the weights; of each error what is an outlier, by the shrinkage of the p-norm; and the
    range with the least squared error of the rest. The paper moves the zero point alone, which there is a float. Ours
    are whole numbers and many schemes have none, so here the step moves: by least squares, ``<n, w - e> / <n, n>`` for
    whole numbers n of steps and outliers e. In ``-asym`` schemes the zero point moves first, as in the paper, and is
    rounded. Of two levels of scales (``-int``) only the zero points move. Errors are measured in steps of the first
    range, so that the result does not depend on the unit of the weights.

    Args:
        p: of the norm, within (0, 1].
        beta: weight of the quadratic term: errors above about ``(1 / beta)^(1 / (2 - p))`` steps count as outliers.
        growth: of beta, from one iteration to the next; 1 or more.
        iterations: at most; every group keeps its best.
    """

    p: float = 0.7
    beta: float = 10.0
    growth: float = 1.01
    iterations: int = 20
    name = "hqq"

    def __post_init__(self) -> None:
        if not 0 < self.p <= 1 or self.beta <= 0 or self.growth < 1 or self.iterations < 1:
            raise ValueError(
                f"p={self.p}, beta={self.beta}, growth={self.growth}, iterations={self.iterations}; needed are "
                "0 < p <= 1, beta > 0, growth >= 1 and at least one iteration"
            )

    def _quantize(self, weight: Tensor, scheme: Scheme, statistics: Statistics | None) -> QuantizedWeight:
        grid = Grid.of(weight, scheme)
        unit = grid.step
        groups = rtn.grouped(weight, scheme.group_size)
        best, least = grid, self._error(groups, grid, unit)
        beta = self.beta
        for _ in range(self.iterations):
            grid = self._moved(groups, grid, unit, beta)
            error = self._error(groups, grid, unit)
            better = error < least
            if not bool(better.any()):
                break
            best, least = grid.where(better, best), torch.where(better, error, least)
            beta *= self.growth
        return best.weight(weight)

    def _error(self, groups: Tensor, grid: Grid, unit: Tensor) -> Tensor:
        """The p-norm of every group, [N, G], in units."""
        return ((grid.steps(groups) * grid.step[..., None] - groups) / unit[..., None]).abs_().pow_(self.p).sum(-1)

    def _moved(self, groups: Tensor, grid: Grid, unit: Tensor, beta: float) -> Grid:
        steps = grid.steps(groups)
        rest = groups - self._outliers(groups - steps * grid.step[..., None], unit, beta)
        if grid.zero is not None:
            shift = (steps - rest / grid.step[..., None]).mean(-1).round_()
            grid = grid.shifted(shift)
            steps = grid.steps(groups)
            rest = groups - self._outliers(groups - steps * grid.step[..., None], unit, beta)
        if grid.group_scale is not None:
            return grid
        norm = steps.square().sum(-1)
        fitted = (steps * rest).sum(-1) / norm
        usable = (norm > 0) & (fitted > rtn.TINY) & torch.isfinite(fitted)
        return dataclasses.replace(grid, step=torch.where(usable, fitted, grid.step))

    def _outliers(self, error: Tensor, unit: Tensor, beta: float) -> Tensor:
        """The shrinkage ``sign(e) * max(|e| - |e|^(p - 1) / beta, 0)``, in units."""
        size = error.abs() / unit[..., None]
        shrunk = (size - size.clamp(min=1e-8) ** (self.p - 1) / beta).clamp_(min=0)
        return shrunk * error.sign() * unit[..., None]
