"""The gate of `convert`: the fewest bits that the validation split shows to keep a budget."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from torch import nn

from kdnative.pipeline.folder import PipelineError
from kdnative.pipeline.stages.base import Context
from kdnative.pipeline.stages.training import VALIDATION_BATCH, encoded
from kdnative.tasks import task_named

if TYPE_CHECKING:
    from kdnative.convert.report import ConversionReport
    from kdnative.pipeline.schema import Recipe
    from kdnative.precision import GateReport

__all__ = ["check_budget", "plan_of", "shares", "through_the_gate"]


def through_the_gate(
    context: Context, model: nn.Module, schemes: Any, options: dict[str, Any]
) -> tuple[ConversionReport, dict[str, Any]]:
    """The conversion that keeps the budget, and figures of how it was found.

    Args:
        model: the float student, on the CPU; converted in place.
        schemes: of the recipe. options: of `convert_`.

    Raises:
        PipelineError: no conversion keeps the budget, or the validation split can't show it.
    """
    from kdnative import convert_
    from kdnative.precision import Gate, GateError

    gate = Gate(
        data=encoded(context, context.recipe.student_source, "validation"),
        seed=context.recipe.seed,
        batch_size=VALIDATION_BATCH,
        show=lambda text: context.log.info("convert: %s", text),
        **_settings(context.recipe),
    )
    try:
        report = convert_(model, schemes, gate=gate, **options)
    except GateError as error:
        raise PipelineError(f"convert.gate: {error}") from error
    context.log.info("convert: %s", report.gate)
    return report, {"gate": report.gate.to_dict(), "schemes": _told(report.gate, context.recipe)}


def _told(found: GateReport, recipe: Recipe) -> dict[str, str | None]:
    """What `convert_` would be told, to do the same without a gate."""
    from kdnative.precision import FLOAT

    told = {f"re:{re.escape(name)}": None if s == FLOAT else s for name, s in found.assignment.items()}
    rest = recipe.final_schemes()
    return told | (rest if isinstance(rest, dict) else {"*": rest})


def _settings(recipe: Recipe) -> dict[str, Any]:
    """The arguments of `kdnative.precision.Gate` that a recipe has, with the task's metric where it names none.

    Latencies are those of the benchmark's case."""
    found = {**dict(recipe.convert.gate), "latency_rows": recipe.benchmark.batch * recipe.benchmark.tokens}
    found["metric"] = found["metric"] or ("mse" if task_named(recipe.task).numbers else "agreement")
    return found


def check_budget(recipe: Recipe, examples: int) -> None:
    """Refuses a gate that can't pass any student, as far as that is known before one is trained.

    Args:
        examples: of the validation split.

    Raises:
        PipelineError: a budget that is none, a metric of other answers than the task's, or too few examples.
    """
    from kdnative.precision import Gate
    from kdnative.precision.metrics import metric_named

    settings = _settings(recipe)
    try:
        metric_named(settings["metric"], "values" if task_named(recipe.task).numbers else "classes")
        needed = Gate(data=None, **settings).least_examples
    except ValueError as error:
        raise PipelineError(f"convert.gate: {error}") from error
    if examples < needed:
        raise PipelineError(
            f"convert.gate: a drop of {settings['max_drop']:g} can't be shown with {examples:,} validation "
            f"examples: even a student without any difference needs about {needed:,}. Hold out more examples "
            "(data.split, data.validation), or raise convert.gate.max_drop"
        )


def plan_of(recipe: Recipe) -> str:
    """What the gate would keep, for `--check`; empty without one."""
    if recipe.convert.gate is None:
        return ""
    settings = _settings(recipe)
    return f"gate: {settings['metric']} may drop by {settings['max_drop']:g}"


def shares(found: dict[str, Any]) -> str:
    """Of the figures of a gate: which scheme has what share of the weights."""
    accepted = next(trial for trial in reversed(found["trials"]) if trial["passed"])
    return ", ".join(f"{share:.0%} {scheme}" for scheme, share in accepted["shares"].items())
