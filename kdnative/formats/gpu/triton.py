"""Layouts that the Triton kernels have for themselves; int8 products read that of the CUDA kernels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kdnative.formats.gpu import triton_w4a16
from kdnative.formats.gpu.form import Form
from kdnative.formats.gpu.layouts import GpuLayout
from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight

__all__ = ["TritonW4A16"]


@dataclass(frozen=True)
class TritonW4A16(GpuLayout):
    """4-bit codes in groups, see :mod:`kdnative.formats.gpu.triton_w4a16`.

    Args:
        group: inputs that share a scale.
        zeros: whether there are zero points.
        input_scales: whether inputs are multiplied by a vector.
    """

    group: int = 64
    zeros: bool = False
    input_scales: bool = False

    @property
    def form(self) -> Form:
        return Form("triton_w4a16", 4, self.has_bias, self.input_scales, self.zeros, group=self.group)

    @classmethod
    def of(cls, form: Form, n: int, k: int) -> TritonW4A16:
        """The layout of a form and shape."""
        return cls(n, k, form.bias, form.group, form.zeros, form.input_scales)

    def parts(self, packed: Tensor) -> triton_w4a16.Parts:
        """The sections of a packed weight, see :func:`kdnative.formats.gpu.triton_w4a16.parts`."""
        return triton_w4a16.parts(packed, *self._sizes)

    def pack(self, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
        return triton_w4a16.pack(weight, bias, self.zeros)

    def unpack(self, packed: Tensor) -> tuple[QuantizedWeight, Tensor | None]:
        return triton_w4a16.unpack(packed, *self._sizes)

    def size(self, n: int, k: int, scheme: Scheme, bias: bool) -> int:
        return triton_w4a16.size(n, k, self.group, self.zeros, bias, self.input_scales)

    @property
    def _sizes(self) -> tuple[int, int, int, bool, bool, bool]:
        return self.n, self.k, self.group, self.zeros, self.has_bias, self.input_scales
