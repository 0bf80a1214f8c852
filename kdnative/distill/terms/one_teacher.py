"""What terms share that compare the logits of a student with those of one teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kdnative.distill.outputs import Outputs
from kdnative.distill.terms.base import LossTerm
from kdnative.distill.topk import TopK

__all__ = ["OneTeacherLoss"]


class OneTeacherLoss(LossTerm):
    """A term that reads [N, C] logits of the student and of one teacher; several teachers take a term each.

    Args:
        temperature: T > 0.
        weight, name: as in `LossTerm`.
        teacher: position of its teacher in ``train(teachers=...)``.
    """

    teacher_needs = frozenset({"logits"})

    def __init__(self, temperature: float, *, weight: float = 1.0, teacher: int = 0, name: str | None = None):
        super().__init__(weight, name)
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature={temperature}: must be above 0")
        if teacher < 0:
            raise ValueError(f"teacher={teacher}: positions count from 0")
        self.temperature, self.teacher = float(temperature), teacher

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "temperature": self.temperature, "teacher": self.teacher}

    def asks(self, teacher: int) -> bool:
        return teacher == self.teacher

    def logits_of(self, student: Outputs, teachers: Sequence[Outputs]) -> tuple[Tensor, Tensor]:
        """Both logits, the teacher's without gradients and of the student's type.

        Raises:
            ValueError: no such teacher, logits of other shapes, or only the largest ones of the teacher.
        """
        if self.teacher >= len(teachers):
            raise ValueError(f"the loss term {self.name!r} learns from teachers[{self.teacher}], of {len(teachers)}")
        ours, theirs = student.logits, teachers[self.teacher].logits
        if isinstance(theirs, TopK):
            raise ValueError(
                f"the loss term {self.name!r} compares all classes, and only the top {theirs.values.shape[-1]} of the "
                "teacher are cached: compute SoftLabels without top_k"
            )
        if ours.dim() != 2 or ours.shape != theirs.shape:
            given = f"{list(ours.shape)} of the student and {list(theirs.shape)} of the teacher"
            raise ValueError(f"the loss term {self.name!r} needs logits [examples, classes] of both; got {given}")
        return ours, theirs.detach().to(ours.dtype)
