"""Memory that ends where a page begins that nothing may touch: who reads on is stopped there, whatever reads."""

from __future__ import annotations

import ctypes
import mmap

import torch
from torch import Tensor

__all__ = ["Guarded"]

_PAGE = mmap.PAGESIZE


class Guarded:
    """Room for one tensor at a time.

    Args:
        size: bytes, whole pages.
    """

    def __init__(self, size: int = 2**20) -> None:
        self._size = size
        self._memory = mmap.mmap(-1, size + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        end = ctypes.addressof(ctypes.c_char.from_buffer(self._memory)) + size
        if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(end), ctypes.c_size_t(_PAGE), 0) != 0:
            raise OSError(ctypes.get_errno(), "a page could not be protected")

    def place(self, t: Tensor, alignment: int = 1) -> Tensor:
        """A copy with the same strides whose memory, rounded up to ``alignment`` bytes, ends at the page.

        A tensor that has no memory of the CPU, or too much of it, is returned as it is.
        """
        if t.is_meta or t.layout != torch.strided or t.requires_grad:
            return t
        width, size = t.element_size(), t.untyped_storage().nbytes()
        if not width <= size <= self._size:
            return t
        start = self._size - -(-size // alignment) * alignment
        flat = torch.frombuffer(self._memory, dtype=t.dtype, count=size // width, offset=start)
        flat.copy_(t.as_strided((size // width,), (1,), 0))
        return flat.as_strided(t.shape, t.stride(), t.storage_offset())
