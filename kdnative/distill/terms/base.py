"""What a loss is made of: terms, each with a weight, that read a batch and what student and teachers say of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from kdnative.distill.outputs import MAP, NEEDS, Outputs

__all__ = ["LossTerm", "rows_of"]


class LossTerm(nn.Module):
    """One summand of a loss. Write one by inheriting: name it, say what it needs, and compute it in `forward`.

    Its parameters are trained together with the student's, and its buffers move to the student's device.

    Args:
        weight: of the term in the sum, finite and >= 0; a term of weight 0 is not computed.
        name: what `History` calls it; unique within one loss. None: that of the class.

    Attributes:
        needs: what it reads of the student's `Outputs`: any of "logits", "hidden_states" and "head", and "map:NAME" for
            the feature map of a module. Only that is computed: where no term needs logits, none are made.
        teacher_needs: the same for the teachers that it learns from; empty: none.
    """

    default_name: ClassVar[str]
    needs: frozenset[str] = frozenset({"logits"})
    teacher_needs: frozenset[str] = frozenset()

    def __init__(self, weight: float = 1.0, name: str | None = None):
        super().__init__()
        self.name = self.default_name if name is None else name
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight={weight} of the loss term {self.name!r}: must not be negative")
        self.weight = float(weight)
        for needs in (self.needs, self.teacher_needs):
            if {need for need in needs if not need.startswith(MAP)} - set(NEEDS):
                allowed = f"{', '.join(NEEDS)} and {MAP}NAME"
                raise ValueError(f"the loss term {self.name!r} needs {sorted(needs)}: allowed are {allowed}")

    def asks(self, teacher: int) -> bool:
        """Whether it learns from the teacher at this position of ``train(teachers=...)``; by default from all."""
        return bool(self.teacher_needs)

    def check_teachers(self, count: int) -> None:
        """ValueError where it can't learn from so many teachers; before anything is trained."""

    def count(self, batch: Any) -> float:
        """What its mean over a batch divides by: by default the number of examples.

        Where a step has several batches, the term of each is weighed by its share of the sum of these, which makes the
        gradient that of one large batch. Override it where `forward` counts something else, such as tokens.
        """
        return float(len(batch.index))

    def settings(self) -> dict[str, Any]:
        """Plain values on which a training that is resumed has to agree."""
        return {"weight": self.weight}

    def forward(self, batch: Any, student: Outputs, teachers: Sequence[Outputs]) -> Tensor | None:
        """The unweighted term, a scalar; None where it says nothing about this batch.

        Args:
            batch: has ``inputs``, ``labels`` and ``index``, such as a `kdnative.data.Batch`.
            student: what the student says of it, with gradients.
            teachers: what each teacher says of it, without.
        """
        raise NotImplementedError


def rows_of(logits: Tensor) -> Tensor:
    """A student's logits, if they are [..., C].

    Raises:
        ValueError: they are not.
    """
    if logits.dim() < 2:
        raise ValueError(f"the student's logits have shape {list(logits.shape)}; [rows, classes] is needed")
    return logits
