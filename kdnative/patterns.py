"""Which scheme a user asked for, module by module: patterns over module names."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kdnative.formats.scheme import Scheme

__all__ = ["Choice", "Selection", "matches", "within"]


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
class Choice:
    """What was asked for one module: a scheme, or None and why; explicit when a pattern other than ``*`` says so."""

    scheme: Scheme | None
    reason: str = ""
    explicit: bool = False


class Selection:
    """The schemes and exceptions that a call of `convert_` was given.

    Args:
        schemes: one scheme for everything, or ``{pattern: scheme or None}`` where the first match wins, None keeps
            the module in float, and modules that nothing matches stay in float.
        keep: patterns of modules that stay in float whatever ``schemes`` says.

    Raises:
        ValueError: an unknown scheme or a broken regular expression. TypeError: arguments of another kind.
    """

    UNMATCHED = "no pattern of schemes matches its name"

    def __init__(self, schemes: str | Scheme | Mapping[str, str | Scheme | None], keep: Iterable[str] = ()) -> None:
        self.keep = (keep,) if isinstance(keep, str) else tuple(keep)
        if isinstance(schemes, Mapping):
            if not schemes:
                raise ValueError("schemes is an empty mapping: give a scheme such as 'w8a8', or {pattern: scheme}")
            self.schemes = {p: None if s is None else Scheme.parse(s) for p, s in schemes.items()}
        else:
            self.schemes = {"*": Scheme.parse(schemes)}
        for pattern in (*self.keep, *self.schemes):
            _check_pattern(pattern)

    def choose(self, name: str) -> Choice:
        """What was asked for the module ``name``."""
        for pattern in self.keep:
            if matches(pattern, name):
                return Choice(None, f"asked for by keep={pattern!r}")
        for pattern, scheme in self.schemes.items():
            if matches(pattern, name):
                reason = "" if scheme else f"schemes asks for float: {pattern!r} is None"
                return Choice(scheme, reason, explicit=pattern != "*")
        return Choice(None, self.UNMATCHED)

    def check_used(self, names: list[str]) -> None:
        """ValueError when a pattern matches none of ``names``."""
        for pattern in dict.fromkeys((*self.keep, *self.schemes)):
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
