"""Some rows by some classes, in plain torch: logits that live for a moment, and what is kept of them.

The functions have the signatures of `kdnative.ops.backends.triton.linear_kl`, whose kernels compute the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Rows", "Tile", "log_sum_of_logits", "log_sums", "logits_of_tile", "tile", "tile_of_logits"]


class Rows(NamedTuple):
    """What is known of R rows, fp32 or fp64 [R] each.

    Attributes:
        log_sum: of the student's ``logits / temperature``: the logarithm of the sum of exponentials.
        teacher_log_sums: the same of each teacher.
        soft: factor of the row's gradient ``q - p``.
        hard_log_sum: of the student's logits; None: there are no hard labels.
        hard: factor of the row's gradient ``softmax(s) - y``. labels: int64 [R], counted from the tile's first class;
            one outside of the tile is in another one, or missing.
    """

    log_sum: Tensor
    teacher_log_sums: Sequence[Tensor]
    soft: Tensor
    hard_log_sum: Tensor | None = None
    hard: Tensor | None = None
    labels: Tensor | None = None


class Tile(NamedTuple):
    """What a tile adds.

    Attributes:
        divergence: [R], its classes' part of ``KL(p || q)``. likelihood: [R], the logarithm of the label's probability
            where the label is one of its classes, else 0; None without hard labels.
        gradient: [R, C], of the logits, in the dtype of the student's hidden states; None where nobody asked.
    """

    divergence: Tensor
    likelihood: Tensor | None
    gradient: Tensor | None


def logits_of_tile(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[R, C], fp32 (fp64 of fp64), rounded to the dtype of the factors before, as any linear rounds."""
    logits = F.linear(hidden, weight, bias)
    return logits if logits.dtype == torch.float64 else logits.float()


def log_sums(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperatures: Sequence[float]) -> list[Tensor]:
    """``log(sum(exp(logits / T)))`` of each row over these classes, for each temperature: [R], fp32 or fp64.

    Args:
        hidden: [R, K]. weight: [C, K]. bias: [C] or None; all of one dtype.
        temperatures: T > 0.
    """
    logits = logits_of_tile(hidden, weight, bias)
    return [log_sum_of_logits(logits, temperature) for temperature in temperatures]


def log_sum_of_logits(logits: Tensor, temperature: float) -> Tensor:
    """``log(sum(exp(logits / T)))`` of each row [R]: `torch.logsumexp` with one temporary instead of three."""
    scaled = logits / temperature
    top = scaled.amax(-1, keepdim=True)
    top.masked_fill_(top == -torch.inf, 0.0)  # of classes that are all impossible
    return scaled.sub_(top).exp_().sum(-1).log_().add_(top[:, 0])


def tile(
    student: tuple[Tensor, Tensor, Tensor | None],
    teachers: Sequence[tuple[Tensor, Tensor, Tensor | None]],
    shares: Sequence[float],
    temperature: float,
    rows: Rows,
    gradient: bool,
) -> Tile:
    """A tile from its factors.

    Args:
        student: hidden [R, K], weight [C, K] and bias [C] or None. teachers: the same of each.
        shares: of the teachers in ``p = sum_k share_k softmax(t_k / T)``, which sum up to 1.
        gradient: whether it is wanted.
    """
    made = [logits_of_tile(*teacher) for teacher in teachers]
    return tile_of_logits(logits_of_tile(*student), made, shares, temperature, rows, gradient, student[0].dtype)


def tile_of_logits(
    logits: Tensor,
    teachers: Sequence[Tensor],
    shares: Sequence[float],
    temperature: float,
    rows: Rows,
    gradient: bool,
    dtype: torch.dtype,
) -> Tile:
    """A tile from its logits [R, C]; those of teachers are overwritten. `dtype`: of the gradient."""
    p = None
    for share, given, log_sum in zip(shares, teachers, rows.teacher_log_sums, strict=True):
        each = given.div_(temperature).sub_(log_sum[:, None]).exp_().mul_(share).to(logits.dtype)
        p = each if p is None else p.add_(each)
    log_q = (logits / temperature).sub_(rows.log_sum[:, None])
    divergence = F.kl_div(log_q, p, reduction="none").sum(-1)
    found = log_q.exp_().sub_(p).mul_(rows.soft[:, None]) if gradient else None
    if rows.labels is None:
        return Tile(divergence, None, None if found is None else found.to(dtype))
    log_likelihood = logits.sub_(rows.hard_log_sum[:, None])
    inside = (rows.labels >= 0) & (rows.labels < logits.shape[1])
    places = rows.labels.where(inside, 0)[:, None]
    likelihood = log_likelihood.gather(1, places)[:, 0].where(inside, 0.0)
    if found is not None:
        found.add_(log_likelihood.exp_().mul_(rows.hard[:, None]))
        found.scatter_add_(1, places, -rows.hard.where(inside, 0.0)[:, None])
        found = found.to(dtype)
    return Tile(divergence, likelihood, found)
