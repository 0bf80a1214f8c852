"""Which layers of other libraries become one operator each."""

from __future__ import annotations

import sys

from torch import nn

from kdnative.models.family import family_of
from kdnative.models.layer import Unsupported, check_parameters
from kdnative.models.reading import LayerSource, read_layer
from kdnative.nn.encoder_layer import can_record

__all__ = ["is_layer", "read"]


def is_layer(module: nn.Module) -> bool:
    """Whether ``module`` is a layer that :func:`read` knows."""
    family = family_of(module)
    return family is not None and family.alone


def read(module: nn.Module) -> LayerSource:
    """The parts of a layer for which :func:`is_layer` holds.

    Raises:
        Unsupported: it does something that no native layer does. AttributeError: it lacks a part.
    """
    _check_version(module)
    source = read_layer(module)
    check_parameters(module, source.parameters())
    return source


def _check_version(module: nn.Module) -> None:
    """Layers of transformers 4 return tuples; those of transformers 5 do not, and only they are replaced."""
    if type(module).__module__.startswith("transformers."):
        version = sys.modules["transformers"].__version__
        if int(version.partition(".")[0]) < 5 or not can_record():
            raise Unsupported(
                f"layers of {type(module).__name__} are fused with transformers 5 on, and this is {version}"
            )
