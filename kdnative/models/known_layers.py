"""Which layers of other libraries become one operator each, and how."""

from __future__ import annotations

from torch import nn

from kdnative.models import hf_layers, vision_layers
from kdnative.models.layer_conversion import Quantize, Unsupported, check_parameters
from kdnative.models.layer_sources import native_layer
from kdnative.nn.encoder_layer import EncoderLayer

__all__ = ["is_layer", "layer_from"]

_LIBRARIES = (hf_layers, vision_layers)


def is_layer(module: nn.Module) -> bool:
    """Whether ``module`` is a layer that :func:`layer_from` knows."""
    return any(library.knows(module) for library in _LIBRARIES)


def layer_from(module: nn.Module, quantize: Quantize) -> EncoderLayer | str:
    """Rebuild a layer of transformers, timm, torchvision or OpenCLIP as a native one; ``module`` is not changed.

    Args:
        module: a layer for which :func:`is_layer` holds.
        quantize: see :data:`kdnative.models.layer_conversion.Quantize`.

    Returns:
        The native layer, or the reason in words why there can be none.
    """
    library = next(library for library in _LIBRARIES if library.knows(module))
    try:
        source = library.read(module)
        check_parameters(module, source.parameters())
        return native_layer(source, quantize)
    except AttributeError as error:
        return f"its parts are not those that are known of {type(module).__name__}: {error}"
    except Unsupported as reason:
        return str(reason)
