"""Layouts of a GPU: the packed weight of each family of kernels (``csrc/cuda``).

They have no header, since the host can't read the memory of a device without waiting for it. So a layout knows the
shape of its weight and what belongs to it, and hands that to the operator as a number
(:mod:`kdnative.formats.gpu.form`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdnative.formats.gpu import blocks, sparse24, triton_blocks, triton_w4a16, w4a16, w8a8
from kdnative.formats.gpu.form import Form
from kdnative.formats.layouts import Layout
from kdnative.formats.scheme import Scheme
from kdnative.formats.sparse import is_two_of_four
from kdnative.formats.weight import QuantizedWeight

__all__ = ["Blocks", "GpuLayout", "Sparse24", "TritonBlocks", "TritonW4A16", "W4A16", "W8A8", "of_form"]


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
    @abstractmethod
    def form(self) -> Form:
        """What the operator must know besides the shape."""

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


@dataclass(frozen=True)
class W4A16(GpuLayout):
    """4-bit codes in groups, or 8-bit ones, for float activations, see :mod:`kdnative.formats.gpu.w4a16`.

    Args:
        bits: 4 or 8.
        group: inputs that share a scale; 0: one scale for each output.
        zeros: whether there are zero points, if only zeros.
    """

    bits: int = 4
    group: int = 0
    zeros: bool = False
    input_scales: bool = False

    @property
    def form(self) -> Form:
        return Form("w4a16", self.bits, self.has_bias, self.input_scales, self.zeros, group=self.group)

    def pack(self, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
        if self.zeros and weight.zero is None:
            weight = weight.changed(zero=torch.zeros_like(weight.scale, dtype=torch.int8))
        return w4a16.pack(weight, bias)

    def unpack(self, packed: Tensor) -> tuple[QuantizedWeight, Tensor | None]:
        form = self.bits, self.group, self.zeros, self.has_bias, self.input_scales
        return w4a16.unpack(packed, self.n, self.k, *form)

    def size(self, n: int, k: int, scheme: Scheme, bias: bool) -> int:
        return w4a16.size(n, k, self.bits, self.group, self.zeros, bias, self.input_scales)


@dataclass(frozen=True)
class Sparse24(GpuLayout):
    """Two of four 8-bit codes, see :mod:`kdnative.formats.gpu.sparse24`."""

    @property
    def form(self) -> Form:
        return Form("sparse24", 8, self.has_bias)

    def pack(self, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
        return sparse24.pack(weight, bias)

    def unpack(self, packed: Tensor) -> tuple[QuantizedWeight, Tensor | None]:
        return sparse24.unpack(packed, self.n, self.k, self.has_bias)

    def size(self, n: int, k: int, scheme: Scheme, bias: bool) -> int:
        return sparse24.size(n, k, bias)


@dataclass(frozen=True)
class Blocks(GpuLayout):
    """8-bit codes without blocks of zeros, see :mod:`kdnative.formats.gpu.blocks`.

    Args:
        side: outputs and inputs of a block. 0: of a weight that nobody has seen yet.
    """

    side: int = 0

    @property
    def form(self) -> Form:
        return Form("blocks", 8, self.has_bias, block=self.side)

    def fitted(self, weight: QuantizedWeight) -> GpuLayout:
        """With the best side for the zeros of this weight. Where too few blocks can be left out: two of four inputs, if
        it has no more; else dense."""
        side = blocks.choose(weight.qweight)
        if side is not None:
            return replace(self, side=side)
        other = Sparse24 if is_two_of_four(weight.qweight) else W8A8
        return other(self.n, self.k, self.has_bias)

    def pack(self, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
        return blocks.pack(weight, bias, self.side)

    def unpack(self, packed: Tensor) -> tuple[QuantizedWeight, Tensor | None]:
        return blocks.unpack(packed, self.n, self.k, self.has_bias, self.side)

    def size(self, n: int, k: int, scheme: Scheme, bias: bool) -> int:
        return 0  # it depends on the zeros


@dataclass(frozen=True)
class TritonBlocks(GpuLayout):
    """The same for the Triton kernels, see :mod:`kdnative.formats.gpu.triton_blocks`.

    Args:
        side: outputs and inputs of a block. 0: of a weight that nobody has seen yet.
    """

    side: int = 0

    @property
    def form(self) -> Form:
        return Form("triton_blocks", 8, self.has_bias, block=self.side)

    def fitted(self, weight: QuantizedWeight) -> GpuLayout:
        """With the best side for the zeros of this weight; dense where too few blocks can be left out."""
        side = blocks.choose(weight.qweight)
        return W8A8(self.n, self.k, self.has_bias) if side is None else replace(self, side=side)

    def parts(self, packed: Tensor) -> triton_blocks.Parts:
        """The sections of a packed weight, see :func:`kdnative.formats.gpu.triton_blocks.parts`."""
        return triton_blocks.parts(packed, self.n, self.k, self.has_bias, self.side)

    def pack(self, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
        return triton_blocks.pack(weight, bias, self.side)

    def unpack(self, packed: Tensor) -> tuple[QuantizedWeight, Tensor | None]:
        return triton_blocks.unpack(packed, self.n, self.k, self.has_bias, self.side)

    def size(self, n: int, k: int, scheme: Scheme, bias: bool) -> int:
        return 0  # it depends on the zeros


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


_BY_FAMILY: dict[str, Callable[[int, int, Form], GpuLayout]] = {
    "w8a8": lambda n, k, form: W8A8(n, k, form.bias, form.input_scales, form.group),
    "w4a16": lambda n, k, form: W4A16(n, k, form.bias, form.bits, form.group, form.zeros, form.input_scales),
    "sparse24": lambda n, k, form: Sparse24(n, k, form.bias),
    "blocks": lambda n, k, form: Blocks(n, k, form.bias, form.block),
    "triton_blocks": lambda n, k, form: TritonBlocks(n, k, form.bias, form.block),
    "triton_w4a16": lambda n, k, form: TritonW4A16(n, k, form.bias, form.group, form.zeros, form.input_scales),
}


def of_form(code: int, n: int, k: int) -> GpuLayout:
    """The layout of a weight ``[n, k]`` by the number that its operator was given; ValueError for one that is none."""
    form = Form.parse(code)
    return _BY_FAMILY[form.family](n, k, form)
