"""Which models run up to their heads only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from kdnative.distill.outputs import head_of
from kdnative.distill.teachers import Teacher
from kdnative.distill.terms import LossTerms
from kdnative.distill.terms.without_logits import is_plain_head

__all__ = ["find_heads"]


def find_heads(
    model: nn.Module, teachers: Sequence[Teacher], loss: LossTerms, first_batch: Callable[[], Any]
) -> tuple[nn.Linear | None, list[nn.Linear | None]]:
    """The heads of the student and of each teacher that are left out of forward passes; None: the model runs as it is.

    They are left out where nobody needs logits, where a term needs the head, and where soft and hard labels of a large
    vocabulary can be computed without logits. Models whose logits are made anyway are not run to find one.

    Args:
        first_batch: gives one, on the device of the models.
    """
    wanted = [loss.needs, *(t.runs_for(loss.teacher_needs(i)) for i, t in enumerate(teachers))]
    models = [model, *(teacher.model for teacher in teachers)]
    lazy = [bool(needs) and ("head" in needs or "logits" not in needs) for needs in wanted]
    large = _without_logits(models, teachers, loss)
    if not any(lazy) and not any(large):
        return None, [None] * len(teachers)
    inputs = first_batch().inputs
    either = zip(models, lazy, large, strict=True)
    found = [head_of(each, inputs) if needed or tried else None for each, needed, tried in either]
    if not all(is_plain_head(head, loss.large) for head, tried in zip(found, large, strict=True) if tried):
        found = [head if needed else None for head, needed in zip(found, lazy, strict=True)]
    return found[0], found[1:]


def _without_logits(models: Sequence[nn.Module | None], teachers: Sequence[Teacher], loss: LossTerms) -> list[bool]:
    """For each model whether it would have to run up to its head; False for all where the terms need logits."""
    nobody = [False] * len(models)
    if loss.large is None or loss.labels is None:
        return nobody
    asked = [True, *(loss.labels.soft.asks(i) for i in range(len(teachers)))]
    if any(teachers[i].soft_labels is not None for i in range(len(teachers)) if asked[i + 1]):
        return nobody  # they are logits, in a file
    if not all(_has_large_linear(each, loss.large) for each, yes in zip(models, asked, strict=True) if yes):
        return nobody
    return asked


def _has_large_linear(model: nn.Module, classes: int) -> bool:
    return any(is_plain_head(module, classes) for module in model.modules())
