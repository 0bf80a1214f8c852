"""Whom a student learns from: models that run with every batch, or their cached logits."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kdnative.distill.cache import SoftLabels, weights_hash
from kdnative.distill.outputs import Outputs, run
from kdnative.nn.modes import evaluating

__all__ = ["Teacher"]


@dataclass(frozen=True)
class Teacher:
    """One teacher: a model, its cached logits, or both.

    Attributes:
        model: called with the inputs of every batch, in evaluation mode and without gradients.
        soft_labels: its logits for the examples of the batches, looked up by ``batch.index``. The model then runs only
            where a loss term asks for more than logits.
    """

    model: nn.Module | None = None
    soft_labels: SoftLabels | None = None

    def __post_init__(self) -> None:
        if self.model is None and self.soft_labels is None:
            raise ValueError("a Teacher needs model=, soft_labels=, or both")

    @classmethod
    def of(cls, given: Teacher | nn.Module | SoftLabels) -> Teacher:
        """A model or soft labels alone as a teacher."""
        if isinstance(given, Teacher):
            return given
        if isinstance(given, SoftLabels):
            return cls(soft_labels=given)
        if isinstance(given, nn.Module):
            return cls(given)
        raise TypeError(f"{type(given).__name__} is not a teacher: give a model, SoftLabels or a Teacher")

    def runs_for(self, needs: Collection[str]) -> frozenset[str]:
        """What its model has to compute when loss terms need this of it."""
        return frozenset(needs) - (frozenset() if self.soft_labels is None else {"logits"})

    def answer(self, batch: Any, needs: Collection[str], head: nn.Linear | None, device: torch.device) -> Outputs:
        """What it says of a batch that is on the device already."""
        cached = None
        if "logits" in needs and self.soft_labels is not None:
            cached = self.soft_labels[batch.index].to(device)
        missing = self.runs_for(needs)
        if not missing:
            return Outputs(cached)
        with evaluating(self.model):
            return run(self.model, batch.inputs, missing, head, cached)

    def description(self) -> str:
        """Which one it is, for a training that is resumed."""
        parts = [] if self.model is None else [weights_hash(self.model)]
        return " ".join(parts if self.soft_labels is None else [*parts, f"soft labels {self.soft_labels.teacher}"])


def check_teachers(teachers: Iterable[Teacher], loss: Any, data: Any) -> None:
    """Refuses teachers that can't give what the loss needs, or that were asked about other examples.

    Args:
        loss: the `LossTerms`. data: the dataset of the batches, or None where that is unknown.
    """
    teachers = list(teachers)
    for term in loss.terms:
        if term.teacher_needs and not any(term.asks(i) for i in range(len(teachers))):
            raise ValueError(
                f"the loss term {term.name!r} learns from a teacher: pass teachers=[...] with a model or "
                "SoftLabels.compute(...), or set its weight to 0"
            )
        term.check_teachers(len(teachers))
    source = getattr(getattr(data, "source", None), "fingerprint", None)
    for i, teacher in enumerate(teachers):
        missing = teacher.runs_for(loss.teacher_needs(i))
        if missing and teacher.model is None:
            raise ValueError(
                f"the loss needs {', '.join(sorted(missing))} of teachers[{i}], and only logits are cached: give it a "
                "model, Teacher(model, soft_labels)"
            )
        soft = teacher.soft_labels
        if soft is not None and source is not None and soft.source != source:
            raise ValueError(
                f"the soft labels of teachers[{i}] were computed for other examples: compute them for the "
                "examples in the batches"
            )
