"""Tasks: what a model is asked for. A new one inherits `Task` and is put into `TASKS`; docs/recipes.md lists them."""

from __future__ import annotations

from kdnative.shown import shown
from kdnative.tasks.base import Measure, Task, Validation
from kdnative.tasks.classification import TextClassification
from kdnative.tasks.regression import TextRegression

__all__ = ["SERVED", "TASKS", "Measure", "Task", "TextClassification", "TextRegression", "Validation", "task_named"]

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        TextClassification("text-classification"),
        TextRegression("text-regression"),
        TextClassification("sentence-pair-classification", pair=True),
        TextRegression("sentence-pair-regression", pair=True),
    )
}

SERVED = (
    "Recipes serve one class or one number for a text, or for a pair of texts (task: "
    f"{', '.join(TASKS)}). For other tasks, train with the parts of kdnative and convert with kdnative.convert_"
)
"""What recipes are for, as errors and helps say it."""


def task_named(name: str) -> Task:
    """The task of a recipe.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in TASKS:
        raise ValueError(f"there is no task {shown(name)}; there are {', '.join(TASKS)}")
    return TASKS[name]
