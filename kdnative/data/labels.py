"""Labels as the names of classes or as targets, and the order of classes: the same for files and for the hub."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

from kdnative.data.types import DataError, KindError
from kdnative.shown import shown

__all__ = ["label_name", "label_number", "label_order"]

LONGEST = 1000  # characters of a class name


def label_name(value: Any, column: str, where: str) -> str:
    """The class that a label stands for: its text without white space around it.

    Args:
        value: a string, an integer or a boolean. Fractions are refused: a column of them is a score, not a class.
        column, where: the label's column, and its file and line (or row), for the message.

    Raises:
        DataError: a value of another kind, a missing one, an empty string, or what can't be the name of a class.
    """
    if not isinstance(value, str | int):  # a bool is an int
        raise KindError(
            f"{where}: the label must be a string, an integer or a boolean, not {shown(value)} (column {shown(column)})"
            f"; {_cure(value)}"
        )
    name = str(value).strip()
    if not name:
        raise DataError(f"{where}: the label (column {shown(column)}) is empty")
    if len(name) > LONGEST:
        raise DataError(
            f"{where}: the label (column {shown(column)}) has {len(name):,} characters, at most {LONGEST:,}: is this "
            "the column of the labels?"
        )
    if not name.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        raise DataError(
            f"{where}: the label {shown(name)} (column {shown(column)}) has characters that are not allowed in a text"
        )
    return name


def _cure(value: Any) -> str:
    """What to do about a label that names no class."""
    if isinstance(value, float) and not math.isnan(value):
        return "for numbers, use a regression task: in a recipe task: text-regression or sentence-pair-regression"
    if isinstance(value, list | dict):
        return "give one label for each text: recipes have no task for multi-label data, word tags or answers in a text"
    return "for rows without a label, set data.unlabelled: keep in the recipe"


def label_number(value: Any, column: str, where: str) -> float:
    """A target: a finite number, or a text that is one.

    Raises:
        DataError: anything else, booleans included.
    """
    try:
        number = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or (isinstance(value, str) and "_" in value):  # Python reads 1_000
        raise KindError(
            f"{where}: the label must be a finite number, not {shown(value)} (column {shown(column)}); for "
            "classes, use a classification task: in a recipe task: text-classification or "
            "sentence-pair-classification"
        )
    return number


def label_order(label: str) -> tuple[int, int, str]:
    """Sorting key of classes: whole numbers in numerical order, then everything else by its characters."""
    try:
        return (0, int(label), label)
    except ValueError:
        return (1, 0, label)
