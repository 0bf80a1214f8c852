"""The CUDA driver whose GPUs are the emulator (``fake_libcuda.h``), and programs that run with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.gpu import building

FLAGS = ("-shared", "-fPIC", "-fvisibility=hidden", "-DGPU_EMULATED_LIBRARY")


def families() -> list[str]:
    """Those whose kernels can be launched: all that have a source."""
    return sorted(path.stem for path in (building.ROOT / "csrc" / "cuda").glob("*.cu"))


def library() -> Path:
    """The library, with the kernels of every family; it is built when a source has changed."""
    building.CACHE.mkdir(parents=True, exist_ok=True)
    source = building.CACHE / "fake_libcuda.cpp"
    text = building.registry(families()) + '#include "fake_libcuda.h"\n'
    if not source.is_file() or source.read_text() != text:
        source.write_text(text)
    return building.build(source, flags=FLAGS)


def run(program: str, *arguments: str, **environment: str) -> str:
    """What a Python program prints in a process whose tensors of the CPU are those of an emulated GPU.

    Kernels come from the emulator, so that images of them aren't needed: ``IMAGES`` in the program's first line leaves
    them as they are.

    Raises:
        AssertionError: it failed; the text is what it printed.
    """
    variables = {"KDNATIVE_BACKEND": "cuda", "KDNATIVE_LIBCUDA": str(library()), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", START + program, *arguments],
        env={**os.environ, **variables},
        cwd=building.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


START = """
import torch
torch.set_num_threads(1)
from kdnative import _C, ops
_C.set_cuda_images(lambda family, capability: b"any")
"""
