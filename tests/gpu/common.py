"""What tests of the kernels share: reasons to skip one, how much is run, and tensors as the interpreter takes them."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from tests.gpu import building, compiling, sass

needs_compiler = pytest.mark.skipif(not building.has_compiler(), reason="no C++ compiler")
needs_nvrtc = pytest.mark.skipif(compiling.missing() is not None, reason=str(compiling.missing()))
needs_tools = pytest.mark.skipif(sass.missing() is not None, reason=str(sass.missing()))

LONG = os.environ.get("KDNATIVE_GPU_GRID") == "1"
"""Whether the many shapes of ``make test-gpu-emulated`` are wanted."""
GRID = ("grid",) if LONG else ()
"""For the test programs of the emulator."""

TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
NUMBERS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""``gpu::DType``."""


def memory_of(t: torch.Tensor) -> np.ndarray:
    """A numpy array of the very memory of a tensor, whatever its type."""
    return (t if t.dtype == torch.float32 else t.view(torch.int16)).numpy()


def modes(names: list) -> list[tuple]:
    """Each name with late copies or early ones, in turn; with both, where much is wanted."""
    return [(name, lazy) for at, name in enumerate(names) for lazy in ((True, False) if LONG else (at % 2 == 0,))]
