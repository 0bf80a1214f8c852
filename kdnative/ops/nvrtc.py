"""NVIDIA's run-time compiler: kernels in CUDA C++ to PTX or to a cubin, with no GPU, no driver and no CUDA headers.

Nothing here imports torch or another module of the package, so that a build can load this file by its path.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["ARCHITECTURES", "OPTIONS", "Nvrtc", "NvrtcError", "find", "load"]

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90")
"""What packages have cubins for, besides PTX of the first."""

OPTIONS = ("--fmad=false", "-DNDEBUG")
"""What kernels are compiled with: a product and a sum are fused where the source says so, and nowhere else."""

VERSION_FILE = "nvrtc_version"
"""The file beside the cubins of a package that says which NVRTC made them."""

LEAST_VERSION = (12, 5)
"""The first that knows `mma.sp::ordered_metadata` (PTX ISA 8.5), which the sparse kernels have."""

# A file to take instead of searching; empty: act as if there were none.
VARIABLE = "KDNATIVE_NVRTC"
# The older major first: drivers of CUDA 13 load what it makes, while drivers of CUDA 12 refuse what 13 makes.
_MAJORS = (12, 13)
_ARCH = re.compile(r"(sm|compute)_\d{2,3}[af]?")


class NvrtcError(RuntimeError):
    """The compiler is missing, too strange, or refuses a source: the message has its log."""


class Nvrtc:
    """One loaded libnvrtc.

    Args:
        path: the shared library. Raises `NvrtcError` when it can't be loaded.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._library = ctypes.CDLL(str(path))
            self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        except (OSError, AttributeError) as error:
            raise NvrtcError(f"{path} can't be loaded as NVRTC: {error}") from None
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = (major.value, minor.value)

    def compile(
        self,
        source: str | Path,
        arch: str,
        include_dirs: Sequence[str | Path] = (),
        options: Sequence[str] = (),
    ) -> bytes:
        """Compiles a source in C++17; the same input gives the same bytes.

        Args:
            source: the text, or the path of a file.
            arch: ``"sm_80"`` for a cubin of that GPU, ``"compute_80"`` for PTX, which ends without a zero byte.
            include_dirs: folders of ``#include``; the folder of ``source`` isn't one of them by itself.
            options: further options of NVRTC, such as ``"--fmad=false"`` or ``"-DNAME=1"``.

        Raises:
            ValueError: ``arch`` is neither.
            NvrtcError: the source has errors; the message is the compiler's log.
        """
        if not _ARCH.fullmatch(arch):
            raise ValueError(
                f'arch: {arch!r} is given, "sm_80" (cubin) or "compute_80" (PTX) and their like are allowed'
            )
        name = source.name if isinstance(source, Path) else "kernel.cu"
        text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
        flags = [
            f"--gpu-architecture={arch}",
            "--std=c++17",
            "--no-source-include",
            *(f"--include-path={folder}" for folder in include_dirs),
            *options,
        ]
        program = ctypes.c_void_p()
        self._call("nvrtcCreateProgram", ctypes.byref(program), text.encode(), name.encode(), 0, None, None)
        try:
            given = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
            code = self._library.nvrtcCompileProgram(program, len(flags), given)
            if code:
                log = self._read(program, "ProgramLog").decode(errors="replace").strip()
                raise NvrtcError(
                    f"NVRTC {self.version_text} doesn't compile {name} for {arch}: {log or self._say(code)}"
                )
            return self._read(program, "CUBIN" if arch.startswith("sm_") else "PTX", text=not arch.startswith("sm_"))
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    @property
    def version_text(self) -> str:
        """The version as one writes it: ``"12.9"``."""
        return f"{self.version[0]}.{self.version[1]}"

    def _read(self, program: ctypes.c_void_p, what: str, text: bool = True) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        data = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", program, data)
        return data.raw.rstrip(b"\0") if text else data.raw

    def _call(self, function: str, *arguments: Any) -> None:
        if code := getattr(self._library, function)(*arguments):
            raise NvrtcError(f"{self.path}: {function} says {self._say(code)}")

    def _say(self, code: int) -> str:
        return (self._library.nvrtcGetErrorString(code) or b"").decode() or f"error {code}"


def find() -> Path | None:
    """The libnvrtc that is tried first, see :func:`load`. None: there is none.

    The variable ``KDNATIVE_NVRTC`` names a file instead; empty, it hides what there is.
    """
    return next(_candidates(), None)


@functools.cache
def load(most_major: int = max(_MAJORS), older_first: bool = False) -> Nvrtc:
    """The compiler to use: from packages before the system, in each that of CUDA 12 before that of 13.

    Those that can't be loaded, or are older than the kernels need, are passed over.

    Args:
        most_major: that of the driver, which refuses what newer compilers make.
        older_first: one of CUDA 12 wherever it is before any of 13. For packages, whose drivers nobody knows.

    Raises:
        NvrtcError: there is none, in words.
    """
    passed_over = []
    for path in _candidates(older_first):
        try:
            compiler = Nvrtc(path)
        except NvrtcError as error:
            passed_over.append(str(error))
            continue
        if LEAST_VERSION <= compiler.version and compiler.version[0] <= most_major:
            return compiler
        why = "the driver refuses what it makes" if compiler.version[0] > most_major else "the kernels need 12.5"
        passed_over.append(f"{path} is NVRTC {compiler.version_text}, and {why}")
    found = f" ({'; '.join(passed_over)})" if passed_over else ""
    raise NvrtcError(
        f"libnvrtc isn't here{found}, and it compiles the GPU kernels: pip install nvidia-cuda-nvrtc-cu"
        f"{min(most_major, _MAJORS[0])}, or name the library in {VARIABLE}"
    )


def _candidates(older_first: bool = False) -> Iterator[Path]:
    """Files that may be the library, the best first."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        if named and not Path(named).is_file() and ("/" in named or not _loadable(named)):
            raise NvrtcError(f"{VARIABLE} names {named}, which isn't a file: name libnvrtc.so, or unset it")
        yield from [Path(named)] if named else []
        return
    places = [(_packages, _systems)] if older_first else [(_packages,), (_systems,)]
    for place in places:
        folders = [folder for each in place for folder in each()]
        for major in _MAJORS:
            for folder in folders:
                yield from _libraries(folder, major)
    for major in _MAJORS:
        if _loadable(f"libnvrtc.so.{major}"):  # where the loader alone knows it
            yield Path(f"libnvrtc.so.{major}")


def _libraries(folder: Path, major: int) -> list[Path]:
    """Those of a folder, under its plain name or, as torch/lib has it, with a hash."""
    plain = folder / f"libnvrtc.so.{major}"
    hashed = folder.glob(f"libnvrtc-*.so.{major}*") if folder.name == "lib" and folder.parent.name == "torch" else ()
    return [plain] if plain.is_file() else sorted(path for path in hashed if "builtins" not in path.name)


def _loadable(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _packages() -> Iterator[Path]:
    """Folders of NVIDIA's wheels, which torch's CUDA wheels bring: one a library until CUDA 12, one for all in 13; then
    those of torches that bring it themselves, and of conda."""
    for entry in sys.path:
        nvidia = Path(entry or ".") / "nvidia"
        yield from (nvidia / "cuda_nvrtc" / "lib", nvidia / "cu12" / "lib", nvidia / "cu13" / "lib")
    for entry in sys.path:
        yield Path(entry or ".") / "torch" / "lib"
    yield from _of_toolkit(Path(sys.prefix))


def _systems() -> Iterator[Path]:
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    for home in homes:
        if home:
            yield from _of_toolkit(Path(home))
    yield from (
        Path("/usr/lib/x86_64-linux-gnu"),
        Path("/usr/lib/aarch64-linux-gnu"),
        Path("/usr/lib64"),
        Path("/usr/lib"),
    )


def _of_toolkit(home: Path) -> Iterator[Path]:
    yield from (home / "lib64", home / "lib")
    yield from (home / "targets" / f"{system}-linux" / "lib" for system in ("x86_64", "sbsa", "aarch64"))


if __name__ == "__main__":  # for the Makefile, whose builds don't see the packages of its environment
    try:
        print(load(older_first=True).path)
    except NvrtcError:
        print()
