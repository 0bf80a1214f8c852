"""Removing heads, neurons, layers or channels from the model of a stage, before or after it learns."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kdnative.data import Batch, Batches
from kdnative.pipeline.folder import PipelineError
from kdnative.pipeline.models import parameters
from kdnative.pipeline.stages.base import Context
from kdnative.pipeline.stages.training import encoded, seeded
from kdnative.prune import prune_channels_, structured_, student_from

if TYPE_CHECKING:
    from kdnative.pipeline.rehearsed_models import Rehearsal
    from kdnative.pipeline.sections import Prune

__all__ = ["cut", "rehearse_channels", "shaped", "stand_in"]

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
    if context.task.pictures:
        rows = _cut_channels(context, model, batches)
        context.log.info("%s: %d parameters before, %d after", context.stage, before, parameters(model))
        return {"parameters_before": before, "pruning": rows}
    options: dict[str, Any] = {}
    if settings.importance == "taylor":
        options = {"calibration": batches, "loss": context.task.labels_loss}
    seeded(context)
    report = structured_(
        model,
        heads=settings.heads,
        ffn=settings.ffn,
        layers=settings.layers,
        multiple_of=settings.tile,
        example_inputs=batches[0].inputs,
        **options,
    )
    context.log.info("%s: %d parameters before, %d after", context.stage, before, parameters(model))
    return {"parameters_before": before, "pruning": report.to_dict()["rows"]}


def _cut_channels(context: Context, model: nn.Module, batches: list[Batch]) -> list[dict[str, Any]]:
    """Prunes a network of convolutions in place, and returns the rows of its report."""
    settings: Prune = context.settings
    (pictures,) = batches[0].inputs.values()
    options: dict[str, Any] = {"importance": "l2"}
    if settings.importance == "taylor":
        options = {"importance": "taylor", "batches": batches, "loss": context.task.labels_loss}
    try:
        report = prune_channels_(
            model, pictures[:2], macs=settings.macs, latency=settings.latency, round_to=settings.multiple_of, **options
        )
    except ValueError as error:
        raise PipelineError(f"{context.section}: {error}") from error
    context.log.info("%s: pruned groups of channels\n%s", context.stage, report)
    return report.to_dict()["rows"]


def rehearse_channels(
    rehearsal: Rehearsal, model: nn.Module | None, settings: Prune, section: str, stages: set[str]
) -> None:
    """PipelineError where a network has not the channels to lose that a section asks for, or can't be followed.

    A budget of latency is tried as one of multiplications: kernels are not timed here.
    """
    if model is None or not rehearsal.pending & stages:
        return
    pictures = torch.zeros(2, 3, *[rehearsal.recipe.data.pictures.size] * 2)
    with rehearsal.blaming(section, stages), torch.random.fork_rng([]):
        macs = settings.macs or settings.latency
        options: dict[str, Any] = {"round_to": settings.multiple_of, "measure": False}
        prune_channels_(stand_in(model), pictures, macs=macs, importance="l2", **options)


def stand_in(model: nn.Module) -> nn.Module:
    """A model without values again, on the CPU and with new ones."""
    found = copy.deepcopy(model).to_empty(device="cpu")
    for module in found.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    return found


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
        multiple_of=settings.tile,
        example_inputs=batches[0].inputs,
        **options,
    )
    context.log.info("%s: the student has %d of %d parameters", context.stage, parameters(model), before)
    return model


def _calibration(context: Context, source: str, count: int, size: int) -> list[Batch]:
    """The first shuffled batches of the labelled training examples: the others have no loss."""
    labelled = encoded(context, source, "labelled")
    return list(itertools.islice(Batches(labelled, size, shuffle=True, seed=context.recipe.seed), count))
