"""The whole job from one recipe file: distil, prune, quantize, convert, measure. docs/recipes.md is the guide.

``kdnative.run("recipes/movies.yaml")`` in Python and ``kdnative run recipes/movies.yaml`` in a shell are the same.
"""

from .folder import PipelineError, RunFolder
from .recipe import RecipeError, dump_recipe, load_recipe
from .runner import active_stages, run
from .stopping import Stopped

__all__ = ["PipelineError", "RecipeError", "RunFolder", "Stopped", "active_stages", "dump_recipe", "load_recipe", "run"]
