"""Relations instead of values: the student's probabilities go up and down where the teacher's do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import cosine_similarity

from kdnative.distill.outputs import Outputs
from kdnative.distill.terms.one_teacher import OneTeacherLoss

__all__ = ["DISTLoss"]


class DISTLoss(OneTeacherLoss):
    """``T^2 * (inter * mean_i (1 - r(p_i, q_i)) + intra * mean_c (1 - r(p_c, q_c)))``; r is Pearson's correlation.

    p and q are the probabilities ``softmax(logits / T)`` of teacher and student. The first mean is over examples, whose
    classes are ranked; the second over classes, whose examples of the batch are ranked, so it needs more than one
    example and says more of large batches (Huang et al., "Knowledge Distillation from A Stronger Teacher", 2022).
    Labels play no part.

    Args:
        temperature: T > 0.
        inter, intra: weights of the two, >= 0.
        weight, teacher, name: as in `OneTeacherLoss`.
    """

    default_name = "dist"

    def __init__(
        self,
        temperature: float = 1.0,
        *,
        inter: float = 1.0,
        intra: float = 1.0,
        weight: float = 1.0,
        teacher: int = 0,
        name: str | None = None,
    ):
        super().__init__(temperature, weight=weight, teacher=teacher, name=name)
        if not (0 <= inter < float("inf") and 0 <= intra < float("inf") and inter + intra > 0):
            raise ValueError(f"inter={inter}, intra={intra}: neither may be negative, and one must be above 0")
        self.inter, self.intra = float(inter), float(intra)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "inter": self.inter, "intra": self.intra}

    def forward(self, batch: Any, student: Outputs, teachers: Sequence[Outputs]) -> Tensor:
        """Logits [N, C]; ValueError as `OneTeacherLoss.logits_of`."""
        ours, theirs = self.logits_of(student, teachers)
        if not len(ours):
            return ours.sum() * 0.0
        q, p = ((logits / self.temperature).softmax(1) for logits in (ours, theirs))
        total = self.inter * _unlikeness(p, q)
        if len(ours) > 1:
            total = total + self.intra * _unlikeness(p.T, q.T)
        return total * self.temperature**2


def _unlikeness(p: Tensor, q: Tensor) -> Tensor:
    """``1 - r``, the mean over the rows; 1 for a row whose values are all the same."""
    centred = (x - x.mean(1, keepdim=True) for x in (p, q))
    return (1.0 - cosine_similarity(*centred, dim=1)).mean()
