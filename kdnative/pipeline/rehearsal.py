"""Refuses what the data or the models can't give a recipe, before any stage runs and without reading weights."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch

from kdnative.distill import TopK
from kdnative.pipeline.folder import PipelineError, RunFolder
from kdnative.pipeline.kinds.texts import TEXTS
from kdnative.pipeline.limits import check_mask_token
from kdnative.pipeline.models import may_be_asked
from kdnative.pipeline.rehearsed_models import Rehearsal, refusing
from kdnative.pipeline.schema import Recipe
from kdnative.pipeline.schemes import of_bits
from kdnative.pipeline.sections import Distilling, Training
from kdnative.pipeline.stages import Context, Shared, Stage
from kdnative.pipeline.stages.gating import check_budget
from kdnative.pipeline.stages.training import class_weights
from kdnative.pipeline.vocabulary import id_table

_log = logging.getLogger(__name__)


def rehearse(
    recipe: Recipe, stages: Sequence[Stage], folder: RunFolder, shared: Shared, later: Sequence[Stage] = ()
) -> list[str]:
    """Goes through stages that are still to run, on the classes of the data and models of the meta device.

    Nothing is said of what can't be known this way: models of the hub, models with code of their own, and kinds of
    models that can't be built without their weights. The stage will find out.

    Args:
        stages: those that this call runs.
        later: those that are to run after it before the recipe is done. For them alone nothing is fetched.

    Returns:
        What the user should know of a run that can go on all the same, a sentence each.

    Raises:
        PipelineError: a stage is bound to fail; the text names the key of the recipe.
    """
    now, pending = {stage.name for stage in stages}, {stage.name for stage in (*stages, *later)}
    trained, notes = [], []
    labels: Sequence[str] = ("0", "1")  # how many there are makes no difference to stages without data
    if any(stage.uses_data for stage in stages):
        labels = shared.data.labels
        contexts = [_context(recipe, stage.name, folder, shared) for stage in (*stages, *later)]
        if "compress_teacher" in pending and recipe.compress_teacher.prune is not None:
            contexts.append(replace(_context(recipe, "compress_teacher", folder, shared), part="prune"))
        trained = [context for context in contexts if isinstance(context.settings, Training)]
        for context in trained:
            _check_class_weights(context)
        if "compress_teacher" in pending and (top_k := recipe.compress_teacher.top_k) is not None:
            with refusing("compress_teacher.", "; null keeps the logits of all classes"):
                TopK.of(torch.zeros(1, len(labels)), top_k)
        if "convert" in pending and recipe.convert.gate is not None:
            check_budget(recipe, len(shared.data.validation))
        if trained:
            notes = [*shared.task.notes(shared.data), *shared.kind.notes(recipe)]
        if "recover" in pending and (four := of_bits(4, recipe.recover.schemes)):
            notes.append(
                f"recover trains for {four[0]}: at 4 bits, GPTQ alone usually loses less accuracy than an "
                f"epoch of training. To use GPTQ alone, set calibrate: {{}} and recover: null"
            )
    if pending - {"report"}:
        rehearsal = Rehearsal(recipe, now, pending, labels)
        rehearsal.go_through()
        if rehearsal.unknown:
            _log.debug("%d checks could not be made: %s", len(rehearsal.unknown), ", ".join(rehearsal.unknown))
    if not shared.task.pictures:
        _check_tokenizers(trained, now)
    return notes


def _context(recipe: Recipe, stage: str, folder: RunFolder, shared: Shared) -> Context:
    return Context(recipe, folder, stage, folder.partial(stage), "cpu", logging.getLogger(), False, shared)


def _check_class_weights(context: Context) -> None:
    settings, labels = context.settings, context.data.labels
    with refusing():
        weights = class_weights(context)
    used = settings.epochs and getattr(settings, "hard_weight", 1.0)
    if used and weights is not None and len(weights) != len(labels):
        raise PipelineError(
            f"{context.section}.class_weights: {len(weights)} values are given, but the data has "
            f"{len(labels)} classes ({', '.join(labels[:8])}{', ...' if len(labels) > 8 else ''}): give one "
            "value per class, in this order"
        )


def _check_tokenizers(trained: Sequence[Context], now: Collection[str]) -> None:
    """Whether tokens can be hidden, and the student's be read by the teacher, in the stages that need that."""
    for context in trained:
        settings, theirs = context.settings, context.recipe.teacher.source
        ours = theirs if context.of_teacher else context.recipe.student_source
        together = isinstance(settings, Distilling) and (settings.hidden_weight or settings.mask_tokens)
        sources = [ours] if settings.mask_tokens else []
        sources = [ours, theirs] if together and ours != theirs else sources
        if not all(may_be_asked(source, context.stage in now) for source in sources):
            continue
        if settings.mask_tokens:
            check_mask_token(context.section, ours, TEXTS.tokenizer(context.shared, ours))
        if len(sources) == 2:
            id_table(TEXTS.tokenizer(context.shared, ours), TEXTS.tokenizer(context.shared, theirs), context.task.pair)
