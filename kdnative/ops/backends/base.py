"""What a backend says of itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdnative.formats.arithmetic import overflow
from kdnative.formats.layouts import Dense, Layout, Sparse
from kdnative.formats.scheme import Scheme, refusal_of
from kdnative.formats.sparse import MAX_IN_FEATURES

__all__ = ["Backend"]


class Backend:
    """A kind of device as linears and fused operators see it.

    Args:
        name: for messages.
        schemes: the names of those that linears compute with, in the order in which errors list them. Dense ones have
            their form with input scales too, which calibration makes of them: nobody asks for it by name.
        fused: whether there are kernels for whole encoders.
        is_fallback: whether it stands in for kernels that a device does not have.
    """

    def __init__(self, name: str, schemes: Sequence[str], fused: bool, is_fallback: bool = False) -> None:
        self.name, self.schemes, self.fused, self.is_fallback = name, tuple(schemes), fused, is_fallback
        self._known = frozenset(self.schemes)

    def supports(self, scheme: Scheme) -> bool:
        """Whether linears of some shape compute with the scheme."""
        if scheme.input_scales and scheme.sparsity is None:
            scheme = scheme.plain
        return str(scheme) in self._known

    def refusal(self, scheme: Scheme, shape: tuple[int, int] | None = None) -> str | None:
        """Why there can't be a linear of this scheme and shape ``(N, K)`` here, in words, or None.

        Without a shape, why there can't be one of any shape.
        """
        if not self.supports(scheme):
            return refusal_of(str(scheme), self.schemes)
        if shape is None:
            return None
        outputs, inputs = shape
        if inputs < 1 or outputs < 1:
            return f"in_features and out_features must be at least 1, got {inputs} and {outputs}"
        try:
            scheme.groups(inputs)
        except ValueError as error:
            return str(error)
        most = MAX_IN_FEATURES.get(scheme.sparsity or "", inputs)
        if inputs > most:
            return f"{scheme.sparsity} blocks number at most {most} inputs, the weight has {inputs}: use +mask"
        return overflow(scheme, inputs)

    def has_kernels(self, scheme: Scheme) -> bool:
        """Whether weights of the scheme, which is supported, have kernels, and don't run in plain torch."""
        return not self.is_fallback

    def device_refusal(self, device: torch.device) -> str | None:
        """Why one device, on which nothing may be yet, can't run the kernels, in words, or None."""
        return None

    def remark(self, scheme: Scheme) -> str:
        """What a report says behind "native linear" of a layer of a scheme that is on such a device."""
        return "" if self.has_kernels(scheme) else f", in plain torch: {self.name} has no kernel of {scheme}"

    def pays(self, qweight: Tensor, scheme: Scheme) -> tuple[bool, str] | None:
        """Whether a sparse scheme leaves out zeros of an int8 weight ``[N, K]`` here, and if not why, in words.

        None where that takes measurements, as it does on the CPU (:mod:`kdnative.convert.sparse_crossover`).
        """
        return None

    def layout(self, scheme: Scheme, shape: tuple[int, int] | None = None, bias: bool = True) -> Layout:
        """How weights of the scheme lie in memory, for layers of a shape ``(N, K)`` with a bias or without.

        Weights of the CPU have headers, so their layouts are the same for all shapes.
        """
        return Dense() if scheme.sparsity is None else Sparse(scheme.sparsity)

    def operator(self, scheme: Scheme) -> str:
        """The name of the operator that multiplies by weights in that layout."""
        if scheme.sparsity is not None:
            return "linear_sparse"
        return f"linear_w{scheme.weight_bits}a{scheme.activation_bits}"
