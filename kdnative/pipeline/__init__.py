"""The whole job from one recipe file: distil, prune, quantize, convert, measure. docs/recipes.md is the guide.

``kdnative.run("recipes/movies.yaml")`` in Python and ``kdnative run recipes/movies.yaml`` in a shell are the same.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdnative.pipeline.checking import Checked, check
    from kdnative.pipeline.folder import PipelineError, RunFolder
    from kdnative.pipeline.new_recipe import New, new
    from kdnative.pipeline.recipe import RecipeError, dump_recipe, load_recipe
    from kdnative.pipeline.runner import run
    from kdnative.pipeline.seeds import run_seeds
    from kdnative.pipeline.stopping import Stopped

# Stages and recipes need pydantic; models and folders, which `kdnative convert` uses, do not.
_HOMES = {
    "Checked": "checking",
    "New": "new_recipe",
    "PipelineError": "folder",
    "RecipeError": "recipe",
    "RunFolder": "folder",
    "Stopped": "stopping",
    "check": "checking",
    "dump_recipe": "recipe",
    "load_recipe": "recipe",
    "new": "new_recipe",
    "run": "runner",
    "run_seeds": "seeds",
}

__all__ = [
    "Checked",
    "New",
    "PipelineError",
    "RecipeError",
    "RunFolder",
    "Stopped",
    "check",
    "dump_recipe",
    "load_recipe",
    "new",
    "run",
    "run_seeds",
]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value
