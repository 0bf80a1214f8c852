"""transformers' own way to save a model, which can't save a native one."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["forbid_save_pretrained", "is_pretrained_model", "save_pretrained"]


def save_pretrained(*arguments: Any, **options: Any) -> None:
    """What libraries call on a transformers model. TypeError, because transformers could not load the files."""
    raise TypeError(
        "a model with native parts is not saved with save_pretrained: transformers could not load the files. Save the "
        "whole model with kdnative.save(model, folder), and load it with kdnative.load(folder), or with "
        "kdnative.load(folder, into=model) into one made anew"
    )


def is_pretrained_model(module: nn.Module) -> bool:
    """Whether ``module`` is a model of transformers; does not import the library."""
    origins = {(cls.__module__, cls.__name__) for cls in type(module).__mro__}
    return ("transformers.modeling_utils", "PreTrainedModel") in origins


def forbid_save_pretrained(model: nn.Module, native: tuple[type, ...]) -> None:
    """Let the models of transformers with native parts in them refuse ``save_pretrained``.

    Their files would hold the plain tensors of native modules under names that transformers does not know; it would
    load random weights in their place, and hardly say so.
    """
    for module in model.modules():
        if is_pretrained_model(module) and any(isinstance(part, native) for part in module.modules()):
            module.save_pretrained = save_pretrained
