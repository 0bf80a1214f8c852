"""From the plain student to packed modules on native kernels, always on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from kdnative.evaluate import predict
from kdnative.pipeline.models import parameters
from kdnative.pipeline.schemes import of_bits
from kdnative.pipeline.sections import Convert
from kdnative.pipeline.stages.base import Context, Row, Stage
from kdnative.pipeline.stages.calibrating import student_calibration, to_the_nearest, with_calibration
from kdnative.pipeline.stages.gating import plan_of, through_the_gate
from kdnative.pipeline.stages.recovering_networks import restore
from kdnative.pipeline.stages.training import (
    VALIDATION_BATCH,
    compared,
    encoded,
    load_model,
    save_model,
)

if TYPE_CHECKING:
    from kdnative.pipeline.rehearsed_models import Rehearsal


def _convert(context: Context) -> dict[str, Any]:
    from kdnative import convert_

    recipe = context.recipe
    source = recipe.student_source
    model = load_model(context, recipe.student_before("convert"))
    count = parameters(model)
    validation = encoded(context, source, "validation")
    before = predict(model, validation, batch_size=VALIDATION_BATCH, device=context.device)
    if recipe.recover is not None and context.task.pictures:
        restore(context, model)
    options = conversion_options(context, model, trained=recipe.recover is not None)
    schemes = recipe.schemes_to_convert()
    if recipe.convert.gate is None:
        report, gate = convert_(model.cpu(), schemes, **options), {}
    else:
        report, gate = through_the_gate(context, model.cpu(), schemes, options)
    after = predict(report.model, validation, batch_size=VALIDATION_BATCH, device="cpu")
    context.log.info("convert: conversion report\n%s", report)
    changed = compared(context, before, after)
    _warn(context, changed["agreement"])
    return {
        "bytes": save_model(context, report.model, source),
        "parameters": count,
        "conversion": report.to_dict()["rows"],
        "validation": changed,
        **gate,
    }


def final_schemes(context: Context) -> Any:
    """Schemes of the final student, of a gate those that it chose, once `convert` is finished."""
    gated = context.recipe.convert.gate is not None
    return context.run.metrics("convert")["schemes"] if gated else context.recipe.final_schemes()


def _warn(context: Context, agreement: float) -> None:
    """Of 4 bits that nobody chose by their inputs: what that cost, and the cure."""
    recipe = context.recipe
    rounded = of_bits(4, recipe.final_schemes())
    if rounded and recipe.calibrate is None and recipe.recover is None and recipe.convert.gate is None:
        context.log.warning(
            "convert: weights in %s are rounded to nearest; on the validation split the native student gives "
            "the float student's answer for %.1f %% of the examples. To lose less, set calibrate: {}",
            rounded[0],
            100 * agreement,
        )


def conversion_options(
    context: Context, model: nn.Module, *, trained: bool = False, calibrated: bool = True
) -> dict[str, Any]:
    """How `convert` converts.

    Args:
        model: the float student.
        trained: for the student that `recover` trained, whose layers have their weights.
        calibrated: with the weights of `calibrate`, if the recipe has it; else rounded to the nearest.
    """
    settings = context.recipe.convert
    options = {"keep": settings.keep, "embeddings": settings.embeddings, "clip_search": settings.clip_search}
    schemes = context.recipe.schemes_to_convert()
    if trained:
        return options
    options |= context.kind.conversion(context, context.recipe.student_source, model, schemes)
    if calibrated and (found := student_calibration(context)) is not None:
        return {**options, "calibration": found}
    if settings.gate is not None:  # of 8 bits, or a row that is compared: else the gate would calibrate by itself
        return {**options, "method": "rtn"}
    return options if settings.clip_search else {**options, **to_the_nearest(context.recipe.final_schemes())}


def _rehearse(rehearsal: Rehearsal) -> None:
    recipe = rehearsal.recipe
    for key, schemes in (("keep", "w8a8"), ("schemes", recipe.final_schemes())):
        with rehearsal.blaming(f"convert.{key}", {"convert"}):
            rehearsal.check_conversion(rehearsal.student, schemes, recipe.convert.keep)


NATIVE = Row("native", "quantized, native")
CONVERT = Stage(
    "convert",
    _convert,
    does="Converts the student to packed native modules. The result is the final student.",
    section=Convert,
    default=Convert(),
    needs=lambda recipe: (recipe.student_before("convert"), *with_calibration(recipe)),
    uses=("data", "teacher", "student", "recover"),  # where it has no schemes, it takes those of `recover`
    times=lambda recipe: recipe.convert.gate is not None and recipe.convert.gate.minimise == "ms",
    version=2,
    row=NATIVE,
    plan=plan_of,
    rehearse=_rehearse,
)
