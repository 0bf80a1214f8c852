"""Where CUDA kernels come from: cubins in the package, or a compiler at first use, whose output is kept on disk.

A driver is given one image for each family of kernels (``csrc/cuda/FAMILY.cu``). The best one that there is:

1. the cubin of the package for the device's capability, or the nearest lower one of the same generation (8.x, 9.x);
   Tegra takes no others than its own, and nobody else takes those;
2. what NVRTC makes of the sources, which travel with every package, kept in the user's cache;
3. PTX of the package, which the driver compiles: for devices that are newer than the package.

``KDNATIVE_GPU_IMAGES=sources`` leaves out what the package brings, for work on the kernels.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from pathlib import Path

from kdnative import _C
from kdnative.files import cache_dir, write_atomically
from kdnative.ops import nvrtc
from kdnative.ops.nvrtc import OPTIONS

__all__ = ["OPTIONS", "compiled", "compiled_by", "families", "image", "source_folder"]

PTX = nvrtc.ARCHITECTURES[0].replace("sm_", "compute_")
"""What the package's PTX is for: these devices and all newer ones."""

_TEGRA = (87, 101, 110)
"""Capabilities of Orin and Thor, whose machine code is their own: cubins go neither to them nor from them."""

_CUBIN = re.compile(r"(\w+)\.sm_(\d+)\.cubin")


def image(family: str, capability: int) -> bytes:
    """A cubin or PTX of a family for a device of a capability such as 80, which is 8.0.

    Raises:
        RuntimeError: the package has none, and there is nothing to compile it with; or it does not compile.
    """
    if near := [c for c in compiled().get(family, []) if _runs(c, capability)]:
        return _package_file(f"{family}.sm_{max(near)}.cubin").read_bytes()
    try:
        return _from_sources(family, capability)
    except nvrtc.NvrtcError as error:
        ptx = _package_file(f"{family}.{PTX}.ptx")
        if _brings_images() and ptx.is_file():
            return ptx.read_bytes()
        raise RuntimeError(
            f"there is no {family} kernel for capability {capability / 10} in this package, and it can't be compiled "
            f"here: {error}"
        ) from error


def _runs(made: int, capability: int) -> bool:
    """Whether a device of a capability runs a cubin that was made for another one."""
    if made in _TEGRA or capability in _TEGRA:
        return made == capability
    return made // 10 == capability // 10 and made <= capability


def compiled() -> dict[str, list[int]]:
    """The families that the package has cubins of, and for which capabilities."""
    found: dict[str, list[int]] = {}
    if _brings_images():
        for file in sorted(_package_file("").glob("*.cubin")):
            if match := _CUBIN.fullmatch(file.name):
                found.setdefault(match[1], []).append(int(match[2]))
    return found


def compiled_by() -> tuple[int, int] | None:
    """The version of the NVRTC that made the package's cubins and PTX; None: there are none."""
    file = _package_file(nvrtc.VERSION_FILE)
    if not _brings_images() or not file.is_file():
        return None
    found = re.fullmatch(r"(\d+)\.(\d+)\s*", file.read_text(encoding="utf-8"))
    return None if found is None else (int(found[1]), int(found[2]))


def families() -> list[str]:
    """All families of kernels, by their sources."""
    return sorted(file.stem for file in source_folder().glob("*.cu"))


@functools.cache
def source_folder() -> Path:
    """The folder of the kernels' sources: in a package beside the cubins, in a source tree where they are written.

    Raises:
        RuntimeError: they are in neither place.
    """
    tree = Path(__file__).parents[3] / "csrc" / "cuda"
    for folder in (tree, _package_file("source")):
        if (folder / "gpu.h").is_file():
            return folder
    missing = _package_file("source")
    raise RuntimeError(f"the sources of the CUDA kernels are missing from {missing}: install kdnative again")


def _brings_images() -> bool:
    return os.environ.get("KDNATIVE_GPU_IMAGES", "") != "sources"


def _package_file(name: str) -> Path:
    """Beside the native library, with which they are installed."""
    return Path(_C.__file__).parent / "_cuda" / name


def _from_sources(family: str, capability: int) -> bytes:
    """A cubin from the cache, or compiled and put there."""
    driver = _driver_major()
    compiler, folder, arch = nvrtc.load(driver), source_folder(), f"sm_{capability}"
    key = hashlib.sha256(f"{compiler.version_text} {driver} {arch} {' '.join(OPTIONS)}\n".encode())
    for file in sorted([*folder.rglob("*.cu"), *folder.rglob("*.cuh"), *folder.rglob("*.h")]):
        key.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
    kept = cache_dir() / "cuda" / f"{family}-{arch}-{key.hexdigest()[:32]}.cubin"
    if kept.is_file():
        return kept.read_bytes()
    made = compiler.compile(folder / f"{family}.cu", arch, include_dirs=[folder], options=OPTIONS)
    try:
        write_atomically(kept, lambda name: _write(Path(name), made))
    except OSError:  # a cache that can't be written costs the next process a second
        pass
    return made


def _driver_major() -> int:
    """That of the CUDA which the driver is of."""
    version: int = _C.cuda_driver()[1]
    return version // 1000


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
