"""Which layers of other libraries become one operator each."""

from __future__ import annotations

from torch import nn

from kdnative.models import hf_layers, vision_layers
from kdnative.models.layer_conversion import check_parameters
from kdnative.models.layer_sources import Source

__all__ = ["is_layer", "read"]

_LIBRARIES = (hf_layers, vision_layers)


def is_layer(module: nn.Module) -> bool:
    """Whether ``module`` is a layer that :func:`read` knows."""
    return any(library.knows(module) for library in _LIBRARIES)


def read(module: nn.Module) -> Source:
    """The parts of a layer of transformers, timm, torchvision or OpenCLIP.

    Raises:
        Unsupported: it does something that no native layer does. AttributeError: it lacks a part.
    """
    library = next(library for library in _LIBRARIES if library.knows(module))
    source = library.read(module)
    check_parameters(module, source.parameters())
    return source
