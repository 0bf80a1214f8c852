"""The CUDA driver whose GPUs are the emulator (``fake_libcuda.h``), and programs that run with it."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.gpu import building

FLAGS = ("-shared", "-fPIC", "-fvisibility=hidden")


def families() -> list[str]:
    """Those whose kernels can be launched: all that have a source."""
    return sorted(path.stem for path in (building.ROOT / "csrc" / "cuda").glob("*.cu"))


def kernels_of(family: str) -> list[str]:
    """The names of a family's kernels: what its source defines once its macros are expanded."""
    includes = [f"-I{building.ROOT / folder}" for folder in building.INCLUDES]
    source = building.ROOT / "csrc" / "cuda" / f"{family}.cu"
    command = [building.compiler(), "-E", "-P", "-std=c++20", "-x", "c++", *includes, str(source)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return re.findall(r'extern "C" void\s+(\w+)\([^)]*\)\s*\{', text)


def library() -> Path:
    """The library, with the kernels of every family; it is built when a source has changed."""
    sources = [building.ROOT / "csrc" / "cuda" / f"{family}.cu" for family in families()]
    texts = {name: text for source in sources for name, text in building.included(source).items()}
    texts["this file"] = Path(__file__).read_text()
    digest = hashlib.sha256(repr(sorted(texts.items())).encode()).hexdigest()[:16]
    registry = building.CACHE / f"fake_libcuda-{digest}.cpp"
    if not registry.is_file():
        building.CACHE.mkdir(parents=True, exist_ok=True)
        lines = [f'#include "{source.name}"' for source in sources]
        # Launch bounds are the business of the families' own tests: here a block may have what any GPU allows.
        lines += [f"EMULATED_KERNEL({name}, 1024)" for family in families() for name in kernels_of(family)]
        temporary = registry.with_suffix(f".{os.getpid()}")
        temporary.write_text('#include "fake_libcuda.h"\n' + "\n".join(lines) + "\n")
        temporary.replace(registry)
    return building.build(registry, flags=FLAGS)


def run(program: str, *arguments: str, **environment: str) -> str:
    """What a Python program prints in a process whose tensors of the CPU are those of an emulated GPU.

    Kernels come from the emulator, so their images are a word.

    Raises:
        AssertionError: it failed; the text is what it printed.
    """
    driver = str(library())
    variables = {"KDNATIVE_BACKEND": "cuda", "KDNATIVE_LIBCUDA": driver, "LD_PRELOAD": driver, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", START + program, *arguments],
        env={**os.environ, **variables, **environment},
        cwd=building.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


START = """
import ctypes, os, sys, torch
torch.set_num_threads(1)
from kdnative import _C, ops
_C.set_cuda_images(lambda family, capability: b"any")

def launched():  # the names of all kernels so far
    names = ctypes.CDLL(os.environ["KDNATIVE_LIBCUDA"]).fake_cuda_launched
    names.restype = ctypes.c_char_p
    return names().decode()

"""
