"""Bytes and shapes of modules, for the report of a conversion."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from kdnative.models import hf
from kdnative.nn import Embedding, Linear
from kdnative.quantize import QuantizedWeight

__all__ = ["bytes_of", "fused_bytes", "native_shape", "own_tensors", "packed_tensors"]


def own_tensors(module: nn.Module, buffers: bool = True) -> list[Tensor]:
    """Parameters and buffers of a module itself, not of its children."""
    return [*module.parameters(recurse=False), *(module.buffers(recurse=False) if buffers else ())]


def packed_tensors(native: nn.Module) -> list[Tensor]:
    """The tensors of the native linears and tables in a module."""
    return [t for part in native.modules() if isinstance(part, (Linear, Embedding)) for t in own_tensors(part)]


def native_shape(module: nn.Module) -> list[int] | None:
    """The shape of a native weight, None of other modules."""
    if isinstance(module, Linear):
        return [module.out_features, module.in_features]
    return [module.num_embeddings, module.embedding_dim] if isinstance(module, Embedding) else None


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes in memory."""
    return sum(t.numel() * t.element_size() for t in tensors)


def fused_bytes(name: str, part: nn.Module, weight: QuantizedWeight | None) -> int:
    """Bytes of a part inside an encoder's buffer, without padding: int8 tables, float32 vectors, weights by scheme.

    Linears that run as one product count its input scales each.
    """
    if isinstance(part, nn.Embedding) and not hf.stays_in_float(name):
        return part.weight.numel() + 4 * part.num_embeddings
    if weight is None and not hasattr(part, "weight"):
        return 0  # factors, which are in the weights now
    if weight is None:
        return 4 * sum(p.numel() for p in part.parameters(recurse=False))
    return weight.bytes() + (0 if part.bias is None else 4 * part.out_features)
