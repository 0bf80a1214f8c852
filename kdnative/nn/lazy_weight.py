"""A weight that is dequantized when its values are asked for, and not before.

Some models look at the ``weight.dtype`` of their linears in every forward (T5's feed-forward layers do). Dequantizing a
matrix to answer that takes longer than multiplying by it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
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

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None) -> Any:
        if function == _DEVICE:  # a bound slot: equal, never identical
            return args[0]._device
        if function in _KNOWN_AT_ONCE:
            with torch._C.DisableTorchFunctionSubclass():
                return function(*args, **(kwargs or {}))
        args, kwargs = tree_map(_materialize, (args, kwargs or {}))
        return function(*args, **kwargs)


def _materialize(value: Any) -> Any:
    return value._values() if isinstance(value, _LazyWeight) else value


def lazy_weight(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, values: Callable[[], Tensor]
) -> Tensor:
    """A tensor of this shape, dtype and device: other uses call ``values()``, which returns a plain one like it."""
    weight = torch.empty(shape, dtype=dtype, device="meta").as_subclass(_LazyWeight)
    weight._values, weight._device = values, device
    return weight
