"""Calibration: integer weights of the student, chosen by what its layers are given on some training texts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from kdnative.data import Batches
from kdnative.pipeline.schemes import of_bits
from kdnative.pipeline.sections import Calibrate
from kdnative.pipeline.stages.base import Context, Stage
from kdnative.pipeline.stages.training import load_model

if TYPE_CHECKING:
    from pathlib import Path

    from kdnative.pipeline.rehearsed_models import Rehearsal
    from kdnative.pipeline.schema import Recipe
    from kdnative.quantize import Calibration
    from kdnative.quantize.methods import Method

CALIBRATION = "calibration.safetensors"
_STATE = "calibration.state"  # a folder, of a calibration under way


def calibrated(
    context: Context,
    model: nn.Module,
    source: str,
    schemes: Any,
    settings: Calibrate,
    *,
    keep: Iterable[str] = (),
    method: Method | None = None,
    file: str = CALIBRATION,
) -> Calibration:
    """Calibrates a float model on training texts, going on where an interrupted attempt was, and saves the result.

    Args:
        model: in float, on the CPU; it stays as it is.
        source: where the model, and with it its tokenizer, comes from.
        schemes, keep: as for `convert_`.
        method: instead of that of the settings.
        file: name of the result.
    """
    from kdnative.quantize import calibrate_

    path, state = context.folder / file, context.folder / _STATE
    if not path.is_file():
        found = calibrate_(
            model,
            schemes,
            calibration_batches(context, source, settings),
            method=method or settings.method,
            keep=keep,
            sequential=settings.sequential,
            state_path=state,
            progress=context.progress,
        )
        found.save(path)
        context.log.info("%s: %d layers calibrated with %s", context.stage, len(found), found.method)
    # Only now: what is left of a state whose removal was interrupted is not read any more.
    shutil.rmtree(state, ignore_errors=True)
    return calibration_of(context.folder, file)


def calibration_batches(context: Context, source: str, settings: Calibrate) -> list[dict[str, Tensor]]:
    """Inputs of the model from `source`: training texts that are chosen by a hash, longest first."""
    texts = context.data.train.head(settings.texts)
    data = context.kind.encode(context.shared, source, texts)
    return [batch.inputs for batch in Batches(data, settings.batch_size)]


def calibration_of(folder: Path, file: str = CALIBRATION) -> Calibration:
    """What a stage with this output folder has saved."""
    from kdnative.quantize import Calibration

    return Calibration.load(folder / file)


def to_the_nearest(schemes: Any) -> dict[str, str]:
    """The argument of `convert_` that says that rounding is meant, for schemes that want to be asked."""
    return {"method": "rtn"} if of_bits(2, schemes) or of_bits(4, schemes) else {}


def with_calibration(recipe: Recipe) -> tuple[str, ...]:
    """The stage of the student's calibration, for what reads it: none where the recipe leaves it out."""
    return () if recipe.calibrate is None else ("calibrate",)


def student_calibration(context: Context) -> Calibration | dict[str, Calibration] | None:
    """The calibrated weights of the student: for a gate {scheme: weights}; None where `calibrate` is left out."""
    recipe = context.recipe
    if recipe.calibrate is None:
        return None
    folder = context.input("calibrate")
    if recipe.convert.gate is None:
        return calibration_of(folder)
    return {scheme: calibration_of(folder, _file_of(scheme)) for scheme in context.run.metrics("calibrate")["schemes"]}


def _file_of(scheme: str) -> str:
    return f"calibration-{scheme}.safetensors"


def _calibrate(context: Context) -> dict[str, Any]:
    recipe = context.recipe
    model = load_model(context, recipe.student_before("calibrate"))
    if recipe.convert.gate is None:
        schemes, keep = recipe.calibrated_schemes(), recipe.convert.keep if recipe.recover is None else ()
        how: dict[str, Any] = {"keep": keep, "method": _ternary(recipe)}
        found = [calibrated(context, model, recipe.student_source, schemes, context.settings, **how)]
        names = sorted({row.scheme for row in found[0].rows})
    else:
        wanted = _by_scheme(recipe, model)
        names, source, settings = list(wanted), recipe.student_source, context.settings
        found = [calibrated(context, model, source, s, settings, file=_file_of(name)) for name, s in wanted.items()]
    rows = [asdict(row) for one in found for row in one.rows]
    return {"method": ", ".join(dict.fromkeys(one.method for one in found)), "schemes": names, "layers": rows}


def _ternary(recipe: Recipe) -> Method | None:
    """The method of weights that `recover` goes on with in three codes alone."""
    from kdnative.quantize.methods import Ternary

    step = None if recipe.recover is None else recipe.recover.ternary
    return None if step is None else Ternary(step=step)


def _by_scheme(recipe: Recipe, model: nn.Module) -> dict[str, dict[str, str]]:
    """For each scheme that the gate may choose, which layers are to be calibrated for it."""
    from kdnative.precision.ladder import Ladder

    settings = recipe.convert
    ladder = Ladder.of(model, recipe.schemes_to_convert(), keep=settings.keep, embeddings=settings.embeddings)
    return {
        scheme: {f"re:{re.escape(name)}": scheme for name, options in ladder.options.items() if scheme in options}
        for scheme in ladder.schemes()
    }


def _plan(recipe: Recipe) -> str:
    settings, ternary = recipe.calibrate, _ternary(recipe)
    if ternary is not None:
        return f"{ternary.name}, {settings.texts:,} training texts"
    return f"{settings.method or 'smoothquant for w8a8, else gptq'}, {settings.texts:,} training texts"


def _rehearse(rehearsal: Rehearsal) -> None:
    recipe = rehearsal.recipe
    key = "recover" if recipe.recover is not None else "convert"
    for name, schemes in (("convert.keep", "w8a8"), (f"{key}.schemes", recipe.calibrated_schemes())):
        with rehearsal.blaming(name, {"calibrate"}):
            rehearsal.check_conversion(rehearsal.student, schemes, recipe.convert.keep)


CALIBRATE = Stage(
    "calibrate",
    _calibrate,
    does="Calibrates the student's quantized weights for `recover`, or for `convert` without `recover`. null "
    "rounds to nearest.",
    section=Calibrate,
    default=None,
    optional=True,
    needs=lambda recipe: (recipe.student_before("calibrate"),),
    uses=("data", "teacher", "student", "recover", "convert"),  # for their schemes
    version=1,
    plan=_plan,
    rehearse=_rehearse,
)
