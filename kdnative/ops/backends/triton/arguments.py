"""Checks of what launchers are given, and where they launch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
from torch import Tensor

__all__ = [
    "ACTIVATION_CODES",
    "capability",
    "check_epilogue",
    "check_grid",
    "check_input_scale",
    "check_tensor",
    "device_name",
    "on_device_of",
    "padded_inputs",
    "rows_of",
]

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
ACTIVATION_CODES = 6
_MOST_PROGRAMS = 2**31 - 1


def on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device: make that the one of the tensors."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def capability() -> int:
    """The compute capability of the current device: 80, 86, 89, 90."""
    return int(triton.runtime.driver.active.get_current_target().arch)


def device_name(x: Tensor) -> str:
    """The name of the device of a tensor, as its driver says it. Tests alone compute with tensors of the CPU."""
    return torch.cuda.get_device_name(x.device) if x.is_cuda else "interpreter"


def padded_inputs(k: int, multiple: int) -> int:
    """K rounded up."""
    return -(-k // multiple) * multiple


def rows_of(op: str, x: Tensor) -> Tensor:
    """``x`` as rows ``[M, K]`` whose elements lie side by side; a copy where it has to be."""
    if not isinstance(x, Tensor) or x.dtype not in _FLOATS:
        raise TypeError(f"{op}: x is {_kind(x)}; float32, bfloat16 and float16 are allowed")
    if x.dim() < 1 or x.shape[-1] < 1:
        raise ValueError(f"{op}: x has shape {list(x.shape)}; it must be [..., K] with at least one input")
    rows = x.reshape(x.shape[:-1].numel(), x.shape[-1])
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()


def check_tensor(op: str, name: str, given: Tensor, dtype: torch.dtype, shape: tuple[int, ...], like: Tensor) -> None:
    """TypeError or ValueError unless a contiguous tensor of this dtype and shape lies on the device of ``like``."""
    if not isinstance(given, Tensor) or given.dtype != dtype:
        raise TypeError(f"{op}: {name} is {_kind(given)}; it must be {dtype}")
    if tuple(given.shape) != shape:
        raise ValueError(f"{op}: {name} has shape {list(given.shape)}; it must be {list(shape)}")
    if given.device != like.device:
        raise ValueError(f"{op}: {name} is on {given.device} and x is on {like.device}: move one of them")
    if not given.is_contiguous():
        raise ValueError(f"{op}: {name} has strides {list(given.stride())}; it must be contiguous")


def check_input_scale(op: str, input_scale: Tensor | None, x: Tensor) -> None:
    if input_scale is not None:
        check_tensor(op, "input_scale", input_scale, torch.float32, (x.shape[-1],), x)


def check_epilogue(op: str, x: Tensor, n: int, bias: Tensor | None, activation: int, residual: Tensor | None) -> None:
    """What follows a product ``[M, N]``: the bias, an activation code, and rows that are added."""
    if n < 1:
        raise ValueError(f"{op}: the weight has {n} outputs; there must be at least one")
    if bias is not None:
        check_tensor(op, "bias", bias, torch.float32, (n,), x)
    if residual is not None:
        check_tensor(op, "residual", residual, x.dtype, (*x.shape[:-1], n), x)
    if not 0 <= activation < ACTIVATION_CODES:
        raise ValueError(f"{op}: activation code {activation} is unknown; allowed are 0 to {ACTIVATION_CODES - 1}")


def check_grid(op: str, programs: int, x: Tensor) -> None:
    if programs > _MOST_PROGRAMS:
        raise ValueError(
            f"{op}: x of shape {list(x.shape)} takes {programs} programs, at most {_MOST_PROGRAMS} can be launched: "
            "give fewer rows at a time"
        )


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
