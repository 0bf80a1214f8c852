"""Models of transformers read device and dtype from a parameter: what has to stay in float so that there is one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from torch import nn

from kdnative.nn.saving import is_pretrained_model
from kdnative.patterns import within

__all__ = ["linears_to_keep"]


def linears_to_keep(
    modules: Mapping[str, nn.Module], regions: Mapping[str, bool], converted: Collection[str], linears: Collection[str]
) -> list[str]:
    """Names of linears that stay in float, so that no model of transformers is left without a parameter.

    Args:
        modules: every module of the whole model by its name, outermost first.
        regions: roots of those that one operator replaces, and whether that has parameters.
        converted: names of modules that lose their own parameters, as native ones take their places.
        linears: those of them that may stay in float; where none may, a model is left without.

    Returns:
        The last such linear of each model without a parameter, or one for several of which one contains another.
    """
    fused = {id(modules[name]): has for name, has in regions.items()}
    gone = {id(modules[name]) for name in converted}
    kept: list[str] = []
    for model in _models(modules, regions):  # innermost first: its linear is one of the outer models too
        if _has_parameters(modules[model], fused, gone):
            continue
        for name in reversed(list(modules)):
            if within(name, model) and name in linears and name not in kept:
                gone.discard(id(modules[name]))
                kept.append(name)
                break
    return kept


def _models(modules: Mapping[str, nn.Module], regions: Collection[str]) -> Iterator[str]:
    """Models of transformers that stay what they are, innermost first."""
    for name, module in reversed(list(modules.items())):
        if is_pretrained_model(module) and not any(within(name, root) for root in regions):
            yield name


def _has_parameters(module: nn.Module, fused: Mapping[int, bool], gone: Collection[int]) -> bool:
    if id(module) in fused:
        return fused[id(module)]
    if id(module) not in gone and next(module.parameters(recurse=False), None) is not None:
        return True
    return any(_has_parameters(child, fused, gone) for child in module.children())
