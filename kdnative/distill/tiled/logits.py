"""Logits that are described instead of made: what a head is given, and the head."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.amp import is_autocast_available

__all__ = ["LinearLogits"]


@dataclass(frozen=True)
class LinearLogits:
    """``hidden @ weight.T + bias``, which nobody makes as a whole.

    Attributes:
        hidden: fp32, bf16, fp16 or fp64 [..., K]. weight: [V, K]. bias: [V], or None.
        dtype: in which the product is computed, as `torch.nn.functional.linear` would: that of autocast where it is on
            (fp64 stays), else the one of hidden states and weight. Its sums are those of the device's matrix product.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        return torch.get_autocast_dtype(self.hidden.device.type) if self._is_cast else self.hidden.dtype

    @property
    def _is_cast(self) -> bool:
        kind = self.hidden.device.type
        return self.hidden.dtype != torch.float64 and is_autocast_available(kind) and torch.is_autocast_enabled(kind)

    @property
    def classes(self) -> int:
        return len(self.weight)

    def checked(self, who: str) -> LinearLogits:
        """Itself, with hidden states [rows, K] in the dtype of the product.

        Raises:
            ValueError: shapes, dtypes or devices that do not fit; it names whose they are.
        """
        hidden, weight, bias = self.hidden, self.weight, self.bias
        if hidden.dim() < 2 or weight.dim() != 2 or hidden.shape[-1] != weight.shape[1] or not len(weight):
            raise ValueError(
                f"linear_kl: the {who}'s hidden states {list(hidden.shape)} and weight {list(weight.shape)} do not "
                "fit: [..., K] and [V, K] are needed"
            )
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ValueError(f"linear_kl: the {who}'s bias {list(bias.shape)} does not fit {len(weight)} classes")
        given = [hidden, weight] if bias is None else [hidden, weight, bias]
        if not all(each.is_floating_point() for each in given):
            raise ValueError(
                f"linear_kl: the {who}'s tensors are {_listed(each.dtype for each in given)}; floats are needed"
            )
        if len({each.device for each in given}) > 1:
            raise ValueError(f"linear_kl: the {who}'s tensors are on {_listed(each.device for each in given)}")
        if len({each.dtype for each in given}) > 1 and not self._is_cast:
            raise ValueError(
                f"linear_kl: the {who}'s hidden states, weight and bias are {_listed(each.dtype for each in given)}: "
                "one dtype is needed, or autocast"
            )
        return replace(self, hidden=hidden.reshape(-1, hidden.shape[-1]).to(self.dtype))

    def columns(self, classes: slice) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of some classes, as factors of the product."""
        dtype = self.hidden.dtype
        return self.weight[classes].to(dtype), None if self.bias is None else self.bias[classes].to(dtype)


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)
