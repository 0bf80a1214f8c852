"""Tasks: what a model is asked for. A new one inherits `Task` and is put into `TASKS`; docs/recipes.md lists them."""

from __future__ import annotations

from kdnative.shown import shown
from kdnative.tasks.base import Measure, Task, Validation
from kdnative.tasks.classification import TextClassification
from kdnative.tasks.images import ImageClassification
from kdnative.tasks.regression import TextRegression
from kdnative.tasks.texts import TextTask

__all__ = ["SERVED", "TASKS", "ImageClassification", "Measure", "Task", "TextClassification", "TextRegression"]
__all__ += ["TextTask", "Validation", "task_named", "text_task"]

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        TextClassification("text-classification"),
        TextRegression("text-regression"),
        TextClassification("sentence-pair-classification", pair=True),
        TextRegression("sentence-pair-regression", pair=True),
        ImageClassification("image-classification"),
    )
}

SERVED = (
    "Recipes train models that predict one class or one number for a text or a pair of texts, or one class "
    f"for a picture (task: {', '.join(TASKS)}). For other tasks, write your own training loop with "
    "kdnative.distill, and convert the model with kdnative.convert_"
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


def text_task(name: str) -> TextTask:
    """The task of a recipe about texts.

    Raises:
        ValueError: there is none of this name, or it is about pictures.
    """
    task = task_named(name)
    if not isinstance(task, TextTask):
        raise ValueError(
            f"the task {name} reads pictures, but texts are needed here: for pictures start with recipes/vision.yaml"
        )
    return task
