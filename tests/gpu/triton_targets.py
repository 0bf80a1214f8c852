"""Every shipped configuration of the Triton kernels, compiled for its targets without a launch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import triton.language as tl

from kdnative.ops.backends.triton import blocks, layer_norm_quantize, quantize, w4a16, w8a8
from kdnative.ops.backends.triton.configurations import SHIPPED, Tile, candidates
from tests.gpu.triton_driver import SHARED, compile_for

TARGETS = (80, 90)
_LARGEST = 0  # the class of rows without an end
_EPILOGUE = {"HAS_BIAS": True, "HAS_RESIDUAL": True}
_EXP, _TANH = 4, 5  # activations that take most registers


@dataclass(frozen=True)
class Case:
    """A kernel in one configuration.

    Args:
        name: of the configuration's table, or of the kernel that has none.
        threads: of a block.
        shipped: whether the table of this target has it, in the form that takes most registers; else measuring may
            choose it.
        largest: whether it is the tile for most rows as well.
    """

    name: str
    detail: str
    capability: int
    threads: int
    shipped: bool
    largest: bool
    kernel: Any
    signature: tuple[str, ...]
    constants: dict[str, object]
    aligned: tuple[str, ...]
    stages: int = 3

    def __str__(self) -> str:
        return f"{self.name} {self.detail} sm_{self.capability}"

    def compile(self) -> Any:
        """Triton's compiled kernel."""
        return compile_for(
            self.kernel,
            self.capability,
            self.signature,
            self.constants,
            self.aligned,
            num_warps=self.threads // 32,
            num_stages=self.stages,
            enable_fp_fusion=False,
        )

    @property
    def most_shared(self) -> int:
        """Bytes of shared memory that a block may have on every device of the target."""
        return SHARED[86] if self.capability == 80 else SHARED[self.capability]


def cases() -> Iterator[Case]:
    """All of them."""
    for capability in TARGETS:
        for name, tables in SHIPPED.items():
            table = tables[max(least for least in tables if least <= capability)]
            for tile in candidates(name, capability):
                yield from _products(name, capability, tile, tile in table.values(), tile == table[_LARGEST])
        yield from _rows(capability)


def _products(name: str, capability: int, tile: Tile, shipped: bool, largest: bool) -> Iterator[Case]:
    common = {**_EPILOGUE, "BM": tile.m}
    sizes = f"{tile.m}x{tile.n}x{tile.k}, {tile.warps} warps, {tile.stages} stages"
    end = ("*fp32", "*bf16", "*bf16", "i32", "i32", "i32")  # bias, residual, out, m, n, k or a stride

    def case(detail: str, form: bool, kernel: Any, signature: tuple[str, ...], constants: dict[str, object]) -> Case:
        arguments = [argument for argument in kernel.arg_names if argument not in constants and argument != "m"]
        detail = f"{sizes}{detail and ', '}{detail}"
        all_of_them = {**common, **constants}
        return Case(
            name,
            detail,
            capability,
            32 * tile.warps,
            shipped and form,
            largest and form,
            kernel,
            signature,
            all_of_them,
            tuple(each for each in arguments if each not in all_of_them),
            tile.stages,
        )

    if name == "w8a8":
        constants = {"ACTIVATION": _EXP, "BN": tile.n, "BK": tile.k}
        yield case("", True, w8a8._w8a8, ("*i8", "*i8", "*fp32", "*fp32", *end), constants)
    elif name.startswith("w4a16"):
        group = int(name.removeprefix("w4a16-g"))
        for kind, dtype in (("bf16", tl.bfloat16), ("fp16", tl.float16)):
            weight = (f"*{kind}", "*u8", "*fp32", "*u8", "*fp32")
            signature = (*weight, *(part.replace("bf16", kind) for part in end), "i32")
            constants = {"ACTIVATION": _TANH, "BN": tile.n, "BK": max(group, w4a16.PAIR), "GROUP": group}
            constants |= {"DTYPE": dtype, "HAS_ZERO": True, "HAS_INPUT_SCALE": True}
            yield case(kind, kind == "fp16", w4a16._w4a16, signature, constants)
    else:
        integer = name == "blocks-int8"
        for size in blocks.BLOCKS:
            signature = ("*i8" if integer else "*bf16", "*i32", "*i32", "*i8" if integer else "*bf16")
            constants = {"ACTIVATION": _EXP, "SIZE": size, "BK": max(size, tile.k), "INTEGER": integer}
            constants |= {} if integer else {"scale_x": None, "scale": None}
            signature += (*(("*fp32", "*fp32") if integer else ()), *end)
            yield case(f"blocks of {size}", True, blocks._blocks, signature, constants)


def _rows(capability: int) -> Iterator[Case]:
    """Kernels of rows, at their largest."""
    size = layer_norm_quantize.MOST_INPUTS
    has = {"HAS_RESIDUAL": True, "HAS_BIAS": True, "HAS_INPUT_SCALE": True, "CENTRED": True, "BLOCK": size}
    pointers = ("x", "residual", "total", "weight", "bias", "input_scale", "codes", "scale")
    signature = ("*bf16",) * 3 + ("*fp32",) * 3 + ("*i8", "*fp32", "i32", "i32", "i32", "fp32")
    kernel = layer_norm_quantize._layer_norm_quantize
    yield Case("layer_norm_quantize", f"{size}", capability, 1024, True, True, kernel, signature, has, pointers)
    signature = ("*bf16", "*fp32", "*i8", "*fp32", "i32", "i32", "i32")
    constants = {"HAS_INPUT_SCALE": True, "BLOCK": 4096}
    pointers = ("x", "input_scale", "codes", "scale")
    yield Case("quantize", "4096", capability, 512, True, True, quantize._quantize, signature, constants, pointers)
