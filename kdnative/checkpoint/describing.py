"""What `save` says of a model's structure: its modules, and whether a file is enough to build them again."""

from __future__ import annotations

import json
from typing import Any

from torch import nn

from kdnative.checkpoint.hostile import check_config
from kdnative.checkpoint.manifest import some
from kdnative.checkpoint.structure import (
    NotBuilt,
    buffers_to_keep,
    build,
    entry_of,
    float_tensors,
    has_numbers_of_its_own,
    numbers_of,
    plain_tensors,
)
from kdnative.nn.hf_config import attention_of, to_plain
from kdnative.nn.tree import hooks_of, walk

__all__ = ["describe"]

_OF_ACCELERATE = ("_hf_hook", "_original_forward")  # what it leaves on a module whose forward it has wrapped


def describe(model: nn.Module) -> dict[str, Any]:
    """Everything needed to build the structure of a model again.

    Returns:
        ``modules``: ``{name: {"class": ..., "config": ... where it can be built from one}}``; ``transformers``: class
        and configuration when the model is one of that library, else None; ``attributes``: numbers that modules hold
        and that differ from what the configuration gives, such as the head counts of a pruned attention;
        ``rebuild``: "transformers", "modules", or "into" when only a model made by the caller can be filled; ``why``:
        in words, where "into" has a reason of its own; ``plain``: names of tensors in plain attributes that belong to
        the model, if there are any.
    """
    structure: dict[str, Any] = {
        "modules": {name: entry_of(module) for name, module in walk(model)},
        "transformers": _transformers_part(model),
        "attributes": {},
        "plain": [],
        "rebuild": "into",
        "why": "it is neither made of torch.nn layers in containers nor what its configuration builds in transformers",
    }
    try:
        for entry in structure["modules"].values():
            if plain := entry.get("config", {}).get("transformers"):  # of an encoder
                check_config(plain)
    except ValueError as error:
        return {**structure, "why": str(error)}
    for way in ("transformers", "modules"):
        if way == "transformers" and structure["transformers"] is None:
            continue
        try:
            plain = json.loads(json.dumps({**structure, "rebuild": way}))  # as it will be read
            skeleton = build(plain, len(model.state_dict()), native=lambda name, entry: model.get_submodule(name))
        except NotBuilt as error:
            return {**structure, "why": str(error)}
        except Exception:  # whatever a constructor or a configuration raises: it can't be built this way
            continue
        if _names(skeleton) != _names(model):
            continue
        if lost := _lost_tensors(model, skeleton):
            return {**structure, "why": f"it holds tensors that nothing makes again when it is built: {some(lost)}"}
        if _same_tensors(skeleton, model) and _same_gaps(skeleton, model):
            if (code := _code_of_instances(model, skeleton)) is not None:
                return {**structure, "why": code}
            found = {"attributes": _differing_attributes(model, skeleton), "plain": sorted(plain_tensors(skeleton))}
            return {**structure, **found, "rebuild": way, "why": ""}
    return structure


def _code_of_instances(model: nn.Module, skeleton: nn.Module) -> str | None:
    """Which module runs code that was given to it alone, and that no file holds; None where every one is built whole.

    What the skeleton has too comes from a constructor, and will come from it again.
    """
    for name, module in model.named_modules():
        built = skeleton.get_submodule(name)
        what = _code_around(module)
        if what is not None and (built is module or _code_around(built) is None):
            return f"{name or 'the model'} has {what}, which a file does not hold"
    return None


def _code_around(module: nn.Module) -> str | None:
    """What runs around a module's forward or in its place.

    Hooks of transformers record outputs or serve training, and wrappers of accelerate move inputs and change their
    type: without them a model computes the same.
    """
    if not all(str(getattr(hook, "__module__", "")).startswith("transformers.") for hook in hooks_of(module)):
        return "hooks"
    if "forward" in vars(module) and not any(hasattr(module, mark) for mark in _OF_ACCELERATE):
        return "a forward of its own, set on the instance"
    return None


def _transformers_part(model: nn.Module) -> dict[str, Any] | None:
    if not type(model).__module__.startswith("transformers."):
        return None
    import transformers

    if not isinstance(model, transformers.PreTrainedModel):
        return None
    return {
        "class": type(model).__name__,
        "config": to_plain(model.config),
        "attention": attention_of(model.config),
    }


def _same_gaps(skeleton: nn.Module, model: nn.Module) -> bool:
    """Whether the model has None, and nothing else, wherever `_leave_out` put it."""
    return all(
        getattr(model.get_submodule(name), attribute, skeleton) is None
        for name, module in walk(skeleton)
        for attribute, child in module._modules.items()
        if child is None
    )


def _names(model: nn.Module) -> set[str]:
    """Every path to a module: one that is used twice has two."""
    return {name for name, _ in model.named_modules(remove_duplicate=False)}


def _same_tensors(skeleton: nn.Module, model: nn.Module) -> bool:
    """Whether two models have tensors of the same names and shapes; the model may have filled caches besides."""
    for tensors in (float_tensors, buffers_to_keep):
        shapes_a, shapes_b = ({k: t.shape for k, t in tensors(m).items()} for m in (skeleton, model))
        if shapes_a != shapes_b:
            return False
    given = plain_tensors(model)
    return all(name in given and given[name].shape == t.shape for name, t in plain_tensors(skeleton).items())


def _lost_tensors(model: nn.Module, skeleton: nn.Module) -> list[str]:
    """Tensors in attributes that the skeleton lacks; where it has something else, the model has filled a cache."""
    lost = []
    for name in sorted(plain_tensors(model)):
        parent, _, attribute = name.rpartition(".")
        if not hasattr(skeleton.get_submodule(parent), attribute):
            lost.append(name)
    return lost


def _differing_attributes(model: nn.Module, skeleton: nn.Module) -> dict[str, dict[str, Any]]:
    fresh = dict(walk(skeleton))
    differing = {}
    for name, module in walk(model):
        if not has_numbers_of_its_own(module):
            continue
        own, other = numbers_of(module), numbers_of(fresh[name])
        found = {key: value for key, value in own.items() if key in other and other[key] != value}
        if found:
            differing[name] = found
    return differing
