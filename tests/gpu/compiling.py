"""The kernels of a family as the product compiles them: PTX for the interpreter, cubins to look into."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

from kdnative.ops import nvrtc
from tests.gpu import ptx
from tests.gpu.building import CACHE, ROOT, included


def missing() -> str | None:
    """Why nothing can be compiled here; None: it can."""
    return None if nvrtc.find() else "libnvrtc isn't here: pip install nvidia-cuda-nvrtc-cu12"


def compile_family(family: str, arch: str, root: Path = ROOT, options: tuple[str, ...] = ()) -> bytes:
    """What NVRTC makes of ``csrc/cuda/FAMILY.cu``; kept until a file that it includes changes.

    Args:
        arch: ``"compute_80"`` for PTX, ``"sm_80"`` for a cubin.
        root: a copy of the repository, such as one with a mistake in it.
        options: more options of NVRTC.
    """
    from kdnative.ops.backends.cuda_images import OPTIONS

    source, compiler = root / "csrc" / "cuda" / f"{family}.cu", nvrtc.load()
    flags = (*OPTIONS, *options)
    key = hashlib.sha256(f"{compiler.version_text} {arch} {flags}".encode())
    for text in sorted(included(source, root).items()):
        key.update(repr(text).encode())
    kept = CACHE / f"{family}-{arch}-{key.hexdigest()[:16]}"
    if not kept.is_file():
        made = compiler.compile(source, arch, [source.parent], flags)
        CACHE.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_suffix(f".{os.getpid()}")  # several processes may compile it at once
        temporary.write_bytes(made)
        temporary.replace(kept)
    return kept.read_bytes()


@functools.cache
def ptx_of(family: str, root: Path = ROOT) -> ptx.Module:
    """A family's PTX for sm_80, parsed."""
    return ptx.parse(compile_family(family, "compute_80", root))
