"""GPTQ: weights are rounded column by column, and those still to come make up for the error (Frantar et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight
from kdnative.quantize.methods.base import Method
from kdnative.quantize.methods.compensation import BLOCK, inverse_factor, sweep
from kdnative.quantize.methods.grid import Grid
from kdnative.quantize.statistics import Statistics

__all__ = ["GPTQ", "compensated", "usual_damping"]


@dataclass(frozen=True)
class GPTQ(Method):
    """The least squared error of the layer's output that rounding in order can reach.

    The range of every group is settled before, by a clip search in which a column counts as much as an error in it will
    cost: the variance of its input that the columns after it can't make up for. Ranges that cover every weight are much
    worse, at 2 bits worse than no GPTQ; the mean square of the input as the weight of a column is a little worse.

    In schemes that leave zeros out (``+4x1``) weights that are 0 stay 0, and the others make up for them as well.

    Args:
        damping: what is added to the diagonal of the second moment, as a share of its mean, within (0, 1]. None: K / 4
            of the rows that calibration saw, within [0.01, 1]: the fewer rows for each input, the more the moment is
            chance. The paper has 0.01, for many more rows.
        act_order: begin with the columns of the largest inputs. Groups stay those of the scheme.
        block: columns that are brought up to date one by one.
    """

    damping: float | None = None
    act_order: bool = False
    block: int = BLOCK
    name = "gptq"

    def __post_init__(self) -> None:
        if self.damping is not None and not 0 < self.damping <= 1:
            raise ValueError(f"damping={self.damping}; a share of the mean diagonal within (0, 1] is needed")
        if self.block < 1:
            raise ValueError(f"block={self.block}; it counts columns, 1 or more")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"second_moment"})

    def _quantize(self, weight: Tensor, scheme: Scheme, statistics: Statistics | None) -> QuantizedWeight:
        assert statistics is not None and statistics.second_moment is not None
        damping = self.damping or usual_damping(weight.shape[1], statistics.rows)
        return compensated(weight, scheme, statistics.second_moment, replace(self, damping=damping))


def compensated(
    weight: Tensor, scheme: Scheme, second_moment: Tensor, options: GPTQ, grid: Grid | None = None
) -> QuantizedWeight:
    """GPTQ of a weight, fp32 [N, K], for inputs with a second moment [K, K]; in a given grid or a searched one."""
    order = torch.arange(weight.shape[1], device=weight.device)
    if options.act_order:
        order = second_moment.diagonal().argsort(descending=True, stable=True)
        second_moment = second_moment[order][:, order]
    assert options.damping is not None
    factor = inverse_factor(second_moment, options.damping)
    if grid is None:
        importance = torch.empty_like(factor[0])
        importance[order] = factor.diagonal() ** -2
        grid = Grid.searched(weight, scheme, importance)
    columns = weight.t()[order].contiguous()
    kept = None if scheme.sparsity is None else columns != 0
    step, low, high = (values.t().contiguous() for values in (grid.step, grid.low, grid.high))
    size = scheme.group_size or weight.shape[1]
    groups = (order // size).tolist()

    def nearest(j: int) -> Tensor:
        g = groups[j]
        value = (columns[j] / step[g]).round_().clamp_(low[g], high[g]).mul_(step[g])
        return value if kept is None else value.mul_(kept[j])

    sweep(columns, factor, nearest, options.block)
    values = torch.empty_like(columns)
    values[order] = columns
    return grid.weight(values.t().contiguous())


def usual_damping(inputs: int, rows: int) -> float:
    """See `GPTQ`."""
    return min(max(inputs / (4 * rows), 0.01), 1.0)
