"""Values and texts from files and users, as errors quote them and a terminal may show them."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from typing import Any

__all__ = ["listed", "printable", "shown"]

_LONGEST = 4000
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 100, 100, 40
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 12


def shown(value: Any) -> str:
    """``repr`` of a value, on one line and without control characters; of a long one only a part."""
    text = _SHORT.repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def listed(values: Iterable[Any], most: int = 8) -> str:
    """The first of some values, as `shown`, and how many more there are."""
    values = list(values)
    more = f" and {len(values) - most:,} more" if len(values) > most else ""
    return ", ".join(map(shown, values[:most])) + more


def printable(text: str) -> str:
    """``text`` without what a terminal would obey: control characters and lone surrogates become escapes.

    Line ends and tabs stay. Of very long texts the middle is left out.
    """
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
