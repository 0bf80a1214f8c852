"""Layouts of a GPU: the packed weight of each family of kernels (``csrc/cuda``).

They have no header, since the host can't read the memory of a device without waiting for it. So a layout knows the
shape of its weight and what belongs to it, and hands that to the operator as a number
(:mod:`kdnative.formats.gpu.form`).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kdnative.formats.gpu import w8a8
from kdnative.formats.gpu.form import Form
from kdnative.formats.layouts import Layout
from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight

__all__ = ["GpuLayout", "W8A8", "of_form"]


@dataclass(frozen=True)
class GpuLayout(Layout):
    """What all of them share.

    Args:
        n, k: the shape of the weight, which is that of the layer.
        has_bias: whether there is a bias.
    """

    n: int
    k: int
    has_bias: bool

    @property
    def form(self) -> Form:
        """What the operator must know besides the shape."""
        raise NotImplementedError

    @property
    def arguments(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.form.code,)

    def bias(self, packed: Tensor) -> Tensor | None:
        return self.unpack(packed)[1]


@dataclass(frozen=True)
class W8A8(GpuLayout):
    """8-bit codes with one scale per output, see :mod:`kdnative.formats.gpu.w8a8`.

    Args:
        group: inputs that share an integer group scale: 4-bit codes times these are the 8-bit ones. 0: an 8-bit weight.
    """

    input_scales: bool = False
    group: int = 0

    @property
    def form(self) -> Form:
        return Form("w8a8", 4 if self.group else 8, self.has_bias, self.input_scales, group=self.group)

    def pack(self, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
        return w8a8.pack(weight, bias)

    def unpack(self, packed: Tensor) -> tuple[QuantizedWeight, Tensor | None]:
        return w8a8.unpack(packed, self.n, self.k, self.has_bias, self.input_scales, self.group)

    def size(self, n: int, k: int, scheme: Scheme, bias: bool) -> int:
        return w8a8.size(n, k, bias, self.input_scales, self.group)


def of_form(code: int, n: int, k: int) -> GpuLayout:
    """The layout of a weight ``[n, k]`` by the number that its operator was given; ValueError for one that is none."""
    form = Form.parse(code)
    return W8A8(n, k, form.bias, form.input_scales, form.group)
