"""Encoders of Hugging Face transformers: which modules are some, and their parts.

Nothing here imports transformers: models are recognised by the name and origin of their class.
"""

from __future__ import annotations

from torch import nn

from kdnative.models.family import families, family_of
from kdnative.models.layer import Unsupported, check_parameters
from kdnative.models.reading import EncoderSource, read_encoder

__all__ = ["is_conv1d", "is_encoder", "linear_of_conv1d", "read", "stays_in_float"]


def is_encoder(module: nn.Module) -> bool:
    """Whether ``module`` is the base model of a Hugging Face encoder, known to :func:`read` or not."""
    if _is_known(module):
        return True
    body = getattr(module, "encoder", None) or getattr(module, "transformer", None)
    return (
        isinstance(getattr(module, "embeddings", None), nn.Module)
        and isinstance(body, nn.Module)
        and isinstance(getattr(body, "layer", None), nn.ModuleList)
        and hasattr(module, "config")
    )


def _is_known(module: nn.Module) -> bool:
    return family_of(module, "models") is not None


def is_conv1d(module: nn.Module) -> bool:
    """Whether ``module`` is the layer that GPT-2 and its kin have for a linear one: ``[K, N]`` weights."""
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def linear_of_conv1d(module: nn.Module) -> nn.Linear:
    """The linear that computes the same, on the parameters of ``module``."""
    inputs, outputs = module.weight.shape
    linear = nn.Linear(inputs, outputs, device="meta")
    linear.weight, linear.bias = nn.Parameter(module.weight.detach().t()), module.bias
    return linear


def read(module: nn.Module) -> EncoderSource:
    """The parts of a base model of transformers.

    The base models of :mod:`kdnative.models.families` are known (BertModel is also that of MiniLM), with heads or
    feed-forward neurons pruned in any layer: sizes are those of the weights.

    Raises:
        Unsupported: it does something that no native encoder does. AttributeError: it lacks a part.
    """
    if not _is_known(module):
        raise Unsupported(
            f"{type(module).__name__} is not one of {', '.join(name for row in families() for name in row.models)} of "
            "transformers" + (" (it has relative positions)" if _has_relative_positions(module) else "")
        )
    _check_outputs(module.config)
    source = read_encoder(module)
    check_parameters(module, source.parameters())
    return source


def _check_outputs(config: object) -> None:
    """A configuration may ask every call for weights of attention, or for a tuple."""
    for name, usual in (("output_attentions", False), ("return_dict", True)):
        if getattr(config, name, usual) not in (usual, None):
            raise Unsupported(f"its config sets {name}={getattr(config, name)}, which the native encoder can't honour")


def stays_in_float(name: str) -> bool:
    """Whether an embedding of a known encoder is no table of rows for tokens, and keeps its values."""
    return name.rpartition(".")[2] == "relative_attention_bias"


def _has_relative_positions(module: nn.Module) -> bool:
    return any("relative" in name for name, _ in module.named_modules())
