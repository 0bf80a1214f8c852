"""Columns of a weight are changed one after the other, and those still to come make up for it.

The common part of GPTQ (Frantar et al. 2023) and SparseGPT (Frantar & Alistarh 2023). The output's squared error is
``tr(D H D^T)`` for a change ``D`` of the weight and the second moment ``H`` of the inputs. Where column j is changed by
``d``, the best answer of the columns after it is ``-d H^-1[j, j:] / H^-1[j, j]`` with the inverse over the columns that
are left (Hassibi & Stork 1992); all these inverses are the rows of one Cholesky factor.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["BLOCK", "DAMPING", "bytes_of", "inverse_factor", "sweep"]

BLOCK = 128
"""Columns that are brought up to date one by one; those behind them follow in one matrix product a block."""

DAMPING = 0.05
"""The papers' 0.01 is for thousands of rows an input; of 128 texts, 0.05 is better on texts that were not seen."""

_MOST_DAMPING = 1.0


def bytes_of(inputs: int) -> int:
    """Memory that a sweep takes for its matrices [K, K], besides the second moment."""
    return 32 * inputs * inputs  # three in float64, one in float32, and what LAPACK works in


def inverse_factor(second_moment: Tensor, damping: float = DAMPING) -> Tensor:
    """The upper triangle U with ``U^T U = (H + damping * mean(diag H) * I)^-1``, computed in float64.

    Columns that no input ever reached (a diagonal of 0) are as if independent of all others. Where the matrix is not
    positive definite, tenfold damping is tried, up to 1.

    Args:
        second_moment: H, [K, K], symmetric, finite.
        damping: what is added to the diagonal, as a share of its mean, within (0, 1].

    Returns:
        fp32 [K, K].

    Raises:
        ValueError: not positive definite even so, which no second moment is; another damping.
    """
    if not 0 < damping <= _MOST_DAMPING:
        raise ValueError(f"damping={damping}; a share of the mean diagonal within (0, 1] is needed")
    h = second_moment.to(torch.float64, copy=True)
    diagonal = h.diagonal().clone()
    mean = float(diagonal.mean()) if len(h) else 1.0
    if not mean > 0:
        mean = 1.0
    dead = diagonal <= 0
    h /= mean
    h[dead, :] = 0
    h[:, dead] = 0
    # H reversed is L L^T, so H is V V^T with the upper triangle V, L reversed; then U = V^-1: one factor, one inverse.
    # In place where it can be, for these matrices may be most of the memory that there is.
    h = h.flip(0, 1)
    diagonal, dead = h.diagonal().clone(), dead.flip(0)
    while True:
        h.diagonal().copy_(torch.where(dead, 1.0, diagonal + damping))
        lower, failed = torch.linalg.cholesky_ex(h)
        if not int(failed):
            break
        if damping >= _MOST_DAMPING:
            raise ValueError(
                f"the second moment of the inputs [{len(h)}, {len(h)}] is not positive definite, even with "
                "its mean diagonal added: it is not a mean of x x^T, or is damaged; calibrate again"
            )
        damping = min(10 * damping, _MOST_DAMPING)
        del lower
    inverse = h.zero_().fill_diagonal_(1.0).t()  # column by column in memory, as the solver wants it
    torch.linalg.solve_triangular(lower, inverse, upper=False, out=inverse)
    del lower
    return (inverse.flip(0, 1).div_(mean**0.5)).float()


def sweep(columns: Tensor, factor: Tensor, choose: Callable[[int], Tensor], block: int = BLOCK) -> None:
    """Replaces the columns of a weight in order by what is chosen for them; each error goes to the columns after it.

    Args:
        columns: the weight transposed, fp32 [K, N], contiguous; changed in place.
        factor: from `inverse_factor`, [K, K].
        choose: of the number j of a column, what takes its place, fp32 [N]. It may look at ``columns``, which are up
            to date as far as the end of the block that j is in.
        block: columns in a block.
    """
    for start in range(0, len(columns), block):
        part, rows = columns[start : start + block], factor[start : start + block]
        own, errors = rows[:, start : start + block], torch.empty_like(part)
        for i, pivot in enumerate(own.diagonal().tolist()):
            column, error = part[i], errors[i]
            chosen = choose(start + i)
            torch.sub(column, chosen, out=error).div_(pivot)
            column.copy_(chosen)
            part[i + 1 :].addr_(own[i, i + 1 :], error, alpha=-1)
        columns[start + block :].addmm_(rows[:, start + block :].t(), errors, alpha=-1)
