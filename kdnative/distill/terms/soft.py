"""Soft labels: the student learns the softened class probabilities of its teachers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnative.distill.outputs import Outputs
from kdnative.distill.terms.base import LossTerm, rows_of
from kdnative.distill.terms.hard import IGNORED
from kdnative.distill.topk import TopK

__all__ = ["SoftLabelLoss", "divergence"]


class SoftLabelLoss(LossTerm):
    """``T^2 * KL(p || softmax(s / T))``, with ``p = sum_k w_k * softmax(t_k / T) / sum_k w_k`` over the teachers.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015); ``T^2`` keeps the gradients at the
    size of those of hard labels. Several teachers: their probabilities are averaged, all at one temperature. Mean over
    the rows, in nats; 0 where there is none. With one row per token and labels, only rows with a label count (padding
    has none).

    Where a teacher's logits are cached as `TopK`, ``sum_k w_k * KL(p_k || q) / sum_k w_k`` stands in for the divergence
    from the average, since rows of different classes have none. Its gradient is the same where both exist.

    Args:
        temperature: T > 0. ``temperature=1`` gives the plain form ``lambda * KL`` with ``lambda = weight``.
        weight, name: as in `LossTerm`.
        teacher_weights: w_k >= 0, one for each teacher of `train`; a teacher of weight 0 is not asked. None: all alike.
        ignore_index: the label of rows without one.
    """

    default_name = "soft"
    teacher_needs = frozenset({"logits"})

    def __init__(
        self,
        temperature: float = 2.0,
        *,
        weight: float = 1.0,
        teacher_weights: Sequence[float] | None = None,
        ignore_index: int = IGNORED,
        name: str | None = None,
    ):
        super().__init__(weight, name)
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature={temperature}: must be above 0")
        given = None if teacher_weights is None else tuple(map(float, teacher_weights))
        if given is not None and not (all(0 <= w < float("inf") for w in given) and sum(given) > 0):
            raise ValueError(f"teacher_weights={given}: none may be negative, and one must be above 0")
        self.temperature, self.teacher_weights, self.ignore_index = float(temperature), given, ignore_index

    def settings(self) -> dict[str, Any]:
        weights = None if self.teacher_weights is None else list(self.teacher_weights)
        own = {"temperature": self.temperature, "teacher_weights": weights, "ignore_index": self.ignore_index}
        return {**super().settings(), **own}

    def check_teachers(self, count: int) -> None:
        self.weights(count)

    def asks(self, teacher: int) -> bool:
        return self.teacher_weights is None or (
            teacher < len(self.teacher_weights) and self.teacher_weights[teacher] > 0
        )

    def count(self, batch: Any) -> float:
        """Rows: examples, or tokens with a label where labels are of tokens.

        Rows of tokens without labels are not seen here: batches that are padded differently then count as examples.
        """
        if batch.labels is not None and batch.labels.dim() > 1:
            return float((batch.labels != self.ignore_index).sum())
        return super().count(batch)

    def forward(self, batch: Any, student: Outputs, teachers: Sequence[Outputs]) -> Tensor:
        """Student logits [..., C]; teachers' logits of the same shape, or a `TopK` each.

        Raises:
            ValueError: no teacher, another number of teachers than of weights, or shapes that do not fit.
        """
        weights = self.weights(len(teachers))
        targets = [(w, teacher.logits) for w, teacher in zip(weights, teachers, strict=True) if w]
        logits = rows_of(student.logits)
        return divergence(logits, targets, self.temperature, self.mask_of(batch, logits.shape[:-1]))

    def mask_of(self, batch: Any, shape: torch.Size) -> Tensor | None:
        """Which rows of this shape count, where they are tokens that have labels; None: all."""
        labels = batch.labels
        return labels != self.ignore_index if labels is not None and len(shape) > 1 and labels.shape == shape else None

    def weights(self, teachers: int) -> tuple[float, ...]:
        """w_k of so many teachers.

        Raises:
            ValueError: there are none, or another number of weights.
        """
        if not teachers:
            raise ValueError(f"the loss term {self.name!r} learns from a teacher: pass teachers=[...]")
        if self.teacher_weights is None:
            return (1.0,) * teachers
        if len(self.teacher_weights) != teachers:
            raise ValueError(f"teacher_weights has {len(self.teacher_weights)} entries for {teachers} teachers")
        return self.teacher_weights


def divergence(
    logits: Tensor, targets: Sequence[tuple[float, Tensor | TopK]], temperature: float, mask: Tensor | None = None
) -> Tensor:
    """``T^2 * KL(teachers || student)``, the mean over rows; a scalar with the dtype of `logits`.

    Args:
        logits: the student's, fp32 or fp64 [..., C].
        targets: at least one pair of a weight above 0 and a teacher's logits: [..., C], or a `TopK`. No gradient flows
            into them.
        temperature: T > 0.
        mask: non-zero for rows that count, of a shape that expands to [...]; None: all.

    Raises:
        ValueError: shapes that do not fit, or a `TopK` made for another temperature.
    """
    for _, teacher in targets:
        given = teacher.values.shape[:-1] if isinstance(teacher, TopK) else teacher.shape
        wanted = logits.shape[:-1] if isinstance(teacher, TopK) else logits.shape
        if given != wanted:
            raise ValueError(f"the teacher's logits have shape {list(given)}, the student's call for {list(wanted)}")
    if any(isinstance(teacher, TopK) for _, teacher in targets):
        rows = _mean([(weight, _rows(logits, teacher, temperature)) for weight, teacher in targets])
    else:
        p = _mean([(weight, _probabilities(teacher, logits, temperature)) for weight, teacher in targets])
        rows = _kl(logits, p, temperature)
    rows = rows * temperature**2
    if mask is None:
        return rows.sum() / max(rows.numel(), 1)
    mask = mask.expand(rows.shape) != 0
    return torch.where(mask, rows, 0.0).sum() / mask.sum().clamp(min=1)


def _mean(weighted: Sequence[tuple[float, Tensor]]) -> Tensor:
    if len(weighted) == 1:
        return weighted[0][1]
    total = sum(weight for weight, _ in weighted)
    return sum(weight / total * value for weight, value in weighted)


def _probabilities(teacher: Tensor, logits: Tensor, temperature: float) -> Tensor:
    return (teacher.detach().to(logits.dtype) / temperature).softmax(-1)


def _kl(logits: Tensor, p: Tensor, temperature: float) -> Tensor:
    """``KL(p || student)`` of each row."""
    return F.kl_div((logits / temperature).log_softmax(-1), p, reduction="none").sum(-1)


def _rows(logits: Tensor, teacher: Tensor | TopK, temperature: float) -> Tensor:
    """``KL(teacher || student)`` of each row."""
    if isinstance(teacher, TopK):
        return _top_k_rows(logits, teacher, temperature)
    return _kl(logits, _probabilities(teacher, logits, temperature), temperature)


def _top_k_rows(logits: Tensor, teacher: TopK, temperature: float) -> Tensor:
    """``KL(teacher || student)`` of each row over the top k classes, plus one class for the rest where it is known."""
    if teacher.rest is not None and teacher.temperature != temperature:
        raise ValueError(
            f"the top-k soft labels hold the remaining mass at temperature {teacher.temperature}, but the loss has "
            f"{temperature}; compute them with temperature={temperature}, or without one to renormalise"
        )
    scaled = logits / temperature
    log_q = scaled.log_softmax(-1).gather(-1, teacher.indices)
    kept = teacher.values.detach().to(logits.dtype) / temperature
    if teacher.rest is not None:
        # softmax over [top k, rest]; the student's rest is summed over its own other classes, not 1 - sum(top k),
        # which would cancel
        kept = torch.cat((kept, teacher.rest.detach().to(logits.dtype)[..., None]), -1)
        others = scaled.scatter(-1, teacher.indices, -torch.inf).logsumexp(-1, keepdim=True)
        log_q = torch.cat((log_q, others - scaled.logsumexp(-1, keepdim=True)), -1)
    return F.kl_div(log_q, kept.softmax(-1), reduction="none").sum(-1)
