"""What a user asked for, module by module: patterns over module names, each with a value or None."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

__all__ = ["Choice", "Selection", "matches", "within"]

T = TypeVar("T")


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern selects the module ``name``: it matches that name, or the name of a module that contains it.

    A pattern is a glob as in :mod:`fnmatch` (``*`` also crosses dots), or, after the prefix ``re:``, a regular
    expression that must match the whole name.
    """
    parts = name.split(".")
    names = [".".join(parts[: i + 1]) for i in range(len(parts))]
    if pattern.startswith("re:"):
        return any(re.fullmatch(pattern[3:], n) for n in names)
    return any(fnmatch.fnmatchcase(n, pattern) for n in names)


def within(name: str, outer: str) -> bool:
    """Whether the module ``name`` is the module ``outer`` or inside it."""
    return outer in ("", name) or name.startswith(f"{outer}.")


@dataclass(frozen=True)
class Choice(Generic[T]):
    """What was asked for one module: a value, or None and why; explicit when a pattern other than ``*`` says so."""

    value: T | None
    reason: str = ""
    explicit: bool = False


class Selection(Generic[T]):
    """Values by module name, and exceptions.

    Args:
        schemes: one value for everything, or ``{pattern: value or None}`` where the first match wins, None leaves
            the module as it is, and modules that nothing matches stay as they are.
        keep: patterns of modules that stay as they are whatever ``schemes`` says.
        parse: makes the value of what the user gave, such as :meth:`kdnative.formats.scheme.Scheme.parse`.

    Raises:
        ValueError: no value for any pattern, or a broken regular expression. TypeError: a pattern that is no string.
        What ``parse`` raises.
    """

    UNMATCHED = "no pattern of schemes matches its name"

    def __init__(
        self,
        schemes: Any | Mapping[str, Any],
        keep: Iterable[str] = (),
        parse: Callable[[Any], T] = lambda value: value,
    ) -> None:
        self.keep = (keep,) if isinstance(keep, str) else tuple(keep)
        if isinstance(schemes, Mapping):
            if not schemes:
                raise ValueError("schemes is an empty mapping: give a scheme such as 'w8a8', or {pattern: scheme}")
            self.values = {p: None if s is None else parse(s) for p, s in schemes.items()}
        else:
            self.values = {"*": parse(schemes)}
        for pattern in (*self.keep, *self.values):
            _check_pattern(pattern)

    def choose(self, name: str) -> Choice[T]:
        """What was asked for the module ``name``."""
        for pattern in self.keep:
            if matches(pattern, name):
                return Choice(None, f"asked for by keep={pattern!r}")
        for pattern, value in self.values.items():
            if matches(pattern, name):
                reason = "" if value is not None else f"schemes asks for float: {pattern!r} is None"
                return Choice(value, reason, explicit=pattern != "*")
        return Choice(None, self.UNMATCHED)

    def check_used(self, names: list[str]) -> None:
        """ValueError when a pattern matches none of ``names``."""
        for pattern in dict.fromkeys((*self.keep, *self.values)):
            if pattern != "*" and not any(matches(pattern, name) for name in names):
                shown = ", ".join(names[:40]) + (f", ... ({len(names) - 40} more)" if len(names) > 40 else "")
                raise ValueError(f"pattern {pattern!r} matches no module; the names are: {shown or '(none)'}")


def _check_pattern(pattern: str) -> None:
    if not isinstance(pattern, str):
        raise TypeError(f"a pattern is a string, not {type(pattern).__name__}: {pattern!r}")
    if pattern.startswith("re:"):
        try:
            re.compile(pattern[3:])
        except re.error as error:
            raise ValueError(f"pattern {pattern!r} is no regular expression: {error}") from error
