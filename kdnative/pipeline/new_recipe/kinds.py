"""What kind of values a column holds."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kdnative.data.columns import is_missing

__all__ = ["NAMES_OF_LABELS", "Described", "name_parts"]

NEARLY_ALL = 0.95
_DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ]\d{1,2}:\d{2}.*)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}( \d{1,2}:\d{2}.*)?"
    r"|\d{1,2}:\d{2}(:\d{2})?"
    r"|(\d{1,2} )?(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.? \d{1,2}?,? ?\d{2,4}",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"(https?://|www\.|/|[A-Za-z]:\\)\S*|\S+@\S+\.\w+")
_CODE = re.compile(r"(?=.*\d)[A-Za-z0-9_.:/-]+")
_LIST = re.compile(r"\s*\[.*\]\s*", re.DOTALL)
_NAME_OF_ID = {"id", "ids", "idx", "index", "uuid", "guid", "key", "unnamed", "no", "row", "rowid", "asin", "isbn"}
NAMES_OF_LABELS = set(
    "label labels class classes category categories target sentiment star stars rating ratings score scores intent "
    "topic polarity emotion gold y grade similarity relevance toxic toxicity spam severity priority "
    "outcome tag tags genre verdict stance annotation department type humor sarcasm hate answer".split()
)
_NAME_OF_DATE = {"date", "time", "timestamp", "datetime", "created", "updated", "year", "month", "day", "unixtime"}


@dataclass(frozen=True)
class Described:
    """A column and what its values look like.

    Attributes:
        values: as they are in the file, None where a row lacks the column.
    """

    name: str
    values: Sequence[Any]

    @cached_property
    def given(self) -> list[Any]:
        """The values that are there."""
        return [value for value in self.values if not is_missing(value)]

    @property
    def missing(self) -> int:
        return len(self.values) - len(self.given)

    @cached_property
    def counts(self) -> dict[str, int]:
        """How often each value occurs, as the name of a class."""
        found: dict[str, int] = {}
        for value in self.given:
            name = str(value).strip()
            found[name] = found.get(name, 0) + 1
        return found

    @property
    def distinct(self) -> int:
        return len(self.counts)

    @property
    def few(self) -> bool:
        """Whether the values repeat as those of classes do."""
        return self.distinct <= max(2, len(self.given) // 5)

    @cached_property
    def words(self) -> float:
        """The mean number of words."""
        return sum(len(str(value).split()) for value in self.given) / max(1, len(self.given))

    @cached_property
    def numbers(self) -> list[float]:
        """The values that are numbers."""
        return [n for n in map(_number, self.given) if n is not None]

    @cached_property
    def kind(self) -> str:
        """One of empty, list, flag, number, date, address, id, words."""
        if not self.given:
            return "empty"
        if self._most(lambda v: isinstance(v, list | dict) or (isinstance(v, str) and bool(_LIST.fullmatch(v)))):
            return "list"
        if all(isinstance(v, bool) or str(v).strip().casefold() in ("true", "false") for v in self.given):
            return "flag"
        parts = set(name_parts(self.name))
        if len(self.numbers) >= NEARLY_ALL * len(self.given):
            return self._kind_of_numbers(parts)
        if not all(isinstance(v, str) for v in self.given):
            return "list" if any(isinstance(v, list | dict) for v in self.given) else "words"
        for kind, pattern in (("date", _DATE), ("address", _ADDRESS)):
            if self._most(lambda v, pattern=pattern: bool(pattern.fullmatch(v.strip()))):
                return kind
        single = self._most(lambda v: bool(_CODE.fullmatch(v.strip())))
        if (
            self.distinct == len(self.given)
            and len(self.given) > 2
            and (single or (parts & _NAME_OF_ID and self.words <= 1))
        ):
            return "id"
        return "words"

    def _kind_of_numbers(self, parts: set[str]) -> str:
        whole = all(n == int(n) for n in self.numbers)
        if not whole:
            return "number"
        if parts & _NAME_OF_DATE:
            return "date"
        classes = self.few and bool(parts & NAMES_OF_LABELS)  # label_id, category_no
        if parts & _NAME_OF_ID and self.distinct > 2 and not classes:
            return "id"
        counted = len(self.given) > 2 and self.distinct == len(self.given)
        ascending = all(a < b for a, b in zip(self.numbers, self.numbers[1:], strict=False))
        return "id" if counted and ascending else "number"

    @property
    def whole(self) -> bool:
        """Whether every value is a whole number, such as 3 or "3"; "3.0" counts."""
        return len(self.numbers) == len(self.given) and all(n == int(n) for n in self.numbers)

    def _most(self, test: Any) -> bool:
        return sum(map(test, self.given)) >= NEARLY_ALL * len(self.given)


def name_parts(name: str) -> list[str]:
    """The words of a column's name: "reviewBody_2" has review, body and 2."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [part.casefold() for part in re.findall(r"[^\W\d_]+|\d+", apart)]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str) or (isinstance(value, str) and "_" in value):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
