"""Soft and hard labels of a large vocabulary in one pass over student and teachers, which makes no logits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from kdnative.distill.outputs import Outputs
from kdnative.distill.terms.base import LossTerm
from kdnative.distill.terms.hard import IGNORED, HardLabelLoss
from kdnative.distill.terms.soft import SoftLabelLoss
from kdnative.distill.tiled import LinearLogits, linear_kl

__all__ = ["LARGE", "LabelTerms", "is_plain_head", "label_terms"]

LARGE = 16_384  # classes from which logits are worth a second look at the weights


class LabelTerms:
    """One `SoftLabelLoss`, and a `HardLabelLoss` or none."""

    def __init__(self, soft: SoftLabelLoss, hard: HardLabelLoss | None):
        self.soft, self.hard = soft, hard
        self.terms: list[LossTerm] = [soft] if hard is None else [hard, soft]

    def apply(self, student: Outputs, teachers: Sequence[Outputs], classes: int) -> bool:
        """Whether all of them gave hidden states and a plain head of so many classes, and nobody has made logits."""
        asked = [teacher for i, teacher in enumerate(teachers) if self.soft.asks(i)]
        return all(each.is_lazy and is_plain_head(each.head, classes) for each in (student, *asked))

    def __call__(
        self, batch: Any, student: Outputs, teachers: Sequence[Outputs], factors: dict[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The terms' sum with these factors, by their names, and each of them as in `LossTerms.parts`.

        Raises:
            ValueError: as the terms do.
        """
        soft, hard = self.soft, self.hard
        weights = [(i, w) for i, w in enumerate(soft.weights(len(teachers))) if w]
        shape = student.hidden.shape[:-1]
        labels = None if hard is None else hard.labels_of(batch, shape)
        found = linear_kl(
            _of(student),
            [_of(teachers[i]) for i, _ in weights],
            soft.temperature,
            teacher_weights=[w for _, w in weights],
            mask=soft.mask_of(batch, shape),
            labels=labels if labels is None else labels.where(labels != hard.ignore_index, IGNORED),
            soft_weight=factors[soft.name],
            hard_weight=0.0 if labels is None else factors[hard.name],
        )
        parts = {} if labels is None else {hard.name: found.hard}
        return found.loss, {**parts, soft.name: found.soft}


def label_terms(terms: Iterable[LossTerm]) -> LabelTerms | None:
    """Those that can be computed without logits, where no other term reads logits of anybody; None: they can't."""
    readers = [term for term in terms if "logits" in term.needs | term.teacher_needs]
    soft = [term for term in readers if type(term) is SoftLabelLoss]
    hard = [term for term in readers if type(term) is HardLabelLoss and term.is_plain]
    if len(soft) != 1 or len(hard) > 1 or len(readers) > len(soft) + len(hard):
        return None
    return LabelTerms(soft[0], hard[0] if hard else None)


def is_plain_head(head: nn.Module | None, classes: int) -> bool:
    """Whether a head is a linear of its weight and bias alone, with so many classes at least."""
    if type(head) is not nn.Linear or head.out_features < classes or "forward" in vars(head):
        return False
    return not (head._forward_hooks or head._forward_pre_hooks or head._backward_hooks or head._backward_pre_hooks)


def _of(outputs: Outputs) -> LinearLogits:
    return LinearLogits(outputs.hidden, outputs.head.weight, outputs.head.bias)
