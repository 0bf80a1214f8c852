"""Where a file or a data set of the hub keeps the fields of an example, and how its labels are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdnative.data.labels import label_name, label_number
from kdnative.data.types import PAIR, TEXT

__all__ = ["DELIMITERS", "Columns", "is_missing"]

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t"}


@dataclass(frozen=True)
class Columns:
    """Names of columns.

    Attributes:
        text: of the texts. text_pair: of the second ones; None: there are none.
        label: of the labels; None reads unlabelled data.
        numbers: labels are targets, not names of classes.
        unlabelled: rows without a label are kept; else they are errors.
        delimiter: of .csv and .tsv files, a key of `DELIMITERS`; None: as the suffix says.
    """

    text: str = "text"
    text_pair: str | None = None
    label: str | None = "label"
    numbers: bool = False
    unlabelled: bool = False
    delimiter: str | None = None

    @property
    def texts(self) -> dict[str, str]:
        """{field: column}."""
        return {TEXT: self.text} if self.text_pair is None else {TEXT: self.text, PAIR: self.text_pair}

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.texts.values(), *(() if self.label is None else (self.label,)))

    @property
    def options(self) -> str:
        """How a user names the columns, in words."""
        pair = "" if self.text_pair is None else ", text_pair_column="
        key = "" if self.text_pair is None else ", data.text_pair"
        return f"text_column={pair} and label_column= (None: unlabelled), in a recipe data.text{key} and data.label"

    def target(self, value: Any, where: str) -> str | float | None:
        """A label as it is written in a row: a class's name, a number, or None for no label.

        Raises:
            DataError: it is none of these; `where` says which row's.
        """
        if self.label is None or (self.unlabelled and is_missing(value)):
            return None
        return (label_number if self.numbers else label_name)(value, self.label, where)


def is_missing(value: Any) -> bool:
    """Whether a value is none: null, NaN, or a text of white space."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())
