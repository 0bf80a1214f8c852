"""SparseGPT: weights are removed in order, and those still to come make up for them (Frantar & Alistarh 2023)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from kdnative.prune.pattern import ALREADY_PRUNED, Pattern, keep_largest, keep_n_of_m
from kdnative.quantize.gathering import gather, in_passes
from kdnative.quantize.inputs import InputBatches
from kdnative.quantize.linears import linears_of
from kdnative.quantize.methods.compensation import BLOCK, DAMPING, inverse_factor, sweep
from kdnative.quantize.progress import Progress
from kdnative.quantize.statistics import Accumulator
from kdnative.quantize.watching import Group, find_groups

__all__ = ["second_moments", "sparsify"]

_NEEDS = ("second_moment",)


@torch.no_grad()
def sparsify(
    weight: Tensor,
    second_moment: Tensor,
    pattern: str = "2:4",
    sparsity: float | None = None,
    *,
    mask: Tensor | None = None,
    damping: float = DAMPING,
) -> tuple[Tensor, Tensor]:
    """Removes the weights that cost the output least, and changes the others to make up for them.

    Removing ``w_j`` costs the output ``w_j^2 / [H_j^-1]_11`` if the weights after it make up for it as well as they
    can, where H_j is the second moment of the inputs from j on. Columns are taken in their order. Those of a run of 128
    are ranked at its beginning (N:M: those of each M), over all outputs; a block of a pattern costs the sum over its
    weights. The share is met run after run.

    Args:
        weight: [N, K], floating point (computed in fp32), finite.
        second_moment: [K, K], the mean of ``x x^T`` of the layer's inputs. Inputs that are always 0 count as if they
            were of mean size and independent of the others: other data may need them.
        pattern, sparsity: as in `mask_`; the sparsity of N:M patterns follows from them.
        mask: bool [N, K]; what is False is removed already and stays so.
        damping: what is added to the diagonal of the second moment, as a share of its mean, within (0, 1].

    Returns:
        The weight with zeros, of the dtype that it had, and the mask, bool [N, K], False at the zeros.

    Raises:
        ValueError: shapes that do not fit together, NaN or infinite values, a second moment that is none, a mask that
            is not bool.
    """
    shape = Pattern.parse(pattern)
    sparsity = shape.checked_sparsity(sparsity)
    if weight.dim() != 2:
        raise ValueError(f"the weight has shape {list(weight.shape)}; a matrix [out_features, in_features] is needed")
    if mask is not None and (mask.shape != weight.shape or mask.dtype != torch.bool):
        has = f"shape {list(mask.shape)} and is {mask.dtype}"
        raise ValueError(f"the mask has {has}; bool {list(weight.shape)} is needed, False where a weight is removed")
    n, k = weight.shape
    if list(second_moment.shape) != [k, k]:
        raise ValueError(
            f"second_moment has shape {list(second_moment.shape)}; a weight of {k} inputs needs [{k}, {k}]"
        )
    if shape.n_of_m and k % shape.columns:
        raise ValueError(f"the weight has {k} inputs, which pattern {pattern} does not divide")
    if not bool(torch.isfinite(weight).all()) or not bool(torch.isfinite(second_moment).all()):
        raise ValueError("the weight or the second moment of its inputs holds NaN or infinite values")
    factor = inverse_factor(second_moment.to(weight.device), damping)
    columns = weight.detach().float().t().clone(memory_format=torch.contiguous_format)
    kept = torch.ones_like(columns, dtype=torch.bool) if mask is None else mask.t().clone()
    columns *= kept  # an optimizer may have moved what is removed already
    pivots = factor.diagonal()[:, None]
    width = shape.columns if shape.n_of_m else max(shape.columns, BLOCK // shape.columns * shape.columns)
    block = max(BLOCK // width, 1) * width
    ranked = removed = 0

    def remaining(j: int) -> Tensor:
        nonlocal ranked, removed
        if j % width == 0:
            some = slice(j, j + width)
            cost = (columns[some] / pivots[some]).square_()
            alive = kept[some]
            if shape.n_of_m:
                cost = torch.where(alive, cost, ALREADY_PRUNED).t()
                kept[some] = keep_n_of_m(cost, shape.n).t()
            else:
                totals = shape.blocks((cost * alive).t()).sum((1, 3))
                dead = shape.blocks(alive.float().t()).sum((1, 3)) == 0
                totals = torch.where(dead, ALREADY_PRUNED, totals)
                ranked += totals.numel()
                count = min(max(int(sparsity * ranked + 0.5) - removed, 0), totals.numel())
                chosen = keep_largest(totals.flatten(), count).view_as(totals)
                removed += totals.numel() - int(chosen.sum())
                kept[some] &= shape.expand(chosen, torch.Size([n, len(alive)])).t()
        return columns[j] * kept[j]

    sweep(columns, factor, remaining, block)
    return columns.t().to(weight.dtype).contiguous(), kept.t().contiguous()


def second_moments(
    model: nn.Module, layers: Mapping[str, nn.Linear], batches: InputBatches, progress: Progress
) -> Iterator[tuple[str, Tensor]]:
    """The second moment of the inputs of each layer, fp32 [K, K], in the order of execution.

    Raises:
        ValueError: data that never reaches a layer, a layer that is no plain `nn.Linear`.
    """
    sites = linears_of(model)
    if strange := [name for name in layers if name not in sites]:
        raise ValueError(
            f"{strange[0]} is a {type(layers[strange[0]]).__name__}, but SparseGPT works on nn.Linear only: "
            "leave it out with keep=, or mask by magnitude"
        )
    wanted = {name: sites[name] for name in layers}

    def bytes_of(group: Group) -> int:
        return Accumulator.bytes_of(wanted[group.names[0]].inputs, _NEEDS)

    for groups in in_passes(find_groups(model, wanted, batches, progress), bytes_of):
        statistics = gather(model, wanted, batches, {group.names: _NEEDS for group in groups}, progress=progress)
        for group in groups:
            for name in group.names:
                moment = statistics[group.names].second_moment
                assert moment is not None
                yield name, moment
