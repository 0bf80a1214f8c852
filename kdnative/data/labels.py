"""Labels as the names of classes, and the order of classes: the same for files and for the hub."""

from __future__ import annotations

from typing import Any

from .types import DataError

__all__ = ["label_name", "label_order"]


def label_name(value: Any, column: str, where: str) -> str:
    """The class that a label stands for: its text without white space around it.

    Args:
        value: a string, an integer or a boolean. Fractions are refused: a column of them is a score, not a class.
        column, where: the label's column, and its file and line (or row), for the message.

    Raises:
        DataError: a value of another kind, a missing one, or an empty string.
    """
    if not isinstance(value, str | int):  # a bool is an int
        raise DataError(
            f"{where}: the label must be a string, an integer or a boolean, not {value!r} (column {column!r})"
        )
    name = str(value).strip()
    if not name:
        raise DataError(f"{where}: the label (column {column!r}) is empty")
    return name


def label_order(label: str) -> tuple[int, int, str]:
    """Sorting key of classes: whole numbers in numerical order, then everything else by its characters."""
    try:
        return (0, int(label), label)
    except ValueError:
        return (1, 0, label)
