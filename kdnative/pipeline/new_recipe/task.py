"""Which task fits the labels: classes or numbers."""

from __future__ import annotations

from kdnative.data import DataError
from kdnative.pipeline.new_recipe.kinds import Described, name_parts
from kdnative.pipeline.new_recipe.roles import combined
from kdnative.shown import listed, shown
from kdnative.tasks import TASKS, Task

__all__ = ["choose_task"]

_ORDERED = set("star stars rating ratings score scores grade similarity relevance severity points level rank".split())
_MOST_STEPS = 20  # of a scale that people give ratings on; more different whole numbers are measurements


def choose_task(label: Described, pair: bool, where: str, unsure: list[str]) -> tuple[Task, str]:
    """The task, and why.

    Args:
        label: the column of labels. pair: whether two texts are read.
        where: the file, for messages.
        unsure: gets a sentence where another task may be meant.

    Raises:
        DataError: every row has the same label.
    """
    classes, numbers = (_named(pair, numbers=numbers) for numbers in (False, True))
    if label.distinct < 2:
        raise DataError(
            f"{where}: every label in {shown(label.name)} is {shown(next(iter(label.counts)))}; at least two "
            "different labels are needed. (Only the first part of a large file is read: if the file is "
            "sorted, shuffle it)"
        )
    if label.kind != "number":
        _doubtful_classes(label, unsure)
        return classes, f"{shown(label.name)} has {label.distinct:,} classes"
    if not label.whole:
        return (
            numbers,
            f"{shown(label.name)} holds numbers such as {shown(_fraction(label))}, which can't be class names",
        )
    if any(isinstance(value, float) for value in label.given):
        if label.distinct <= _MOST_STEPS:
            unsure.append(
                f"{shown(label.name)} has {label.distinct:,} whole numbers with a decimal point: if they are "
                f"class numbers, write them without the decimal point, such as {label.numbers[0]:.0f}, and "
                f"give --task {classes.name}"
            )
        return numbers, f"{shown(label.name)} holds numbers with a decimal point"
    if label.distinct == 2:
        return classes, f"{shown(label.name)} has two values: {listed(sorted(label.counts))}"
    return _of_whole_numbers(label, classes, numbers, unsure)


def _of_whole_numbers(label: Described, classes: Task, numbers: Task, unsure: list[str]) -> tuple[Task, str]:
    low, high = int(min(label.numbers)), int(max(label.numbers))
    consecutive = high - low + 1 == label.distinct
    found = f"{shown(label.name)} has {label.distinct:,} whole numbers from {low:,} to {high:,}"
    if label.distinct <= _MOST_STEPS and set(name_parts(label.name)) & _ORDERED:
        unsure.append(
            f"{shown(label.name)} may be a scale or class numbers. It is read as a scale, on which 4 is "
            f"closer to 5 than 1 is. If the labels are classes, give --task {classes.name}"
        )
        return numbers, f"{found}, and its name suggests a scale"
    often = len(label.given) >= 5 * label.distinct
    if consecutive and low in (0, 1) and often:
        return classes, f"{found}, each of them often"
    if label.distinct <= _MOST_STEPS and often:
        unsure.append(
            f"{found}, with gaps, read as class numbers. If they are measurements, give --task {numbers.name}"
        )
        return classes, f"{found}, each of them often"
    return numbers, f"{found}, too many for classes"


def _doubtful_classes(label: Described, unsure: list[str]) -> None:
    absent = [name for name in label.counts if name.casefold() in ("nan", "na", "n/a", "null", "none", "?", "-")]
    if absent:
        unsure.append(f"{listed(absent)} counts as a class; if it means that the label is missing, empty these cells")
    mark = combined(label)
    if mark is not None:
        unsure.append(
            f"some labels look like several labels joined by {shown(mark)}; each combination counts as a "
            "separate class, because a text has one label"
        )
    spellings: dict[str, set[str]] = {}
    for name in label.counts:
        spellings.setdefault(name.casefold(), set()).add(name)
    twice = [sorted(names) for names in spellings.values() if len(names) > 1]
    if twice:
        unsure.append(f"{listed(twice[0])} count as different classes; if they mean the same class, use one spelling")


def _named(pair: bool, numbers: bool) -> Task:
    return next(task for task in TASKS.values() if task.pair == pair and task.numbers == numbers)


def _fraction(label: Described) -> float:
    return next((n for n in label.numbers if n != int(n)), label.numbers[0])
