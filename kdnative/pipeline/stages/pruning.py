"""Removing heads, neurons and layers from the model of a stage, before or after it learns."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from torch import nn

from kdnative.data import Batch, Batches
from kdnative.pipeline.models import parameters
from kdnative.pipeline.stages.base import Context
from kdnative.pipeline.stages.training import encoded, seeded
from kdnative.prune import structured_, student_from

if TYPE_CHECKING:
    from kdnative.pipeline.sections import Prune

__all__ = ["cut", "shaped"]

# Of a new student, whose shape has no section with such settings.
_BATCHES, _BATCH = 16, 32


def cut(context: Context, model: nn.Module, source: str) -> dict[str, Any]:
    """Prunes a model in place as the stage's settings say, and returns the figures of that.

    Args:
        source: where the model, and with it its tokenizer, comes from.
    """
    settings: Prune = context.settings
    before = parameters(model)
    batches = _calibration(context, source, settings.calibration_batches, settings.batch_size)
    options: dict[str, Any] = {}
    if settings.importance == "taylor":
        options = {"calibration": batches, "loss": context.task.labels_loss}
    seeded(context)
    report = structured_(
        model,
        heads=settings.heads,
        ffn=settings.ffn,
        layers=settings.layers,
        multiple_of=settings.multiple_of,
        example_inputs=batches[0].inputs,
        **options,
    )
    context.log.info("%s: %d parameters before, %d after", context.stage, before, parameters(model))
    return {"parameters_before": before, "pruning": report.to_dict()["rows"]}


def shaped(context: Context, model: nn.Module) -> nn.Module:
    """A new student in the shape that the recipe's section `student` asks for.

    The fine-tuned teacher's heads and neurons are ranked by what the loss of the labelled examples needs. A model of
    its own has not seen the task, and is ranked by the size of its weights.
    """
    settings = context.recipe.student
    if settings.layers is not None:
        model = student_from(model, layers=settings.layers)
    if not settings.heads and not settings.ffn:
        return model
    batches = _calibration(context, context.recipe.student_source, _BATCHES, _BATCH)
    before, options = parameters(model), {}
    if settings.source == "teacher":
        options = {"calibration": batches, "loss": context.task.labels_loss}
    structured_(
        model,
        heads=settings.heads,
        ffn=settings.ffn,
        multiple_of=settings.multiple_of,
        example_inputs=batches[0].inputs,
        **options,
    )
    context.log.info("%s: the student has %d of %d parameters", context.stage, parameters(model), before)
    return model


def _calibration(context: Context, source: str, count: int, size: int) -> list[Batch]:
    """The first shuffled batches of the labelled training examples: the others have no loss."""
    labelled = encoded(context, source, "labelled")
    return list(itertools.islice(Batches(labelled, size, shuffle=True, seed=context.recipe.seed), count))
