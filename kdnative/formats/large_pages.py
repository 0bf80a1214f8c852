"""Memory for packed weights on large pages.

One row of activations reads every weight once. With pages of 4 KB a buffer of 16 MB has more of them than a core keeps
translations for, and looking them up takes time. Linux gives out pages of 2 MB to those who ask.
"""

from __future__ import annotations

import contextlib
import mmap

import torch
from torch import Tensor

LEAST = 4 * 2**20  # bytes; below, the translations fit


def zeros(size: int) -> Tensor:
    """uint8 ``[size]`` of zeros, on large pages where it is large and the system has them."""
    if size < LEAST or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(size, dtype=torch.uint8)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a system without them: its usual pages do
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)  # keeps the mapping until the last view of it is gone
