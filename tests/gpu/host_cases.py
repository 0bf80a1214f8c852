"""Linears of every scheme and what they are given: the same in a process of the CPU and in one of the emulated GPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.formats import QuantizedWeight
from kdnative.nn import Linear
from kdnative.quantize import quantize_weight

KERNELS = {
    "w8a8": "W8A8",
    "w8a8-is": "W8A8",
    "w4a8-g64-int": "W8A8",
    "w8a8+4x1": "W8A8",
    "w8a8+2:4": "Sparse24",
    "w8a8+mask": "Blocks",
    "w8a16": "W4A16",
    "w4a16-g32": "W4A16",
    "w4a16-g64": "W4A16",
    "w4a16-g64-asym": "W4A16",
    "w4a16-g128": "W4A16",
    "w4a16-g32-asym-is": "W4A16",
}
"""Schemes that have kernels, and their layouts."""
IN_TORCH = ("w4a8-g64", "w4a8-g32-asym", "w2a8-g64", "w2a16-g32")
ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu", "tanh")


@dataclass(frozen=True)
class Case:
    """One linear and its input."""

    scheme: str
    shape: tuple[int, int]  # N, K
    rows: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    activation: str = "none"
    bias: bool = True
    strided: bool = False

    def linear(self) -> Linear:
        torch.manual_seed(7)
        n, k = self.shape
        source = nn.Linear(k, n, bias=self.bias)
        with torch.no_grad():
            if "2:4" in self.scheme:
                source.weight.view(n, -1, 4)[..., 1:3] = 0
            if "mask" in self.scheme:  # most blocks of 64
                source.weight[64:, :64] = 0
                source.weight[:, 64:] = 0
        if "-is" not in self.scheme:
            return Linear.from_float(source, self.scheme, self.activation)
        factors = torch.rand(k) + 0.5
        plain = quantize_weight(source.weight.detach() / factors, self.scheme.removesuffix("-is"))
        weight = QuantizedWeight(
            plain.qweight, plain.scale, plain.zero, plain.bits, plain.group_size, input_scale=factors
        )
        return Linear.from_quantized(weight, source.bias, self.scheme, self.activation)

    def x(self) -> Tensor:
        torch.manual_seed(11)
        k = self.shape[1]
        if not self.strided:
            return torch.randn(*self.rows, k).to(self.dtype)
        return torch.randn(*self.rows[:-1], 2 * k, self.rows[-1]).to(self.dtype).mT[..., 1::2]


def cases() -> Iterator[Case]:
    for scheme in KERNELS:
        wide = (70, 256) if "+mask" in scheme or "g128" in scheme else (33, 192)
        yield Case(scheme, wide, (5,))
        yield Case(scheme, wide, (2, 3), torch.bfloat16, "relu", bias=False)
        yield Case(scheme, wide, (1,), torch.float16, strided=True)
        yield Case(scheme, wide, (0, 4))
    for activation in ACTIVATIONS:
        yield Case("w8a8", (40, 64), (3,), torch.bfloat16, activation)
        yield Case("w4a16-g64", (40, 64), (3,), torch.float16, activation)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        yield Case("w4a16-g64", (48, 128), (19,), dtype)
    for shape in ((1, 1), (7, 3), (129, 131)):  # odd ones
        yield Case("w8a8", shape, (130,), strided=True)
    for scheme in IN_TORCH:
        yield Case(scheme, (9, 64), (3,))


def results() -> list[dict[str, Any]]:
    """For each case what the linear gives, its plain tensors, and its layout."""
    found = []
    for case in cases():
        module = case.linear()
        with torch.no_grad():
            y = module(case.x())
        found.append({"y": y, "state": module.state_dict(), "layout": type(module.layout).__name__})
    return found


if __name__ == "__main__":
    torch.save(results(), sys.argv[1])
