"""Every function of the dialect (``instructions.cu``) on the emulator, and as PTX of inline assembly, interpreted."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from kdnative.ops import nvrtc
from tests.gpu import building, ptx

HERE = Path(__file__).parent
ROWS = 256  # of 32 words, more than there are results


@functools.cache
def words() -> np.ndarray:
    """The input of the kernel: 1,024 random words."""
    return np.random.default_rng(5).integers(0, 2**32, 1024, dtype=np.uint32)


@functools.cache
def emulated() -> tuple[np.ndarray, np.ndarray]:
    """Results [ROWS, 32] and counters [8] of the emulator."""
    with tempfile.NamedTemporaryFile() as file:
        words().tofile(file.name)
        program = building.build(HERE / "dialect_test.cpp")
        done = subprocess.run([str(program), file.name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    found = np.array(done.stdout.split(), dtype=np.uint64).astype(np.uint32)
    return found[:-8].reshape(ROWS, 32), found[-8:]


def compiled(root: Path = building.ROOT) -> ptx.Module:
    """The PTX of ``instructions.cu`` with the device half of a copy of the repository."""
    source = HERE / "instructions.cu"
    return ptx.parse(nvrtc.load().compile(source, "compute_80", [root / "csrc" / "cuda"], ("--fmad=false",)))


def interpreted(module: ptx.Module, *, lazy: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Results and counters of the interpreter."""
    out, scratch, counters = (np.zeros(size, np.uint32) for size in (ROWS * 32, 256, 8))
    ptx.run(module, "every_instruction", 1, 32, [words(), out, scratch, counters], shared=1024, lazy=lazy)
    return out.reshape(ROWS, 32), counters


def difference(root: Path = building.ROOT) -> str | None:
    """What the layers disagree in, with the device half of a copy of the repository; None: nothing."""
    module = compiled(root)
    for lazy in (True, False):
        try:
            rows, counters = interpreted(module, lazy=lazy)
        except ptx.PtxError as error:
            return str(error)
        expected_rows, expected_counters = emulated()
        if differ := [int(i) for i in np.flatnonzero((rows != expected_rows).any(1))]:
            return f"results {differ} of every_instruction differ"
        if (counters != expected_counters).any():
            return f"counters {counters} and {expected_counters}"
    return None
