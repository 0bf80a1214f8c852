"""The reference of recipe keys in docs/recipes.md, written from the schema."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kdnative.pipeline.schema import Recipe
from kdnative.pipeline.sections import Section
from kdnative.pipeline.stages import recipe_class

__all__ = ["BEGIN", "END", "reference", "with_reference"]

BEGIN = "<!-- recipe keys: written by `make recipe-keys`, from kdnative/pipeline/schema.py and sections.py -->"
END = "<!-- end of recipe keys -->"
_WORDS = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`", type(None): "null"}
_BOUNDS = {"ge": "from", "gt": "above", "le": "up to", "lt": "below"}


def reference() -> str:
    """A table of keys for each class of sections, in the order of recipes."""
    recipe = recipe_class()
    sections = _sections(recipe)
    parts = [_table(Recipe, sections), _overview(recipe)]
    written: list[type[Section]] = []
    for section in sections.values():
        for kind in _ancestry(section):
            if kind not in written:
                written.append(kind)
                parts.append(_table(kind, sections))
    return "\n\n".join(parts)


def with_reference(page: str) -> str:
    """The text of a page with the reference between its two marks.

    Raises:
        ValueError: the page lacks a mark.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {BEGIN!r} and {END!r}, in this order")
    return f"{before}{BEGIN}\n\n{reference()}\n\n{END}{after}"


def _sections(model: type[BaseModel], above: str = "") -> dict[str, type[Section]]:
    """Every section by its dotted name."""
    found: dict[str, type[Section]] = {}
    for name, field in model.model_fields.items():
        section = _section_in(field.annotation)
        if section is not None:
            found[above + name] = section
            found |= _sections(section, f"{above}{name}.")
    return found


def _section_in(annotation: Any) -> type[Section] | None:
    members = typing.get_args(annotation) or (annotation,)
    return next((m for m in members if isinstance(m, type) and issubclass(m, Section)), None)


def _ancestry(section: type[Section]) -> list[type[Section]]:
    """The classes with keys of their own that a section is made of, itself last."""
    kinds = [k for k in section.__mro__ if issubclass(k, Section) and k is not Section]
    return [k for k in reversed(kinds) if _own_keys(k)]


def _own_keys(kind: type[Section]) -> dict[str, FieldInfo]:
    own = vars(kind).get("__annotations__", {})
    return {name: field for name, field in kind.model_fields.items() if name in own}


def _table(kind: type[Section], sections: dict[str, type[Section]]) -> str:
    """A class's heading, what it is for, and its own keys."""
    lines = [f"### {_title(kind, sections)}"]
    if kind is not Recipe:
        lines.append(" ".join((kind.__doc__ or "").split("\n\n")[0].split()))
        users = [f"`{name}`" for name, other in sections.items() if issubclass(other, kind) and other is not kind]
        inherited = [_title(other, sections) for other in _ancestry(kind) if other is not kind]
        lines += [f"These are also keys of {_and(users)}."] if users else []
        lines += (
            [f"In addition to the keys of {_and([f'[{title}](#{_anchor(title)})' for title in inherited])}:"]
            if inherited
            else []
        )
    rows = ["| key | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for name, field in _own_keys(kind).items():
        if kind is not Recipe or name not in sections:
            meaning = " ".join((field.description or "").split())
            values = " or ".join(allowed(field.annotation, field.metadata))
            rows.append(f"| `{name}` | {_default(field)} | {values} | {meaning} |")
    return "\n\n".join([*lines, "\n".join(rows)])


def _title(kind: type[Section], sections: dict[str, type[Section]]) -> str:
    """The sections of just this class; of a class that only others inherit, its name."""
    if kind is Recipe:
        return "The recipe"
    return ", ".join(name for name, other in sections.items() if other is kind) or kind.__name__.lower()


def _and(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def _overview(recipe: type[BaseModel]) -> str:
    names = {name: field for name, field in recipe.model_fields.items() if _section_in(field.annotation) is not None}
    required = [f"`{name}`" for name, field in names.items() if field.is_required()]
    optional = [f"`{name}`" for name, field in names.items() if type(None) in typing.get_args(field.annotation)]
    return (
        f"The sections are {_and([f'`{name}`' for name in names])}. Only {_and(required)} are required. "
        f"{_and(optional)} are left out with `null`."
    )


def _anchor(title: str) -> str:
    """The anchor that Markdown renderers give a heading."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, str):
        return f"`{value}`"
    if isinstance(value, Section):  # all of its keys have their defaults
        return "`{}`"
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def allowed(annotation: Any, metadata: Sequence[Any] = ()) -> list[str]:
    """What a value may be, in words: each of the possibilities."""
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return allowed(members[0], (*members[1:], *metadata))
    if origin is Literal:
        return [f"`{m if isinstance(m, str) else json.dumps(m)}`" for m in members]
    if origin in (typing.Union, types.UnionType):
        found = list(dict.fromkeys(words for member in members for words in allowed(member)))
        return sorted(found, key=lambda words: words == _WORDS[type(None)])  # null at the end
    if origin in (list, tuple):
        count = f"{len(members)} " if origin is tuple else ""
        return [f"list of {count}{_plural(' or '.join(allowed(members[0])))}"]
    if origin is dict:
        key, value = (" or ".join(allowed(member)) for member in members)
        return [f"table of {key}: {f'({value})' if ' or ' in value else value}"]
    section = _section_in(annotation)
    if section is not None:
        return [f"keys of {section.__name__.lower()}"]
    bounds = {word: getattr(m, name) for m in _flat(metadata) for name, word in _BOUNDS.items() if _has(m, name)}
    return [" ".join([_WORDS[annotation], ", ".join(f"{word} {value:g}" for word, value in bounds.items())]).rstrip()]


def _flat(metadata: Sequence[Any]) -> list[Any]:
    """Constraints, also those inside of pydantic's `Field`."""
    return [inner for m in metadata for inner in (m.metadata if isinstance(m, FieldInfo) else [m])]


def _has(constraint: Any, name: str) -> bool:
    return isinstance(getattr(constraint, name, None), int | float)


def _plural(words: str) -> str:
    return words.replace("number", "numbers", 1) if "number" in words else words.replace("text", "texts", 1)
