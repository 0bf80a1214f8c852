"""Models of transformers read device and dtype from a parameter: what has to stay in float so that there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import nn

from kdnative.nn import Linear
from kdnative.nn.saving import is_pretrained_model
from kdnative.patterns import within

__all__ = ["linears_to_keep"]


def linears_to_keep(
    modules: Mapping[str, nn.Module], replacements: Mapping[int, nn.Module], free: Callable[[str], bool]
) -> list[str]:
    """Names of linears that stay in float, so that no model of transformers is left without a parameter.

    Args:
        modules: every module of the whole model by its name, outermost first.
        replacements: what is to take the place of a module, by its id.
        free: whether a linear may stay in float; where none may, a model is left without.

    Returns:
        The last linear outside of fused encoders for each such model, or one for several of which one contains another.
    """
    planned, kept = dict(replacements), []
    for model in _models(modules, replacements):  # innermost first: its linear is one of the outer models too
        if _has_parameters(modules[model], planned):
            continue
        for name, module in reversed(list(modules.items())):
            if within(name, model) and type(planned.get(id(module))) is Linear and free(name):
                del planned[id(module)]
                kept.append(name)
                break
    return kept


def _models(modules: Mapping[str, nn.Module], replacements: Mapping[int, nn.Module]) -> Iterator[str]:
    """Models of transformers that stay what they are, innermost first."""
    for name, module in reversed(list(modules.items())):
        if not is_pretrained_model(module):
            continue
        if not any(within(name, outer) and id(other) in replacements for outer, other in modules.items()):
            yield name


def _has_parameters(module: nn.Module, replacements: Mapping[int, nn.Module]) -> bool:
    after = replacements.get(id(module), module)
    own = next(after.parameters(recurse=False), None)
    return own is not None or any(_has_parameters(child, replacements) for child in after.children())
