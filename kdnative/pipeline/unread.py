"""Columns of a file that look like texts and that a recipe does not read: likely the second half of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnative.data import DataError
from kdnative.data.datasets import files_of
from kdnative.data.sniff import read_sheet
from kdnative.data.tables import SUFFIXES
from kdnative.shown import listed
from kdnative.tasks import TASKS, Task

if TYPE_CHECKING:
    from kdnative.pipeline.schema import Data

__all__ = ["unread_texts"]

_LOOKED_AT = 2**20  # bytes of the file
_WORDS = 3.0  # on average, from which a column is text


def unread_texts(data: Data, task: Task) -> list[str]:
    """A note where a file has more columns of texts than a task of one text reads; for other sources none.

    Of a folder the training file is looked at.
    """
    path = Path(data.source)
    if path.is_dir():
        try:
            path = files_of(path)["train"]
        except DataError:  # reading it says what is wrong
            return []
    if task.pair or path.suffix.lower() not in SUFFIXES or not path.is_file():
        return []
    try:
        columns = read_sheet(path, _LOOKED_AT).columns
    except DataError:  # reading all of it says what is wrong
        return []
    unread = [name for name, values in columns.items() if name not in (data.text, data.label) and _are_texts(values)]
    if not unread:
        return []
    pairs = next(other.name for other in TASKS.values() if other.pair and other.numbers == task.numbers)
    return [
        f"{path.name}: {listed(unread)} looks like text but is not read: the task {task.name} reads one text, "
        f"{data.text!r}. If the two texts form a pair, set task: {pairs} and data.text_pair"
    ]


def _are_texts(values: Sequence[Any]) -> bool:
    """Whether values are mostly different strings of several words."""
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    words = sum(len(text.split()) for text in texts)
    return words >= _WORDS * max(len(values), 1) and 2 * len(set(texts)) > len(texts)
