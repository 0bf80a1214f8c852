"""Layouts: how the weight of a module lies in memory for the kernels of a device.

A checkpoint stores plain tensors; a module holds what its layout makes of them. A layout packs and unpacks bit for bit,
in plain torch on any device, so a module can leave one layout for another. The two of the CPU are one uint8 buffer
each, whose header says all. Those of a GPU are in :mod:`kdnative.formats.gpu.layouts`. The backend of a device names
the layout of a scheme (:mod:`kdnative.ops.backends`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kdnative.formats import dense, sparse
from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight

__all__ = ["Dense", "Layout", "Sparse"]


class Layout(ABC):
    """How a packed linear lies in memory; a value, equal to another one of the same settings."""

    arguments: ClassVar[tuple[int, ...]] = ()
    """What the operator is told behind ``(x, packed, out_features, activation)``: the form, if there is no header."""

    def fitted(self, weight: QuantizedWeight) -> Layout:
        """The layout that holds this weight best, in which :meth:`pack` can put it: another one, or this."""
        return self

    @abstractmethod
    def pack(self, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
        """The packed form, on the device of the weight.

        Args:
            weight: ``[N, K]``.
            bias: float ``[N]`` or None.

        Raises:
            ValueError: the layout does not hold such a weight.
        """

    @abstractmethod
    def unpack(self, packed: Tensor) -> tuple[QuantizedWeight, Tensor | None]:
        """The inverse of :meth:`pack`, bit for bit: the weight, and the bias in float32.

        Zero points that are all 0 may be left out, since they change nothing.

        Raises:
            ValueError: the tensor is not in this layout, or it is damaged.
        """

    @abstractmethod
    def bias(self, packed: Tensor) -> Tensor | None:
        """The bias alone, float32 ``[N]``, or None."""

    @abstractmethod
    def size(self, n: int, k: int, scheme: Scheme, bias: bool) -> int:
        """Bytes of a packed weight ``[n, k]``; 0 where they depend on its values."""


@dataclass(frozen=True)
class Dense(Layout):
    """Tiles of 32 outputs and 64 inputs, see :mod:`kdnative.formats.dense`."""

    def pack(self, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
        return dense.pack(weight, bias)

    def unpack(self, packed: Tensor) -> tuple[QuantizedWeight, Tensor | None]:
        return dense.unpack(packed)

    def bias(self, packed: Tensor) -> Tensor | None:
        return dense.bias_of(packed, dense.read_header(packed))

    def size(self, n: int, k: int, scheme: Scheme, bias: bool) -> int:
        return dense.packed_size(n, k, scheme.weight, bias, scheme.input_scales)


@dataclass(frozen=True)
class Sparse(Layout):
    """The same without zeros, see :mod:`kdnative.formats.sparse`."""

    sparsity: str

    def pack(self, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
        return sparse.pack(weight, bias, self.sparsity)

    def unpack(self, packed: Tensor) -> tuple[QuantizedWeight, Tensor | None]:
        return sparse.unpack(packed)

    def bias(self, packed: Tensor) -> Tensor | None:
        return dense.bias_of(packed, sparse.read_header(packed))

    def size(self, n: int, k: int, scheme: Scheme, bias: bool) -> int:
        return 0


def of_packed(packed: Tensor) -> Layout:
    """The layout of a buffer, by its first bytes.

    Raises:
        ValueError: it is in none of those known here.
    """
    if packed.dtype == torch.uint8 and packed.dim() == 1 and packed.numel() >= 128:
        magic = int(packed[:4].cpu().view(torch.int32))
        if magic == dense.MAGIC:
            return Dense()
        if magic == sparse.MAGIC:
            return Sparse("mask")  # to unpack it does not matter which zeros
    raise ValueError(
        f"not a packed weight: {packed.dtype} tensor of shape {list(packed.shape)}; build it with "
        "kdnative.formats.dense.pack"
    )
