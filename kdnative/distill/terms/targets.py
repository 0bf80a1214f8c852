"""Regression: squared distance to the numbers that the data gives, and to a teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kdnative.distill.outputs import Outputs
from kdnative.distill.terms.base import LossTerm

__all__ = ["SoftTargetLoss", "TargetLoss"]


class TargetLoss(LossTerm):
    """``mean (s - y)^2`` over the rows that have a target; 0 where none has. The target of a row without one is NaN.

    Says nothing about batches without targets.

    Args:
        weight, name: as in `LossTerm`.
    """

    default_name = "hard"

    def count(self, batch: Any) -> float:
        """The rows that have a target."""
        return 0.0 if batch.labels is None else float((~batch.labels.isnan()).sum())

    def forward(self, batch: Any, student: Outputs, teachers: Sequence[Outputs] = ()) -> Tensor | None:
        """Predictions [B, 1]; targets fp32 [B].

        Raises:
            ValueError: shapes that do not fit.
        """
        if batch.labels is None:
            return None
        found = _one_each(student.logits, "student")
        if batch.labels.shape != found.shape:
            given, wanted = list(batch.labels.shape), list(found.shape)
            raise ValueError(f"targets have shape {given}; the predictions call for {wanted}")
        known = ~batch.labels.isnan()
        if not bool(known.any()):
            return found.sum() * 0.0
        return (found[known] - batch.labels[known].to(found.dtype)).square().mean()


class SoftTargetLoss(LossTerm):
    """``mean (s - t)^2`` over all rows and teachers: a teacher's soft label of a number is its prediction.

    The squared error to the teacher is what is left of distillation where there are no classes (Chen et al., "Learning
    Efficient Object Detection Models with Knowledge Distillation", 2017, section 3.3). There is no temperature.

    Args:
        weight, name: as in `LossTerm`.
    """

    default_name = "soft"
    teacher_needs = frozenset({"logits"})

    def forward(self, batch: Any, student: Outputs, teachers: Sequence[Outputs] = ()) -> Tensor:
        """Predictions [B, 1] of the student and of each teacher.

        Raises:
            ValueError: shapes that do not fit.
        """
        found = _one_each(student.logits, "student")
        terms = []
        for teacher in teachers:
            given = _one_each(teacher.logits, "teacher").detach()
            if given.shape != found.shape:
                raise ValueError(f"the teacher's predictions have shape {list(given.shape)}, not {list(found.shape)}")
            terms.append((found - given.to(found.dtype)).square().mean())
        return torch.stack(terms).mean()


def _one_each(logits: Tensor, who: str) -> Tensor:
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] != 1:
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the {who}'s predictions are {shape}; one number a row, [rows, 1], is needed")
    return (logits if logits.dtype == torch.float64 else logits.float())[:, 0]
