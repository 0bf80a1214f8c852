"""The whole job from one recipe file: distil, prune, quantize, convert, measure. docs/recipes.md is the guide.

``kdnative.run("recipes/movies.yaml")`` in Python and ``kdnative run recipes/movies.yaml`` in a shell are the same.
"""

from kdnative.pipeline.folder import PipelineError, RunFolder
from kdnative.pipeline.recipe import RecipeError, dump_recipe, load_recipe
from kdnative.pipeline.runner import active_stages, run
from kdnative.pipeline.stopping import Stopped

__all__ = ["PipelineError", "RecipeError", "RunFolder", "Stopped", "active_stages", "dump_recipe", "load_recipe", "run"]
