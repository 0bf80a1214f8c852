"""Reads a recipe file: YAML to a validated :class:`kdnative.pipeline.schema.Recipe`, errors with key and line."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnative.extras import require
from kdnative.pipeline.plain_yaml import LARGEST, Location, RecipeError, parse
from kdnative.shown import printable, shown

if TYPE_CHECKING:
    from kdnative.pipeline.schema import Recipe

__all__ = ["RecipeError", "dump_recipe", "load_recipe", "parse_recipe"]

_MOST_PROBLEMS = 20  # told at once
_DEEPEST_KEY = 4  # names in the key of an override; compress_teacher.prune.layer_map.3 has all of them


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
    return parse_recipe(_read(path), printable(path.name), overrides)


def parse_recipe(text: str, name: str, overrides: Sequence[str] = ()) -> Recipe:
    """As `load_recipe`, of a recipe's text; errors begin with `name`."""
    content, lines = parse(text, lambda line: f"{name} line {line}")
    if not isinstance(content, dict):
        raise RecipeError(f"{name} must hold 'key: value' lines (name, data, teacher, ...), found {shown(content)}")
    for override in overrides:
        _apply(content, override)
    return _validate(content, lines, name)


def dump_recipe(recipe: Recipe) -> str:
    """The recipe with every default filled in, as YAML that :func:`load_recipe` reads back to an equal recipe."""
    yaml = require("yaml")
    content = recipe.model_dump(mode="json")
    return yaml.dump(content, Dumper=_written_out(yaml), sort_keys=False, allow_unicode=True, width=120)


def _written_out(yaml: Any) -> type:
    """A dumper without anchors and aliases, which recipes do not have."""

    class WrittenOut(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return WrittenOut


def _read(path: Path) -> str:
    """The text of a recipe; never of a pipe or a device, which may not end."""
    name = printable(str(path))
    try:
        found = os.stat(path)
        data = path.read_bytes() if _is_small_file(found) else None
    except FileNotFoundError:
        raise RecipeError(f"there is no recipe at {name}: give the path of a YAML file (see docs/recipes.md)") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise RecipeError(f"can't read the recipe {name}: {getattr(error, 'strerror', None) or error}") from error
    if data is None:
        problem = f"is too large: at most {LARGEST:,} characters" if stat.S_ISREG(found.st_mode) else "is not a file"
        raise RecipeError(f"the recipe {name} {problem}; see docs/recipes.md")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"can't read the recipe {name}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8"
        ) from error


def _is_small_file(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_size <= 4 * LARGEST  # bytes of as many characters, in UTF-8


def _apply(content: dict, override: str) -> None:
    key, equals, value = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names) or len(names) > _DEEPEST_KEY or not key.isprintable():
        raise RecipeError(f"can't read the setting {shown(override)}: write section.key=value, such as distil.epochs=3")
    target = content
    for name in names[:-1]:
        inner = target.get(name)
        if inner is None:
            inner = target[name] = {}
        if not isinstance(inner, dict):
            raise RecipeError(f"can't set {shown(key)}: {shown(name)} is {shown(inner)}, which has no keys")
        target = inner
    target[names[-1]], _ = parse(value, lambda line: f"can't read the value of {printable(key)[:100]}")


def _validate(content: dict, lines: dict[Location, int], file: str) -> Recipe:
    pydantic = require("pydantic")
    from kdnative.pipeline.stages import recipe_class

    try:
        return recipe_class().model_validate(content)
    except pydantic.ValidationError as error:
        found = error.errors(include_url=False)
        # A union reports once for each of its members; their texts differ, their place does not.
        problems = list(dict.fromkeys(_explain(detail, content, lines, file) for detail in found[:_MOST_PROBLEMS]))
        more = [f"and {len(found) - _MOST_PROBLEMS:,} more"] if len(found) > _MOST_PROBLEMS else []
        raise RecipeError("\n".join([*problems, *more])) from None


def _explain(error: Any, content: dict, lines: dict[Location, int], file: str) -> str:
    location = _real_location(error["loc"], content)
    line = next((lines[at] for at in _upwards(location) if at in lines), None)
    where = f"{file} line {line}: " if line else f"{file}: "
    given = shown(error["input"])
    if error["type"] == "extra_forbidden":
        return where + _unknown_key(location)
    if error["type"] == "model_type":
        keys = ", ".join(_keys_of(location))
        return f"{where}{_dotted(location)} must be a table of keys ({keys}), got {given}"
    if error["type"] == "missing" and isinstance(error["loc"][-1], int):
        return f"{where}{_dotted(location)} has too few values: {given}"
    if error["type"] == "missing":
        return f"{where}{_dotted(location)} is missing and has no default"
    message = printable(error["msg"].removeprefix("Value error, "))
    message = f"{message[:400]}..." if len(message) > 400 else message
    text = f"{where}{_dotted(location)}: {message[:1].lower() + message[1:]}"
    return text if error["type"] == "value_error" else f"{text}, got {given}"


def _unknown_key(location: Location) -> str:
    *parents, key = (str(name) for name in location)
    allowed = sorted(_keys_of(parents))
    near = difflib.get_close_matches(key, allowed, n=1, cutoff=0.6)
    suggestion = f"; did you mean {near[0]!r}?" if near else f"; allowed: {', '.join(allowed)}"
    return f"unknown key {shown(key)} in {_dotted(parents)}{suggestion}"


def _keys_of(sections: Sequence[str]) -> list[str]:
    """Names that the section at this place may hold."""
    from kdnative.pipeline.sections import Section
    from kdnative.pipeline.stages import recipe_class

    model: type[Section] = recipe_class()
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


def _dotted(location: Sequence[str]) -> str:
    text = printable(".".join(location))
    return f"{text[:100]}..." if len(text) > 100 else text or "the recipe"
