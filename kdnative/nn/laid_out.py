"""A packed weight that lies as the device where it is wants it: when a module moves, its weight is laid out again."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.formats.layouts import Layout
from kdnative.formats.scheme import Scheme
from kdnative.nn.emptiness import stays_empty, target_of
from kdnative.nn.lazy_weight import asked_dtype, given_as
from kdnative.ops.backends import Backend, backend_for
from kdnative.quantize import QuantizedWeight

__all__ = ["LaidOut"]


class LaidOut(nn.Module):
    """Holds ``packed``, the weight of a linear layer in the layout of the backend of its device.

    ``dtype``, in which the weight is given to those who look at it, follows ``.to(dtype)`` and the like.
    """

    packed: Tensor
    in_features: int
    out_features: int
    scheme: Scheme
    has_bias: bool
    dtype: torch.dtype
    layout: Layout

    @property
    def is_empty(self) -> bool:
        """Whether the module has no weights: a new one, or one that was moved to the meta device."""
        return self._buffers["packed"].is_meta

    def _pack(self, weight: QuantizedWeight, bias: Tensor | None) -> None:
        """Lay a weight out where the module is; of an empty one, where the weight is."""
        device = weight.qweight.device if self.is_empty else self.packed.device
        weight = weight.to(device)
        self._use(self._wanted(device).fitted(weight), backend_for(device))
        self.packed = self.layout.pack(weight, bias)

    def _wanted(self, device: torch.device) -> Layout:
        """The layout of a device for layers like this one."""
        return backend_for(device).layout(self.scheme, (self.out_features, self.in_features), self.has_bias)

    def _use(self, layout: Layout, backend: Backend) -> None:
        """Be of a layout that a backend asks for, and multiply by its operator."""
        self.layout, self._form, self._laid_out_for = layout, layout.arguments, backend.name
        self._operator = backend.operator(self.scheme)

    def _apply(self, fn, recurse=True):
        # Module.to(dtype) leaves packed (uint8) alone; what it asks for is the dtype of weight and bias.
        dtype = asked_dtype(fn, self.dtype)
        if not (self.is_empty and stays_empty(fn, "kdnative.nn.Linear")):
            target = target_of(fn, self.packed)
            if target.type not in ("meta", self.packed.device.type):
                self._refuse(target)
            super()._apply(fn, recurse)
            self._settle()
        self.dtype = given_as(dtype)
        return self

    def _refuse(self, device: torch.device) -> None:
        """RuntimeError where the backend of a device does not compute with this layer's weights."""
        backend = backend_for(device)
        refusal = backend.refusal(self.scheme, (self.out_features, self.in_features))
        if refusal := refusal or backend.device_refusal(device):
            raise RuntimeError(
                f"kdnative.nn.Linear can't move to {device}: {refusal}. Call .cpu() on the model to bring back what "
                "has moved"
            )
        if not backend.has_kernels(self.scheme):
            warnings.warn(
                f"kdnative has no kernels of {self.scheme} for {device}: its linears run in plain torch there, which "
                "is slow. There are kernels for the CPU",
                stacklevel=6,
            )

    def _settle(self) -> None:
        """Bring the packed weight, which may have been moved as it was, into the layout of the device where it is.

        Whoever laid it out is asked, not the device: a pickle may bring what another backend, or another device, had.
        Where memory runs out, the module keeps the layout it has, and is settled at its next move.
        """
        device = self.packed.device
        backend = backend_for(device)
        if self.is_empty or backend.name == self._laid_out_for:
            return
        layout = self._wanted(device)
        if layout != self.layout:
            weight, bias = self.layout.unpack(self.packed)
            layout = layout.fitted(weight)
            self.packed = layout.pack(weight, bias)
        self._use(layout, backend)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._settle()
