"""The teacher: fine-tuned, then compressed to compute the soft labels that every student learns from."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from kdnative.distill import SoftLabels
from kdnative.evaluate import predict
from kdnative.evaluate.temperature import HIGHEST, LOWEST, fit_temperature
from kdnative.pipeline.sections import CompressTeacher, TeacherTraining
from kdnative.pipeline.stages.base import Context, Row, Stage, named
from kdnative.pipeline.stages.calibrating import calibrated, to_the_nearest
from kdnative.pipeline.stages.pruning import cut, rehearse_channels
from kdnative.pipeline.stages.training import (
    VALIDATION_BATCH,
    as_it_is,
    asks_teacher,
    compared,
    distillation_loss,
    encoded,
    fit,
    hard_loss,
    load_model,
    save_model,
)
from kdnative.tasks.heads import scale_logits

if TYPE_CHECKING:
    from kdnative.pipeline.rehearsed_models import Rehearsal
    from kdnative.quantize import Calibration

SOFT_LABELS = "soft_labels.safetensors"
TEACHER = Row("teacher", "teacher")


def _train_teacher(context: Context) -> dict[str, Any]:
    source, fine_tuned = context.recipe.teacher.source, context.recipe.teacher.fine_tuned
    model = context.kind.load(context, context.recipe.teacher, fine_tuned=fine_tuned)
    metrics = as_it_is(context, model, source) if fine_tuned else fit(context, model, hard_loss(context), source)
    if context.settings.fit_temperature:
        metrics["calibration"] = _calibrated(context, model, source)
    metrics["bytes"] = save_model(context, model, source)
    return {**metrics, "data": context.data.sizes}


def _calibrated(context: Context, model: nn.Module, source: str) -> dict[str, float]:
    """Divides the model's logits by its temperature, in the weights of its last layer; returns what that changed.

    So everything that is made from the teacher is made from the calibrated one. Its errors afterwards are flattered a
    little, as the temperature was fitted on the same examples.
    """
    validation, task = encoded(context, source, "validation"), context.task
    before = predict(model, validation, batch_size=VALIDATION_BATCH, device=context.device)
    temperature = fit_temperature(before.logits, before.labels)
    scale_logits(model.cpu(), 1 / temperature, before.logits.shape[1], source)
    after = predict(model, validation, batch_size=VALIDATION_BATCH, device=context.device)
    model.cpu()
    errors = {f"{name}_before": value for name, value in task.measured(before).items() if name in ("ece", "loss")}
    errors |= {f"{name}_after": value for name, value in task.measured(after).items() if name in ("ece", "loss")}
    context.log.info(
        "%s: temperature %.3f; calibration error on the validation split %.4f, before %.4f",
        context.section,
        temperature,
        errors["ece_after"],
        errors["ece_before"],
    )
    if temperature in (LOWEST, HIGHEST):
        context.log.warning(
            "%s: the fitted temperature is at its limit, because the validation split is too small to fit "
            "it: set train_teacher.fit_temperature to false, or hold out more examples",
            context.section,
        )
    return {"temperature": temperature, **errors}


def _compress_teacher(context: Context) -> dict[str, Any]:
    """Prunes the teacher, converts it to native kernels and lets it label the training split.

    Without ``prune`` it stays whole; with ``scheme: null`` it stays in float. The native teacher runs on the CPU, the
    float one on the recipe's device.
    """
    from kdnative import convert_

    settings, source = context.settings, context.recipe.teacher.source
    teacher = load_model(context, "train_teacher")
    validation = encoded(context, source, "validation")
    metrics: dict[str, Any] = {}
    device = context.device
    compressed = settings.scheme is not None or settings.prune is not None
    before = predict(teacher, validation, batch_size=settings.batch_size, device=device) if compressed else None
    if settings.prune is not None:
        metrics |= _pruned(context, teacher.cpu(), source)
    if settings.scheme is not None:
        report = convert_(teacher.cpu(), settings.scheme, **_rounding(context, teacher.cpu(), source))
        teacher, device = report.model, "cpu"
        metrics["conversion"] = report.to_dict()["rows"]
    if compressed:
        after = predict(teacher, validation, batch_size=settings.batch_size, device=device)
        metrics["validation"] = compared(context, before, after)
        metrics["bytes"] = save_model(context, teacher.cpu(), source)
    train = encoded(context, source, "train")
    top = {"top_k": settings.top_k, "temperature": settings.temperature}
    labels = SoftLabels.compute(teacher, train, batch_size=settings.batch_size, device=device, **top)
    labels.save(context.folder / SOFT_LABELS)
    return {**metrics, "examples": len(labels)}


def _rounding(context: Context, teacher: nn.Module, source: str) -> dict[str, Any]:
    """How `convert_` is to round the teacher's weights: as `compress_teacher.calibrate` says."""
    settings = context.settings
    if settings.calibrate is None:
        return {**to_the_nearest(settings.scheme), **context.kind.conversion(context, source, teacher, settings.scheme)}
    return {"calibration": calibrated(context, teacher, source, settings.scheme, settings.calibrate)}


def _pruned(context: Context, teacher: nn.Module, source: str) -> dict[str, Any]:
    """Removes parts of the teacher, in place; what is left learns from the labels and from the teacher as it was."""
    inner = replace(context, part="prune")
    whole = copy.deepcopy(teacher)
    figures = cut(inner, teacher, source)
    loss = distillation_loss(inner, teacher, whole)
    answers = None
    if asks_teacher(inner):
        data = encoded(context, source, "validation")
        answers = predict(whole, data, batch_size=context.settings.batch_size, device=context.device)
    asked = whole if inner.settings.learns_from_teacher else None
    metrics = fit(inner, teacher, loss, source, teacher=asked, answers=answers)
    context.earlier_seconds = inner.earlier_seconds
    return {**metrics, **figures}


def _rehearse_compression(rehearsal: Rehearsal) -> None:
    settings, section = rehearsal.recipe.compress_teacher.prune, "compress_teacher.prune"
    if settings is not None:  # on a copy: hidden states come from the whole teacher
        pruned = copy.deepcopy(rehearsal.teacher)
        if pruned is None:
            return
        if rehearsal.kind.convolutions:
            rehearse_channels(rehearsal, pruned, settings, section, {"compress_teacher"})
        rehearsal.shrink(pruned, settings, section, {"compress_teacher"})
        rehearsal.check_hidden(section, "compress_teacher", settings, pruned)


def for_hidden_states(
    teacher: nn.Module, scheme: str | None, device: str, calibration: Calibration | None = None
) -> nn.Module:
    """The fine-tuned teacher in the form that gives hidden states fastest.

    On a CPU with fast kernels that is the native one, like the teacher of the soft labels. Elsewhere, and with
    ``scheme=None``, it stays in float.

    Args:
        calibration: its weights; without, they are rounded to the nearest.
    """
    from kdnative import convert_, ops

    if scheme is None or device != "cpu" or ops.isa() == "reference":
        return teacher
    if calibration is None:
        return convert_(teacher, scheme, **to_the_nearest(scheme)).model
    return convert_(teacher, scheme, calibration=calibration).model


TRAIN_TEACHER = Stage(
    "train_teacher",
    _train_teacher,
    does="Fine-tunes the teacher on the hard labels.",
    section=TeacherTraining,
    default=TeacherTraining(),
    uses=("data", "teacher"),
    version=1,
    sources=lambda recipe: named(recipe.teacher),
    teacher=True,
    row=TEACHER,
    rehearse=lambda rehearsal: rehearsal.load_teacher(),
)
COMPRESS_TEACHER = Stage(
    "compress_teacher",
    _compress_teacher,
    does="Prunes the teacher if `prune` is set, and converts it to `scheme`. The native teacher labels the "
    "training split.",
    section=CompressTeacher,
    default=CompressTeacher(),
    needs=lambda recipe: ("train_teacher",),
    uses=("data", "teacher"),
    version=2,
    teacher=True,
    rehearse=_rehearse_compression,
)
