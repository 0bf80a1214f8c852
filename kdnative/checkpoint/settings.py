"""What a model has besides structure and tensors: how it generates and reads pictures, and what of it is frozen."""

from __future__ import annotations

import json
from typing import Any

from torch import nn

from kdnative.checkpoint import hostile
from kdnative.nn.image_input import ImageInput

__all__ = [
    "freeze",
    "frozen_parameters",
    "generation_settings",
    "image_input_of",
    "read_generation",
    "read_image_input",
    "set_generation",
    "set_image_input",
]

_OF_THE_MACHINE = ("compile_config", "continuous_batching_config")  # how to run, not what to generate


def generation_settings(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The generation configs of transformers' models, by the name of the module ("" is the model itself).

    As in transformers' own files, only what differs from its defaults is there.

    Raises:
        ValueError: one holds something that is not plain data.
    """
    found = {}
    for name, module in model.named_modules():
        config = vars(module).get("generation_config")
        if not type(config).__module__.startswith("transformers."):
            continue
        try:
            plain = json.loads(config.to_json_string(ignore_metadata=True))
        except TypeError as error:
            raise ValueError(
                f"the generation config of {name or 'the model'} holds what can't be stored ({error}); only numbers, "
                "texts, lists and tables can: take the rest out, or give it to generate() instead"
            ) from error
        bias = getattr(config, "sequence_bias", None)
        if isinstance(bias, dict):  # its keys are tuples, of which JSON would make text
            plain["sequence_bias"] = [[list(ids), value] for ids, value in bias.items()]
        found[name] = {key: value for key, value in plain.items() if key not in _OF_THE_MACHINE}
    return found


def read_generation(saved: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The configs that `generation_settings` described.

    Raises:
        ImportError: transformers is not installed. TypeError, ValueError: there are no such configs.
    """
    if not saved:
        return {}
    for plain in saved.values():
        hostile.check_generation(plain)
    from transformers import GenerationConfig

    return {name: GenerationConfig.from_dict(plain) for name, plain in saved.items()}


def set_generation(model: nn.Module, configs: dict[str, Any]) -> None:
    """Give modules their generation configs; AttributeError where there is no module of that name."""
    for module, config in [(model.get_submodule(name), config) for name, config in configs.items()]:
        module.generation_config = config


def image_input_of(model: nn.Module) -> dict[str, Any] | None:
    """How the model is given pictures, as plain data; None where it has no `ImageInput`."""
    preprocess = vars(model).get("preprocess")
    return preprocess.to_json() if isinstance(preprocess, ImageInput) else None


def read_image_input(saved: dict[str, Any] | None) -> ImageInput | None:
    """What `image_input_of` described; ValueError where it is something else."""
    return None if saved is None else ImageInput.from_json(saved)


def set_image_input(model: nn.Module, image_input: ImageInput | None) -> None:
    """Give a model its ``preprocess`` and ``classes``, unless it has others of its own."""
    if image_input is None:
        return
    own, classes = (vars(model).get(name) for name in ("preprocess", "classes"))
    from_old = isinstance(own, ImageInput) and isinstance(classes, tuple) and classes == own.classes
    given: dict[str, Any] = {}
    if isinstance(own, ImageInput) or not hasattr(model, "preprocess"):
        given["preprocess"] = image_input
    if from_old or not hasattr(model, "classes"):
        given["classes"] = image_input.classes
    for name, value in given.items():
        setattr(model, name, value)


def frozen_parameters(model: nn.Module) -> str | list[str]:
    """Names of the parameters that require no grad, or "all"."""
    frozen = {name: not parameter.requires_grad for name, parameter in model.named_parameters()}
    return "all" if frozen and all(frozen.values()) else [name for name in frozen if frozen[name]]


def freeze(model: nn.Module, frozen: str | list[str]) -> None:
    """Freeze the parameters that `frozen_parameters` named; others stay as they are."""
    names = set(frozen)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if frozen == "all" or name in names:
            parameter.requires_grad_(False)
