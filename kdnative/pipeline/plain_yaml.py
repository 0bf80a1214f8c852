"""YAML as far as recipes need it: words, numbers, lists and tables; everything else is refused with its line.

Aliases and anchors could unfold a small file into one of any size, or into one that contains itself; tags could ask for
any kind of value. No recipe needs them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

from kdnative.extras import require
from kdnative.shown import printable, shown

__all__ = ["LARGEST", "Location", "RecipeError", "parse"]

Location = tuple[str, ...]

# Far above any recipe that a person writes, and read in less than two seconds whatever it holds.
LARGEST = 64 * 1024  # characters
MOST = 5000  # words, lists and tables
DEEPEST = 12  # lists and tables inside one another
LONGEST = 2000  # characters of one word

_PLAIN = ("str", "int", "float", "bool", "null")
_QUOTE = 'a pattern that starts with * needs quotes, such as "*.attention.*"'


class RecipeError(ValueError):
    """A recipe that can't be run; the text names file, line, key, what was given and what is allowed."""


def parse(text: str, place: Callable[[int], str]) -> tuple[Any, dict[Location, int]]:
    """The value that a YAML text describes, and the line of every key and list entry in it.

    Args:
        text: one document.
        place: says for a line, counted from 1, where that is; errors begin with it.

    Raises:
        RecipeError: not YAML, or more than words, whole numbers within 64 bits, fractions, true, false, null, lists,
            and tables whose keys are words or whole numbers, each given once.
    """
    yaml = require("yaml")
    if len(text) > LARGEST:
        raise RecipeError(f"{place(1)}: {len(text):,} characters are too many: a recipe has at most {LARGEST:,}")
    try:
        return _Builder(_loader(yaml, text, place), place).all()
    except yaml.reader.ReaderError as error:  # no mark: the text is looked through before anything is read
        line = text.count("\n", 0, error.position) + 1
        character = f"U+{ord(text[error.position]):04X}"
        raise RecipeError(f"{place(line)}: not valid YAML: the character {character} is not allowed") from error
    except yaml.YAMLError as error:
        raise RecipeError(_in_words(error, place)) from error


def _loader(yaml: Any, text: str, place: Callable[[int], str]) -> Any:
    """A loader that stops at the first thing that recipes do not have, before anything is built from it."""

    class Plain(yaml.SafeLoader):
        count = depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.peek_event()
            where = place(event.start_mark.line + 1)
            if event.anchor is not None:
                raise RecipeError(
                    f"{where}: anchors (&) and aliases (*) are not allowed in recipes: write the value out; {_QUOTE}"
                )
            if event.tag is not None:
                raise RecipeError(
                    f"{where}: tags such as {printable(event.tag)[:100]} are not allowed in recipes: leave the tag out"
                )
            self.count, self.depth = self.count + 1, self.depth + 1
            if self.depth > DEEPEST:
                raise RecipeError(f"{where}: lists and tables are nested more than {DEEPEST} deep")
            if self.count > MOST:
                raise RecipeError(f"{where}: more than {MOST:,} keys and values")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    return Plain(text)


class _Builder:
    """Makes values of what a loader composed."""

    def __init__(self, loader: Any, place: Callable[[int], str]) -> None:
        self.loader, self.place = loader, place
        self.lines: dict[Location, int] = {}

    def all(self) -> tuple[Any, dict[Location, int]]:
        node = self.loader.get_single_node()
        return (None if node is None else self.value(node, ())), self.lines

    def value(self, node: Any, at: Location) -> Any:
        if node.id == "mapping":
            return self.table(node, at)
        if node.id == "sequence":
            return [self.entry(inner, (*at, str(i))) for i, inner in enumerate(node.value)]
        return self.word(node)

    def table(self, node: Any, at: Location) -> dict[str | int, Any]:
        found: dict[str | int, Any] = {}
        for key, inner in node.value:
            name = self.word(key) if key.id == "scalar" else None
            if not isinstance(name, str | int) or isinstance(name, bool):
                given = shown(key.value) if key.id == "scalar" else f"a {'table' if key.id == 'mapping' else 'list'}"
                raise RecipeError(f"{self.where(key)}: a key must be a word or a whole number, got {given}")
            where = (*at, str(name))  # keys of a layer map are integers, in YAML and where pydantic names them text
            if where in self.lines:
                dotted = printable(".".join(where))
                raise RecipeError(f"{self.where(key)}: {dotted} is already given in line {self.lines[where]}")
            self.lines[where] = self.line(key)
            found[name] = self.value(inner, where)
        return found

    def entry(self, node: Any, at: Location) -> Any:
        self.lines[at] = self.line(node)
        return self.value(node, at)

    def word(self, node: Any) -> str | int | float | bool | None:
        if len(node.value) > LONGEST:
            raise RecipeError(
                f"{self.where(node)}: a value of {len(node.value):,} characters is too long: at most {LONGEST:,} "
                "are allowed"
            )
        for character in node.value:
            if unicodedata.category(character) in ("Cc", "Cs"):  # controls, and halves of a character
                raise RecipeError(
                    f"{self.where(node)}: the character U+{ord(character):04X} is not allowed in {shown(node.value)}"
                )
        if node.tag.rpartition(":")[2] not in _PLAIN:  # dates and the like are words here
            return node.value
        try:
            value = self.loader.construct_object(node)
        except (ValueError, OverflowError) as error:
            raise RecipeError(f"{self.where(node)}: {shown(node.value)} is not a number") from error
        if type(value) is int and not -(2**63) <= value < 2**63:
            raise RecipeError(f"{self.where(node)}: {shown(node.value)} is too large a number")
        return value

    def line(self, node: Any) -> int:
        return node.start_mark.line + 1

    def where(self, node: Any) -> str:
        return self.place(self.line(node))


def _in_words(error: Any, place: Callable[[int], str]) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = ", ".join(printable(part) for part in (error.context, error.problem) if part)
    hint = f" ({_QUOTE})" if error.context in ("while scanning an alias", "while scanning an anchor") else ""
    return f"{place(1 if mark is None else mark.line + 1)}: not valid YAML: {problem[:300]}{hint}"
