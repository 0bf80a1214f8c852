"""A weight that is dequantized when its values are asked for, and not before.

Some models look at the ``weight.dtype`` of their linears in every forward (T5's feed-forward layers do). Dequantizing a
matrix to answer that takes longer than multiplying by it. Others multiply by it in a function of their own, with
``F.linear`` (the windows of torchvision's Swin do): that is the layer's product, and needs no values either.

The values are a copy, so what is written to them would be lost without a word: writing is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["FLOAT_TYPES", "asked_dtype", "given_as", "lazy_weight"]

FLOAT_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What native layers take and give, by name."""

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
_SAME_MEMORY = {Tensor.data.__get__, Tensor.detach}  # writing to what they return would write to the weight
_SET_DATA = Tensor.data.__set__
_IN_PLACE = {"__setitem__", *(f"__i{operator}__" for operator in ("and", "or", "xor", "lshift", "rshift"))}
_LEAVE_VALUES = {"detach_", "requires_grad_", "share_memory_"}  # called on every weight there is, to freeze a model


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
        if function in _SAME_MEMORY:
            return args[0]
        if function is F.linear and (factors := _factors(*args, **(kwargs or {}))):
            x, weight, bias = factors
            return weight._product(x, bias)
        if _writes(function, args, kwargs or {}):
            name = "data = ..." if function == _SET_DATA else function.__name__
            raise RuntimeError(
                f"{name} would write to the weight or bias of a native layer, which is a copy, dequantized from packed "
                "integers: the layer would stay as it is. It can be read (weight.clone() can be written to); to change "
                "the layer, change the float model and convert again (merge a LoRA before kdnative.convert_), or use "
                "load_state_dict"
            )
        args, kwargs = tree_map(_materialize, (args, kwargs or {}))
        return function(*args, **kwargs)


def _factors(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple | None:
    """The arguments of F.linear, if it is a product that the layer itself can do."""
    if isinstance(input, _LazyWeight) or not isinstance(weight, _LazyWeight):
        return None
    bias = _materialize(bias)
    on_cpu = input.is_cpu and weight._device.type == "cpu"
    wants_grad = torch.is_grad_enabled() and (input.requires_grad or (bias is not None and bias.requires_grad))
    return (input, weight, bias) if weight._product is not None and on_cpu and not wants_grad else None


def _writes(function: Callable, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether a call is one that writes to a lazy weight, in place or as ``out=``."""
    name = getattr(function, "__name__", "").partition(".")[0]  # torch.ops.aten.add_.Tensor is "add_.Tensor"
    in_place = name.endswith("_") and not name.endswith("__") and name not in _LEAVE_VALUES
    written = kwargs.get("out")
    if in_place or name in _IN_PLACE or function == _SET_DATA:
        written = args[0] if args else next(iter(kwargs.values()), None)  # torch.nn.init gives its tensor by name
    return any(isinstance(each, _LazyWeight) for each in tree_leaves(written))  # torch._foreach_add_ takes a list


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
    uses, ``values()`` is called, which returns a plain tensor like it. Writing to it, to its ``.data`` or its
    ``.detach()`` raises RuntimeError; slices and views are plain tensors, copies that can be written to without
    changing anything else.
    """
    weight = torch.empty(shape, dtype=dtype, device="meta").as_subclass(_LazyWeight)
    weight._values, weight._device, weight._product = values, device, product
    return weight


def asked_dtype(fn: Callable[[Tensor], Tensor], dtype: torch.dtype) -> torch.dtype:
    """What the function that ``Module._apply`` is given, by ``.half()`` or ``.to(dtype)``, makes of a dtype.

    Native layers hold no tensor of the dtype that they give, so a probe finds out. It is on the CPU whatever torch's
    default device is: moving a meta tensor is an error.
    """
    return fn(torch.empty(0, dtype=dtype, device="cpu")).dtype


def given_as(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which the weight of a layer of this dtype is given: one that kernels take as input."""
    return dtype if dtype in FLOAT_TYPES.values() else torch.float32
