"""A weight that is dequantized when its values are asked for, and not before.

Some models look at the ``weight.dtype`` of their linears in every forward (T5's feed-forward layers do). Dequantizing a
matrix to answer that takes longer than multiplying by it. Others multiply by it in a function of their own, with
``F.linear`` (the windows of torchvision's Swin do): that is the layer's product, and needs no values either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

__all__ = ["lazy_weight"]

_KNOWN_AT_ONCE = {
    Tensor.dim,
    Tensor.dtype.__get__,
    Tensor.is_floating_point,
    Tensor.ndim.__get__,
    Tensor.numel,
    Tensor.requires_grad.__get__,
    Tensor.shape.__get__,
    Tensor.size,
}
_DEVICE = Tensor.device.__get__


class _LazyWeight(Tensor):
    """Behaves as the tensor that ``_values()`` returns; itself it is a meta tensor, which has no memory."""

    _values: Callable[[], Tensor]
    _device: torch.device
    _product: Callable[[Tensor, Tensor | None], Tensor] | None

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None) -> Any:
        if function == _DEVICE:  # a bound slot: equal, never identical
            return args[0]._device
        if function in _KNOWN_AT_ONCE:
            with torch._C.DisableTorchFunctionSubclass():
                return function(*args, **(kwargs or {}))
        if function is F.linear and (factors := _factors(*args, **(kwargs or {}))):
            x, weight, bias = factors
            return weight._product(x, bias)
        args, kwargs = tree_map(_materialize, (args, kwargs or {}))
        return function(*args, **kwargs)


def _factors(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple | None:
    """The arguments of F.linear, if it is a product that the layer itself can do."""
    if [isinstance(each, _LazyWeight) for each in (input, weight, bias)] != [False, True, False]:
        return None
    on_cpu = input.is_cpu and weight._device.type == "cpu"
    wants_grad = torch.is_grad_enabled() and (input.requires_grad or (bias is not None and bias.requires_grad))
    return (input, weight, bias) if weight._product is not None and on_cpu and not wants_grad else None


def _materialize(value: Any) -> Any:
    return value._values() if isinstance(value, _LazyWeight) else value


def lazy_weight(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    values: Callable[[], Tensor],
    product: Callable[[Tensor, Tensor | None], Tensor] | None = None,
) -> Tensor:
    """A tensor of this shape, dtype and device.

    ``F.linear(x, it, bias)`` is ``product(x, bias)``, if there is one; where a gradient is wanted, and in all other
    uses, ``values()`` is called, which returns a plain tensor like it.
    """
    weight = torch.empty(shape, dtype=dtype, device="meta").as_subclass(_LazyWeight)
    weight._values, weight._device, weight._product = values, device, product
    return weight
