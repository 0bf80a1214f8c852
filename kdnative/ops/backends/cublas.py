"""NVIDIA GPUs with torch's own products (cuBLAS) in place of kdnative's: ``KDNATIVE_GPU_KERNELS=cublas``.

Weights lie as for the CUDA kernels, which also quantize and dequantize. int8 products are ``torch._int_mm``, what
follows them is plain torch. 4-bit and 8-bit weights with float activations become 16-bit floats in scratch memory at
every call (``csrc/ops/cuda_w4a16.cpp``), so there is never a second copy of a weight.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnative.formats.gpu import sections, w8a8
from kdnative.formats.gpu.form import Form
from kdnative.formats.layouts import Layout
from kdnative.formats.scheme import NAMES, Scheme
from kdnative.ops.backends import cuda
from kdnative.ops.backends.implementing import implement
from kdnative.ops.reference import activate

__all__ = ["CUBLAS", "start"]

_LEAST_ROWS = 17  # of torch._int_mm on a GPU
_MULTIPLE = 8  # of its outputs


class _Cublas(cuda.CudaBackend):
    def layout(self, scheme: Scheme, shape: tuple[int, int] | None = None, bias: bool = True) -> Layout:
        return super().layout(scheme.dense, shape, bias)  # zeros are stored: results are the same

    def remark(self, scheme: Scheme) -> str:
        if scheme.activation_bits == 16 and self.has_kernels(scheme):
            return (
                "; 16-bit rows are multiplied by torch, the weight in scratch memory as 16-bit floats, unless a GELU "
                "is fused; float32 rows by a kernel"
            )
        return super().remark(scheme)

    def pays(self, qweight: Tensor, scheme: Scheme) -> tuple[bool, str] | None:
        return False, "torch multiplies by the zeros too (KDNATIVE_GPU_KERNELS=cublas)"


CUBLAS = _Cublas("cublas", NAMES, fused=False)


def _linear_w8a8(x: Tensor, packed: Tensor, out_features: int, activation: int, form: int = 0) -> Tensor:
    """The operator for weights of :mod:`kdnative.formats.gpu.w8a8`, with the bits of the kernels up to the activation.

    Raises:
        RuntimeError: the packed weight is in another form, or has not the size of one.
    """
    n, k = out_features, x.shape[-1]
    try:
        parsed = Form.parse(form)
        if parsed.family != "w8a8":
            raise ValueError(f"the packed weight has the form {parsed}, and w8a8 is what torch multiplies")
        sizes = w8a8.sizes(n, k, parsed.bias, parsed.input_scales, parsed.group)
        sections.check_size(packed, sections.total(sizes), f"an int8 weight [{n}, {k}] of this form")
    except ValueError as error:
        raise RuntimeError(f"linear_w8a8 of an input of shape {list(x.shape)}: {error}") from error
    codes, scale, bias, inputs = sections.split(packed, sizes)[:4]
    rows = x.reshape(x.shape[:-1].numel(), k)
    if parsed.input_scales:
        rows = rows.float() * inputs.view(torch.float32)
    q, row_scale = torch.ops.kdnative.quantize_per_token(rows)
    weight = codes.view(torch.int8).view(n, -1)
    q = _padded(q, weight.shape[1] - k, max(0, _LEAST_ROWS - len(q)))
    sums = torch._int_mm(q, _padded(weight, 0, -n % _MULTIPLE).t())[: len(rows), :n]
    y = sums.float() * (row_scale[:, None] * scale.view(torch.float32))
    if parsed.bias:
        y = y + bias.view(torch.float32)
    return activate(y, activation).to(x.dtype).view(*x.shape[:-1], n)


def _padded(matrix: Tensor, columns: int, rows: int) -> Tensor:
    """With zeros behind it; the matrix itself where there are none, of which F.pad would make a copy."""
    return F.pad(matrix, (0, columns, 0, rows)) if columns or rows else matrix


def start(device_type: str) -> None:
    """Let torch multiply on a type of device."""
    cuda.start(device_type)
    implement(device_type, dict.fromkeys(("linear_w8a8", "linear_sparse"), _linear_w8a8))
