"""Who confirms the interpreter's tensor instructions: kernels that others wrote, whose results have to be right.

The fragments of mma, ldmatrix, stmatrix and wgmma are confirmed by Triton's output (tests/gpu/test_triton_*.py); the
metadata of mma.sp by a sparse product of CUTLASS, whose order of metadata in memory is CUTLASS's own.
"""

from __future__ import annotations

import importlib.util
import itertools
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.gpu import ptx
from tests.gpu.building import CACHE
from tests.gpu.ptx import tensor

SOURCE = Path(__file__).parent / "anchors" / "cutlass_sparse.cu"
PAIRS = np.array(list(itertools.combinations(range(4), 2)))


def cutlass_folder() -> Path:
    """The headers of the package nvidia-cutlass."""
    found = importlib.util.find_spec("cutlass_library")
    if found is None or not found.submodule_search_locations:
        pytest.skip("CUTLASS's headers aren't here: pip install nvidia-cutlass")
    return Path(found.submodule_search_locations[0]) / "source"


@pytest.fixture(scope="module")
def cutlass():
    """The module, and the program that fills in its parameters; built once, in about ten seconds."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc isn't on PATH, and CUTLASS needs the headers of CUDA")
    folder = cutlass_folder()
    CACHE.mkdir(parents=True, exist_ok=True)
    made = {"-ptx": CACHE / "cutlass_sparse.ptx", "-O0": CACHE / "cutlass_sparse"}
    for option, target in made.items():
        if not target.is_file() or target.stat().st_mtime < SOURCE.stat().st_mtime:
            includes = [f"-I{folder / 'include'}", f"-I{folder / 'tools' / 'util' / 'include'}"]
            temporary = target.with_name(f"{target.name}.new")
            command = [nvcc, "-std=c++17", "-arch=compute_80", "--expt-relaxed-constexpr", "-w", option, *includes]
            result = subprocess.run([*command, "-o", temporary, SOURCE], capture_output=True, text=True)
            if result.returncode:
                pytest.skip(f"this nvcc doesn't compile CUTLASS: {result.stderr[:500]}")
            temporary.replace(target)
    return ptx.parse(made["-ptx"].read_text()), made["-O0"]


def sparse_factor(rng, m, k):
    """A 2:4 sparse int8 matrix: dense [m, k], stored [m, k / 2], and metadata [m, k / 32], two bits an element."""
    place = PAIRS[rng.integers(0, len(PAIRS), (m, k // 4))]
    stored = rng.integers(-128, 128, (m, k // 2), np.int8)
    dense = np.zeros((m, k // 4, 4), np.int64)
    np.put_along_axis(dense, place, stored.reshape(m, k // 4, 2).astype(np.int64), 2)
    fields = (place[..., 0] | place[..., 1] << 2).astype(np.uint32).reshape(m, -1, 8)
    return dense.reshape(m, k), stored, (fields << (4 * np.arange(8, dtype=np.uint32))).sum(2).astype(np.uint32)


def sparse_product(cutlass, k=512):
    """c of CUTLASS on the interpreter, and what it has to be. CUTLASS reads a stage ahead: k fills all three."""
    module, program = cutlass
    m = n = 64
    rng = np.random.default_rng(1)
    dense, stored, metadata = sparse_factor(rng, m, k)
    b, c = rng.integers(-128, 128, (n, k), np.int8), np.zeros((m, n), np.int32)
    buffers = [stored, b, c, np.zeros_like(metadata)]
    addresses = [str(ptx.address_of(number)) for number in range(len(buffers))]
    answer = subprocess.run(
        [program, str(m), str(n), str(k), *addresses], input=metadata.tobytes(), capture_output=True
    )
    kernel = module.kernel()
    size = kernel.parameters[0].size
    buffers[3] = np.frombuffer(answer.stdout[size:], np.uint32).copy()
    ptx.run(module, None, 1, 128, [answer.stdout[:size]], shared=48 * 1024, buffers=buffers)
    return c, dense @ b.T.astype(np.int64)


def test_metadata_of_sparse_products(cutlass):
    c, expected = sparse_product(cutlass)
    np.testing.assert_array_equal(c, expected)


def test_metadata_in_another_order_is_noticed(cutlass, monkeypatch):
    right = tensor._metadata_place
    monkeypatch.setattr(tensor, "_metadata_place", lambda row, *rest: right((row + 8) % 16, *rest))
    c, expected = sparse_product(cutlass)
    assert (c != expected).mean() > 0.9
