"""Removing heads, neurons and layers from the model of a stage; what is left then learns again."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from torch import nn

from kdnative.data import Batch, Batches
from kdnative.pipeline.models import parameters
from kdnative.pipeline.stages.base import Context
from kdnative.pipeline.stages.training import seeded, tokenized
from kdnative.prune import shrink_shapes_, structured_

if TYPE_CHECKING:
    from kdnative.pipeline.rehearsed_models import Rehearsal
    from kdnative.pipeline.schema import Prune

__all__ = ["cut", "rehearse_cut"]


def cut(context: Context, model: nn.Module, source: str) -> dict[str, Any]:
    """Prunes a model in place as the stage's settings say, and returns the figures of that.

    Args:
        source: where the model, and with it its tokenizer, comes from.
    """
    settings: Prune = context.settings
    before = parameters(model)
    batches = _calibration(context, source)
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


def rehearse_cut(rehearsal: Rehearsal, model: nn.Module | None, settings: Prune, section: str, stage: str) -> None:
    """The same to a model without values; `section` is what the settings are called in the recipe."""
    for key in ("layers", "heads", "ffn"):  # one by one, to know which is at fault
        if model is not None and (value := getattr(settings, key)):
            with rehearsal.blaming(f"{section}.{key}", {stage}):
                shrink_shapes_(model, **{key: value}, multiple_of=settings.multiple_of)


def _calibration(context: Context, source: str) -> list[Batch]:
    """The first shuffled batches of the labelled training examples: the others have no loss."""
    settings = context.settings
    labelled = tokenized(context, source, "labelled")
    batches = Batches(labelled, settings.batch_size, shuffle=True, seed=context.recipe.seed)
    return list(itertools.islice(batches, settings.calibration_batches))
