"""NVIDIA GPUs: the kernels of ``csrc/cuda``, started by the native library through the driver.

Schemes without such kernels run in plain torch there, in the layout of the CPU.
``KDNATIVE_GPU_KERNELS`` chooses who multiplies: ``cuda`` (these), ``triton``, ``cublas`` or ``reference``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdnative import _C
from kdnative.formats.gpu import blocks
from kdnative.formats.gpu.layouts import W4A16, W8A8, Blocks, GpuLayout, Sparse24
from kdnative.formats.layouts import Layout
from kdnative.formats.scheme import NAMES, Scheme
from kdnative.formats.sparse import is_two_of_four
from kdnative.ops.backends import capability, cuda_images
from kdnative.ops.backends.base import Backend

__all__ = ["CUDA", "OPERATORS", "CudaBackend", "start"]

OPERATORS = (
    "quantize_per_token",
    "norm_quantize",
    "linear_w8a8",
    "linear_w8a16",
    "linear_w4a16",
    "linear_sparse",
)
"""What the native library computes on GPUs (``csrc/ops/cuda.cpp``); the reference has the rest."""


class CudaBackend(Backend):
    """Which schemes have kernels, and how their weights lie."""

    def has_kernels(self, scheme: Scheme) -> bool:
        return _layout(scheme, (1, scheme.group_size or 1), True) is not None

    def remark(self, scheme: Scheme) -> str:
        if scheme.activation_bits == 16 and self.has_kernels(scheme):
            return (
                "; many 16-bit rows are multiplied by torch, the weight in scratch memory as 16-bit floats, unless a "
                "GELU is fused; float32 rows never are"
            )
        return super().remark(scheme)

    def device_refusal(self, device: torch.device) -> str | None:
        return capability.device_refusal(device)

    def pays(self, qweight: Tensor, scheme: Scheme) -> tuple[bool, str] | None:
        if scheme.sparsity == "4x1":
            return False, f"{self.name} has no 4x1 kernel"
        if scheme.sparsity == "2:4" or is_two_of_four(qweight):
            return True, ""
        why = blocks.refusal(qweight)
        return why is None, why or ""

    def layout(self, scheme: Scheme, shape: tuple[int, int] | None = None, bias: bool = True) -> Layout:
        if shape is None:
            raise ValueError("a weight on a GPU has no header: its layout needs the shape of the layer")
        return _layout(scheme, shape, bias) or super().layout(scheme)

    def operator(self, scheme: Scheme) -> str:
        if scheme.integer_scales:  # its codes times their group scales are int8
            return "linear_w8a8"
        return super().operator(scheme)


def _layout(scheme: Scheme, shape: tuple[int, int], bias: bool) -> GpuLayout | None:
    """How weights of a scheme lie for the kernels; None: there are none for it."""
    layer, group = (shape[0], shape[1], bias), scheme.group_size or 0
    if scheme.sparsity == "2:4":
        return Sparse24(*layer)
    if scheme.sparsity == "mask":
        return Blocks(*layer)
    if scheme.activation_bits == 16:
        if scheme.weight_bits == 2:
            return None
        return W4A16(*layer, scheme.weight_bits, group, not scheme.symmetric, scheme.input_scales)
    if scheme.weight_bits == 8 or scheme.integer_scales:  # 4x1: with its zeros
        return W8A8(*layer, scheme.input_scales, group)
    return None


CUDA = CudaBackend("cuda", NAMES, fused=False)


def start(device_type: str) -> Backend:
    """Let the kernels compute the operators of a type of device: ``"cuda"``, or ``"cpu"`` in tests.

    Nothing is asked of the driver before the first launch, so that a process may still be forked.

    Raises:
        ImportError: the CPU is asked for, and the driver is a real one.
    """
    if device_type == "cpu" and not _C.cuda_memory_is_the_hosts():
        raise ImportError(
            "KDNATIVE_BACKEND=cuda computes tensors of the CPU by CUDA kernels, for tests: KDNATIVE_LIBCUDA must name "
            "a driver that runs kernels on the memory of the host, and doesn't. For a GPU leave KDNATIVE_BACKEND out "
            'and move the model with .to("cuda")'
        )
    _C.set_cuda_images(cuda_images.image)
    _C.register_cuda(device_type.upper())
    return CUDA
