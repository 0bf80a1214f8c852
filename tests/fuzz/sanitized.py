"""The native library with GCC's address and undefined-behaviour sanitizers, in place of the one that is installed.

AddressSanitizer has to be in a process from its start, so :func:`use` starts this one anew. It does not see the masked
loads of AVX, with which kernels read the last columns of a row: :mod:`tests.fuzz.guarded` does.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

__all__ = ["use"]

_LIBRARY = "KDNATIVE_SANITIZED_LIBRARY"
_ROOT = Path(__file__).resolve().parents[2]
_OPTIONS = {
    # Python leaks by design, and a size that can't be allocated is to be an error of torch, not of the sanitizer.
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=4096:detect_odr_violation=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


def use(folder: Path) -> None:
    """Builds the library in a folder, and loads it into this process, started anew, before kdnative is imported."""
    if _LIBRARY not in os.environ:
        library = _build(folder.resolve())
        preload = " ".join(_gcc_file(name) for name in ("libasan.so", "libstdc++.so.6"))
        environment = {**os.environ, **_OPTIONS, _LIBRARY: str(library), "LD_PRELOAD": preload}
        os.execve(sys.executable, [sys.executable, "-m", "tests.fuzz.run", *sys.argv[1:]], environment)
    import torch  # noqa: F401  (the library needs it)

    spec = importlib.util.spec_from_file_location("kdnative._C", os.environ[_LIBRARY])
    sys.modules["kdnative._C"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _check()


def _check() -> None:
    """Whether kernels that read past the end of a tensor are noticed: a library that sees nothing proves nothing."""
    import numpy as np
    import torch

    from kdnative import ops

    for isa in ops.available_isas():
        said, say = os.pipe()
        if os.fork() == 0:
            os.dup2(say, 2)
            ops.select_isa(isa)
            tensor = torch.zeros(64)
            longer = torch.from_numpy(np.lib.stride_tricks.as_strided(tensor.numpy(), shape=(128,)))
            ops.quantize_per_token(longer)
            os._exit(0)
        os.close(say)
        with open(said, errors="replace") as report:
            if "heap-buffer-overflow" not in report.read():
                raise RuntimeError(f"the sanitizer did not see {isa} read past the end of a tensor")
        os.wait()


def _build(folder: Path) -> Path:
    """What CMake builds for a wheel, compiled by way of sanitize.sh."""
    from kdnative import __version__, ops

    kernels = {entry.name for entry in (_ROOT / "csrc" / "cpu").iterdir() if entry.is_dir()} - {"simd"}
    left_out = " ".join(sorted(kernels - set(ops.available_isas())))
    settings = {
        "CMAKE_BUILD_TYPE": "None",
        "CMAKE_CXX_COMPILER": "g++",
        "CMAKE_CXX_COMPILER_LAUNCHER": f"sh;{_ROOT / 'tests' / 'fuzz' / 'sanitize.sh'};{left_out or '-'}",
        "CMAKE_MODULE_LINKER_FLAGS": "-fsanitize=address,undefined",
        "Python_EXECUTABLE": sys.executable,
        "SKBUILD_PROJECT_VERSION": __version__,
        "pybind11_DIR": _output(sys.executable, "-m", "pybind11", "--cmakedir"),
    }
    defines = [f"-D{name}={value}" for name, value in settings.items()]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # CMake and Ninja of the environment
    print(f"building {folder}, which takes minutes where it is not there", flush=True)
    for command in (["cmake", "-S", _ROOT, "-B", folder, "-G", "Ninja", *defines], ["cmake", "--build", folder]):
        subprocess.run(command, env={**os.environ, "PATH": path}, check=True, stdout=subprocess.DEVNULL)
    return next((folder / "csrc").glob("_C.*.so"))


def _gcc_file(name: str) -> str:
    return _output("g++", f"-print-file-name={name}")


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
