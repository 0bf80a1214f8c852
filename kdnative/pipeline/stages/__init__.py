"""The stages in their order: written here, and nowhere else.

A stage is a section of the recipe, a folder of the run and, if it says so, a row of the final table. One that is added
with `add_stage` is all that as well.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, create_model

from kdnative.pipeline.schema import Recipe
from kdnative.pipeline.stages.base import ABSENT, Context, Row, Shared, Stage
from kdnative.pipeline.stages.benchmark import BENCHMARK
from kdnative.pipeline.stages.calibrating import CALIBRATE
from kdnative.pipeline.stages.evaluation import EVALUATE
from kdnative.pipeline.stages.native import CONVERT
from kdnative.pipeline.stages.report import REPORT
from kdnative.pipeline.stages.student import DISTIL, PRUNE, RECOVER, TRAIN_BASELINE
from kdnative.pipeline.stages.teacher import COMPRESS_TEACHER, TRAIN_TEACHER

__all__ = ["ABSENT", "Context", "Row", "Shared", "Stage", "add_stage", "recipe_class", "remove_stage"]

_STAGES = [
    TRAIN_TEACHER,
    COMPRESS_TEACHER,
    TRAIN_BASELINE,
    DISTIL,
    PRUNE,
    CALIBRATE,
    RECOVER,
    CONVERT,
    EVALUATE,
    BENCHMARK,
    REPORT,
]
_made: dict[tuple[int, ...], type[Recipe]] = {}


def add_stage(stage: Stage, *, after: str) -> None:
    """Puts a stage behind another one, for every recipe that is read from now on.

    Raises:
        ValueError: a name that recipes have already, or no stage ``after``.
    """
    names = [other.name for other in _STAGES]
    if stage.name in recipe_class().model_fields:
        raise ValueError(f"a stage named {stage.name!r} already exists: give the stage another name")
    if after not in names:
        raise ValueError(
            f"{stage.name!r} can't follow {after!r}, because there is no such stage; the stages are {', '.join(names)}"
        )
    _STAGES.insert(names.index(after) + 1, stage)


def remove_stage(name: str) -> None:
    """Takes a stage out again that `add_stage` put in."""
    _STAGES[:] = [stage for stage in _STAGES if stage.name != name]


def recipe_class() -> type[Recipe]:
    """The class of recipes with a section for each of the stages that there are now."""
    key = tuple(map(id, _STAGES))
    if key not in _made:
        made = create_model("Recipe", __base__=Recipe, **{stage.name: _section(stage) for stage in _STAGES})
        made.stages = tuple(_STAGES)
        _made[key] = made
    return _made[key]


def _section(stage: Stage) -> tuple[Any, Any]:
    """The type and the field of a stage's section."""
    kind = stage.section | None if stage.optional else stage.section
    return kind, Field(default=stage.default, description=stage.does or None)
