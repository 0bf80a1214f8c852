"""Text from files and users, as it may be shown on a terminal."""

from __future__ import annotations

__all__ = ["printable"]

_LONGEST = 4000


def printable(text: str) -> str:
    """``text`` without what a terminal would obey: control characters and lone surrogates become escapes.

    Line ends and tabs stay. Of very long texts the middle is left out.
    """
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
