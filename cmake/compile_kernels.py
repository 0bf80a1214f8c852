"""Compiles a family of GPU kernels while the package is built: cubins, and PTX of the oldest architecture.

    compile_kernels.py --version                            prints the version of NVRTC, or fails with what is missing
    compile_kernels.py csrc/cuda/FAMILY.cu OUT sm_80 sm_90   writes OUT/FAMILY.sm_80.cubin ... OUT/FAMILY.compute_80.ptx
                                                             and OUT/nvrtc_version

It needs Python alone: the package is not there yet, so its compiler is loaded by its path.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def nvrtc_module() -> ModuleType:
    """``kdnative/ops/nvrtc.py``, without the package around it."""
    path = Path(__file__).parents[1] / "kdnative" / "ops" / "nvrtc.py"
    spec = importlib.util.spec_from_file_location("nvrtc", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(arguments: list[str]) -> None:
    nvrtc = nvrtc_module()
    compiler = nvrtc.load(older_first=True)
    if arguments == ["--version"]:
        print(compiler.version_text)
        return
    source, out, *archs = arguments
    family, folder = Path(source), Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    version = folder / f"{nvrtc.VERSION_FILE}.{family.stem}"  # families are compiled at once: each renames its own
    version.write_text(f"{compiler.version_text}\n", encoding="utf-8")
    version.replace(folder / nvrtc.VERSION_FILE)
    ptx = min(nvrtc.ARCHITECTURES).replace("sm_", "compute_")
    for arch in (*archs, ptx):
        data = compiler.compile(family, arch, include_dirs=[family.parent], options=nvrtc.OPTIONS)
        (folder / f"{family.stem}.{arch}.{'ptx' if arch == ptx else 'cubin'}").write_bytes(data)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (RuntimeError, ValueError) as error:
        sys.exit(f"compile_kernels.py: {error}")
