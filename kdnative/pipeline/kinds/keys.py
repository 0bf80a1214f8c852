"""Keys of recipes that only texts or only pictures have: one that would be passed over is refused."""

from __future__ import annotations

from typing import Any

from kdnative.shown import shown

__all__ = ["check_kind"]

_OF_TEXTS = ("text", "text_pair", "label", "unlabelled", "unlabelled_files", "validation", "test", "empty")
_OF_TEXTS += ("delimiter", "config", "revision", "max_length")
_OF_PICTURES = ("weights", "width")
_SHARES = ("macs", "latency")  # of a section that prunes, what stays of a network of convolutions
# What a recipe of pictures can't have: the key, and what it must be.
_NOT_YET = {
    "compress_teacher.calibrate": None,
    "calibrate": None,
    "recover.clip": None,
    "recover.ternary": None,
    "recover.forward": "linears",
    "convert.gate": None,
    "convert.clip_search": False,
    "evaluate.sensitivity": 0,
}


def check_kind(recipe: Any, pictures: bool) -> None:
    """ValueError where a recipe says something about texts to models of pictures, or the other way round."""
    if not pictures:
        if recipe.data.images is not None:
            raise ValueError(f"data.images is given, but the task {recipe.task} reads texts: leave it out")
        for name, part in (("teacher", recipe.teacher), ("student", recipe.student)):
            for key in _OF_PICTURES:
                if (value := getattr(part, key)) is not None:
                    raise ValueError(
                        f"{name}.{key} is {shown(value)}, but the task {recipe.task} reads texts, and text "
                        "models take weights and widths from their folder: leave it out"
                    )
        for name, part in _pruning(recipe):
            for key in _SHARES:
                if (value := getattr(part, key)) is not None:
                    raise ValueError(
                        f"{name}.{key} is {shown(value)}, but it is for convolutional networks, and the task "
                        f"{recipe.task} uses text encoders: give {name}.heads, ffn or layers instead"
                    )
        return
    for name, part in _pruning(recipe):
        if sum(getattr(part, key) is not None for key in _SHARES) != 1:
            raise ValueError(
                f"{name} does not say how much of the network to keep: give {name}.macs or {name}.latency, "
                "such as macs: 0.5"
            )
    if recipe.recover is not None and recipe.convert.schemes not in (None, recipe.recover.schemes):
        raise ValueError(
            f"convert.schemes is {shown(recipe.convert.schemes)}, but recover trains the network in "
            f"{shown(recipe.recover.schemes)}: leave convert.schemes out"
        )
    for key in _OF_TEXTS:
        value = getattr(recipe.data, key)
        if value != type(recipe.data).model_fields[key].get_default(call_default_factory=True):
            raise ValueError(
                f"data.{key} is {shown(value)}, but it is for texts, and the task {recipe.task} reads "
                "pictures: leave it out"
            )
    for key, wanted in _NOT_YET.items():
        if (value := _at(recipe, key, wanted)) != wanted:
            given = shown(value) if isinstance(value, str | int | float) else "given"
            told = "null" if wanted is None else str(wanted).lower()
            raise ValueError(f"{key} is {given}, but recipes for pictures don't support it: set {key}: {told}")


def _pruning(recipe: Any) -> list[tuple[str, Any]]:
    """The sections that prune a model, by their names."""
    sections = {"compress_teacher.prune": recipe.compress_teacher.prune, "prune": recipe.prune}
    return [(name, section) for name, section in sections.items() if section is not None]


def _at(recipe: Any, key: str, otherwise: Any) -> Any:
    """The value of a key; `otherwise` where its section is left out."""
    found = recipe
    for name in key.split("."):
        if found is None:
            return otherwise
        found = getattr(found, name)
    return found
