"""Reads a recipe file: YAML to a validated :class:`kdnative.pipeline.schema.Recipe`, errors with key and line."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .extras import require

if TYPE_CHECKING:
    from .schema import Recipe

Location = tuple[Any, ...]


class RecipeError(ValueError):
    """A recipe that can't be run; the text names file, line, key, what was given and what is allowed."""


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and validates a recipe.

    Args:
        path: the YAML file. Paths inside it are relative to the folder that the program runs in.
        overrides: ``"section.key=value"`` texts, values in YAML, applied on top of the file.

    Raises:
        RecipeError: no such file, not YAML, an unknown key, or a value that is not allowed.
        ImportError: pyyaml or pydantic is not installed.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"no recipe at {path}: give the path of a YAML file, see docs/recipes.md") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"can't read the recipe {path}: {error}") from error
    content, lines = _parse(text, path.name)
    for override in overrides:
        _apply(content, override)
    return _validate(content, lines, path.name)


def dump_recipe(recipe: Recipe) -> str:
    """The recipe with every default filled in, as YAML that :func:`load_recipe` reads back to an equal recipe."""
    yaml = require("yaml")
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def _parse(text: str, file: str) -> tuple[dict, dict[Location, int]]:
    yaml = require("yaml")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[Location, int] = {}
        _walk(node, (), lines, file)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{file} must hold 'key: value' lines (name, data, teacher, ...), found {content!r}")
    return content, lines


def _walk(node: Any, location: Location, lines: dict[Location, int], file: str) -> None:
    """Notes the line of every key, and refuses a key given twice (YAML would silently keep the last one)."""
    yaml = require("yaml")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            # Keys of a layer map are integers in YAML and in the location that pydantic reports is their text.
            where = (*location, key.value)
            line = key.start_mark.line + 1
            if where in lines:
                raise RecipeError(f"{file} line {line}: {_dotted(where)} is already given in line {lines[where]}")
            lines[where] = line
            _walk(value, where, lines, file)


def _apply(content: dict, override: str) -> None:
    yaml = require("yaml")
    key, equals, value = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise RecipeError(f"can't read the setting {override!r}: write section.key=value, such as distil.epochs=3")
    target = content
    for name in names[:-1]:
        inner = target.get(name)
        if inner is None:
            inner = target[name] = {}
        if not isinstance(inner, dict):
            raise RecipeError(f"can't set {key}: {name} is {inner!r}, which has no keys inside")
        target = inner
    try:
        target[names[-1]] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"can't read the value of {key}: {error}") from error


def _validate(content: dict, lines: dict[Location, int], file: str) -> Recipe:
    pydantic = require("pydantic")
    from .schema import Recipe

    try:
        return Recipe.model_validate(content)
    except pydantic.ValidationError as error:
        problems = [_explain(detail, content, lines, file) for detail in error.errors()]
        # A union reports once for each of its members; their texts differ, their place does not.
        raise RecipeError("\n".join(dict.fromkeys(problems))) from None


def _explain(error: Any, content: dict, lines: dict[Location, int], file: str) -> str:
    location = _real_location(error["loc"], content)
    line = next((lines[at] for at in _upwards(location) if at in lines), None)
    where = f"{file} line {line}: " if line else f"{file}: "
    if error["type"] == "extra_forbidden":
        return where + _unknown_key(location)
    if error["type"] == "model_type":
        keys = ", ".join(_keys_of(location))
        return f"{where}{_dotted(location)} needs keys of its own ({keys}), got {error['input']!r}"
    if error["type"] == "missing" and isinstance(error["loc"][-1], int):
        return f"{where}{_dotted(location)} has too few values: {error['input']!r}"
    if error["type"] == "missing":
        return f"{where}{_dotted(location)} is missing and has no default"
    message = error["msg"].removeprefix("Value error, ")
    given = "" if error["type"] == "value_error" else f", got {error['input']!r}"
    return f"{where}{_dotted(location)}: {message[:1].lower() + message[1:]}{given}"


def _unknown_key(location: Location) -> str:
    *parents, key = (str(name) for name in location)
    allowed = sorted(_keys_of(parents))
    near = difflib.get_close_matches(key, allowed, n=1, cutoff=0.6)
    suggestion = f"; did you mean {near[0]!r}?" if near else f"; allowed: {', '.join(allowed)}"
    return f"unknown key {key!r} in {'.'.join(parents) or 'the recipe'}{suggestion}"


def _keys_of(sections: Sequence[str]) -> list[str]:
    """Names that the section at this place may hold."""
    from .schema import Recipe, Section

    model: type[Section] = Recipe
    for name in sections:
        annotation = model.model_fields[name].annotation
        members = getattr(annotation, "__args__", (annotation,))
        model = next(m for m in members if isinstance(m, type) and issubclass(m, Section))
    return list(model.model_fields)


def _real_location(location: Location, content: Any) -> Location:
    """The part of an error's location that names keys of the file: pydantic adds the names of union members."""
    real: list[Any] = []
    for position, name in enumerate(location):
        keys = {str(k): k for k in content} if isinstance(content, dict) else {}
        if str(name) in keys:
            content = content[keys[str(name)]]
            real.append(str(name))
        elif isinstance(content, list) and isinstance(name, int) and name < len(content):
            content = content[name]
            real.append(str(name))
        elif isinstance(content, dict) and position == len(location) - 1 and len(real) == position:
            real.append(str(name))  # a missing key: it is not in the file
    return tuple(real)


def _upwards(location: Location) -> list[Location]:
    return [location[:n] for n in range(len(location), 0, -1)]


def _dotted(location: Location) -> str:
    return ".".join(str(name) for name in location) or "the recipe"
