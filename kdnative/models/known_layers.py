"""Which layers of other libraries become one operator each, and how."""

from __future__ import annotations

import sys

from torch import nn

from kdnative.models.family import family_of
from kdnative.models.layer_conversion import Quantize, Unsupported, check_parameters
from kdnative.models.layer_sources import native_layer
from kdnative.models.reading import read_layer
from kdnative.nn.encoder_layer import EncoderLayer, can_record

__all__ = ["is_layer", "layer_from"]


def is_layer(module: nn.Module) -> bool:
    """Whether ``module`` is a layer that :func:`layer_from` knows."""
    family = family_of(module)
    return family is not None and family.alone


def layer_from(module: nn.Module, quantize: Quantize) -> EncoderLayer | str:
    """Rebuild a layer of a known family as a native one; ``module`` is not changed.

    Args:
        module: a layer for which :func:`is_layer` holds.
        quantize: see :data:`kdnative.models.layer_conversion.Quantize`.

    Returns:
        The native layer, or the reason in words why there can be none.
    """
    try:
        _check_version(module)
        source = read_layer(module)
        check_parameters(module, source.parameters())
        return native_layer(source, quantize)
    except AttributeError as error:
        return f"its parts are not those that are known of {type(module).__name__}: {error}"
    except Unsupported as reason:
        return str(reason)


def _check_version(module: nn.Module) -> None:
    """Layers of transformers 4 return tuples; those of transformers 5 do not, and only they are replaced."""
    if type(module).__module__.startswith("transformers."):
        version = sys.modules["transformers"].__version__
        if int(version.partition(".")[0]) < 5 or not can_record():
            raise Unsupported(
                f"layers of {type(module).__name__} are fused with transformers 5 on, and this is {version}"
            )
