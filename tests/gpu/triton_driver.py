"""A Triton driver without a GPU: ``kernel[grid](cpu tensors)`` compiles for an NVIDIA target and runs the PTX here.

What is compiled is what a GPU would be given, with Triton's own specialization, pipelining and layouts; the interpreter
of :mod:`tests.gpu.ptx` runs it. (``TRITON_INTERPRET=1`` runs the Python source instead, and is wrong for bfloat16.)

    with TritonDriver.active(80) as driver:
        kernel[grid](x, y, BLOCK=64)
    driver.launches[-1].stats
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

from tests.gpu.ptx import Module, Pointer, Stats, parse, run

SHARED = {80: 166912, 86: 101376, 89: 101376, 90: 232448}
"""Bytes of shared memory that a block may have, by compute capability."""


@dataclass
class Launch:
    """What one launch did."""

    kernel: str
    grid: tuple[int, int, int]
    stats: Stats
    """What the interpreter counted."""


@dataclass
class _Function:
    """A kernel as the interpreter takes it."""

    name: str
    module: Module
    shared: int


class _Utils:
    """What Triton asks of a driver about the device and its modules."""

    def __init__(self, driver: TritonDriver) -> None:
        self._driver = driver

    def get_device_properties(self, device: int) -> dict[str, int]:
        shared = SHARED[self._driver.capability]
        return {"max_shared_mem": shared, "multiprocessor_count": 108, "warpSize": 32, "max_num_regs": 65536}

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[object, ...]:
        function = _Function(name, parse(self._driver.ptx_of_next), shared)
        return None, function, 0, 0, 1024  # module, function, registers, spills, most threads

    def unload_module(self, module: object) -> None:
        pass


class _Launcher:
    """What Triton calls in place of cuLaunchKernel, one for each compiled kernel."""

    def __init__(self, source: Any, metadata: Any) -> None:
        self._kinds = list(source.signature.values())
        self._threads = 32 * metadata.num_warps

    def __call__(
        self,
        x: int,
        y: int,
        z: int,
        stream: int,
        function: _Function,
        packed: object,
        launch_metadata: object,
        enter: object,
        leave: object,
        *arguments: object,
    ) -> None:
        driver = triton.runtime.driver.active
        kinds = zip(self._kinds, arguments, strict=True)
        values = [_argument(kind, value) for kind, value in kinds if kind != "constexpr"]
        # Triton's own parameters come last: scratch memory, which none of these kernels uses.
        values += [None] * (len(function.module.kernel(function.name).parameters) - len(values))
        grid = (x, y, z)
        stats = run(function.module, function.name, grid, self._threads, values, function.shared, driver.lazy)
        driver.launches.append(Launch(function.name, grid, stats))


def _argument(kind: str, value: Any) -> Any:
    """Tensors as the bytes that they span, which the kernel changes in place; numbers by the kind that Triton gave."""
    if not isinstance(value, Tensor):
        return float(value) if kind.startswith("fp") else int(value)
    raw = torch.empty(0, dtype=torch.uint8).set_(value.untyped_storage()).numpy()
    start = value.storage_offset() * value.element_size()
    steps = zip(value.shape, value.stride(), strict=True)
    elements = 0 if value.numel() == 0 else 1 + sum((size - 1) * stride for size, stride in steps)
    # Triton was told how the address is aligned, so the interpreter's must be aligned no better.
    beyond = value.data_ptr() % 16
    return Pointer(raw[start - beyond : start + elements * value.element_size()], beyond)


@dataclass
class TritonDriver(DriverBase):
    """Compiles for ``capability`` and launches on the interpreter.

    Args:
        capability: 80 or 90, and 86 and 89, which run what is compiled for 80 with less shared memory.
        lazy: whether asynchronous copies arrive at the last moment allowed, or at once.
    """

    capability: int = 80
    lazy: bool = True
    launches: list[Launch] = field(default_factory=list)
    ptx_of_next: str = ""

    def __post_init__(self) -> None:
        self.utils, self.launcher_cls = _Utils(self), _Launcher

    @classmethod
    @contextmanager
    def active(cls, capability: int = 80, lazy: bool = True) -> Iterator[TritonDriver]:
        """Let Triton use such a driver, and put back what it used before.

        Products are not contracted with sums unless a launch asks for it: Triton's default will change with 3.10, and
        results here are compared with others bit for bit.
        """
        driver, config, hooks = (
            cls(capability, lazy),
            triton.runtime.driver,
            triton.knobs.runtime.kernel_load_start_hook,
        )
        before, fusion = config._active, os.environ.get("TRITON_DEFAULT_FP_FUSION")
        os.environ["TRITON_DEFAULT_FP_FUSION"] = "0"
        config.set_active(driver)
        hooks.add(driver._loading)
        try:
            yield driver
        finally:
            hooks.remove(driver._loading)
            config._active = before
            if fusion is None:
                del os.environ["TRITON_DEFAULT_FP_FUSION"]
            else:
                os.environ["TRITON_DEFAULT_FP_FUSION"] = fusion

    def _loading(self, module: object, function: object, name: str, files: dict[str, str], key: str) -> None:
        """The hook before a kernel is loaded: load_binary is given the cubin alone."""
        self.ptx_of_next = Path(next(path for file, path in files.items() if file.endswith(".ptx"))).read_text()

    @classmethod
    def is_active(cls) -> bool:
        return False

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> Any:
        raise RuntimeError("nothing can be timed without a GPU")

    def get_current_device(self) -> int:
        """The capability: kernels cache what was compiled for a device by its number."""
        return self.capability

    def set_current_device(self, device: int) -> None:
        pass

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_capability(self, device: int = 0) -> tuple[int, int]:
        return divmod(self.capability, 10)


def compile_for(
    kernel: Any,
    capability: int,
    signature: Sequence[str],
    constants: dict[str, object],
    aligned: Sequence[str] = (),
    **options: Any,
) -> Any:
    """Triton's compiled kernel for a target, without a launch: its ``asm["cubin"]`` and ``metadata``.

    Args:
        signature: the type of each argument that is no constant, such as ``*i8`` or ``i32``.
        constants: by name.
        aligned: the names of arguments that are divisible by 16.
        options: ``num_warps``, ``num_stages`` and the like.
    """
    names = kernel.arg_names
    others = iter(signature)
    types = {name: "constexpr" if name in constants else next(others) for name in names}
    source = triton.compiler.ASTSource(
        fn=kernel,
        signature=types,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
