"""Tasks: what a model is asked for. A new one inherits `Task` and is put into `TASKS`; docs/recipes.md lists them."""

from __future__ import annotations

from kdnative.shown import shown
from kdnative.tasks.base import Measure, Task, Validation
from kdnative.tasks.classification import TextClassification
from kdnative.tasks.regression import TextRegression

__all__ = ["TASKS", "Measure", "Task", "TextClassification", "TextRegression", "Validation", "task_named"]

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        TextClassification("text-classification"),
        TextRegression("text-regression"),
        TextClassification("sentence-pair-classification", pair=True),
        TextRegression("sentence-pair-regression", pair=True),
    )
}


def task_named(name: str) -> Task:
    """The task of a recipe.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in TASKS:
        raise ValueError(f"there is no task {shown(name)}; there are {', '.join(TASKS)}")
    return TASKS[name]
