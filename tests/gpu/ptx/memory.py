"""Global memory as isolated buffers, and a block's shared memory with what is known of each byte."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.gpu.ptx.parsing import PtxError

_START = 0x1000  # of each buffer, in a range of 4 GiB that it has for itself
_RANGE = 32


@dataclass(frozen=True)
class Pointer:
    """An argument that points into an array, ``offset`` bytes behind its start."""

    array: np.ndarray
    offset: int = 0


def address_of(number: int) -> int:
    """Where the buffer of a number lies: that of the first is 0."""
    return (number + 1) << _RANGE | _START


class GlobalMemory:
    """Buffers with nothing between them, so that an access outside of any of them is seen."""

    def __init__(self) -> None:
        self.buffers: list[np.ndarray] = []

    def add(self, array: np.ndarray) -> int:
        """The address of an array, which kernels change in place."""
        if not array.flags.c_contiguous:
            raise ValueError(f"an array of strides {array.strides} is given to a kernel: give it a contiguous one")
        self.buffers.append(array.reshape(-1).view(np.uint8) if array.size else np.zeros(0, np.uint8))
        return address_of(len(self.buffers) - 1)

    def locate(self, addresses: np.ndarray, size: int, what: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The accesses of ``size`` bytes by buffer: its bytes, the indices [n, size] in it, which of the addresses."""
        numbers = (addresses >> np.uint64(_RANGE)).astype(np.int64)
        found = []
        for number in [numbers[0]] if (numbers == numbers[0]).all() else np.unique(numbers):
            chosen = np.flatnonzero(numbers == number)
            if not 0 < number <= len(self.buffers):
                raise PtxError(f"{what}: address {int(addresses[chosen[0]]):#x} lies in no buffer")
            buffer = self.buffers[number - 1]
            start = (addresses[chosen] & np.uint64((1 << _RANGE) - 1)).astype(np.int64) - _START
            if start.min() < 0 or start.max() + size > len(buffer):
                worst = start.min() if start.min() < 0 else start.max()
                raise PtxError(
                    f"{what} of {size} bytes at offset {worst}, outside its buffer ({number}) of {len(buffer)} bytes"
                )
            found.append((buffer, start[:, None] + np.arange(size), chosen))
        return found


class SharedMemory:
    """A block's shared memory: which bytes hold something, and who may read them.

    A byte that a thread wrote can be read by that thread; after ``bar.warp.sync`` by its warp, after a barrier by all.
    """

    def __init__(self, size: int) -> None:
        self.bytes = np.full(size, 0xCD, np.uint8)
        self.written = np.zeros(size, bool)
        self.flights = np.zeros(size, np.int16)  # copies under way, a byte
        self.owner = np.zeros(size, np.int32)  # 0: everyone's; n > 0: of thread n - 1; n < 0: of warp -n - 1
        self._owned = False

    def check(self, index: np.ndarray, what: str) -> None:
        """Refuses indices [n, size] outside."""
        if index.min() < 0 or index.max() >= len(self.bytes):
            worst = index.min() if index.min() < 0 else index.max()
            raise PtxError(f"{what} at offset {worst}, outside the {len(self.bytes)} bytes of shared memory")

    def read(self, index: np.ndarray, lanes: np.ndarray | None, what: str) -> np.ndarray:
        """The bytes at indices [n, size] as threads ``lanes`` [n] read them; None: as all threads of the block do."""
        self.check(index, what)
        for wrong, why in ((~self.written[index], "nobody wrote"), (self.flights[index] > 0, "a copy is under way to")):
            if wrong.any():
                raise PtxError(f"{what}: shared byte {index[wrong][0]} that {why}")
        if self._owned:
            owner = self.owner[index]
            foreign = owner != 0
            if lanes is not None:
                foreign &= (owner != lanes[:, None] + 1) & (owner != -(lanes[:, None] // 32) - 1)
            if foreign.any():
                raise PtxError(
                    f"{what}: shared byte {index[foreign][0]} of another thread, and no barrier since it was written"
                )
        return self.bytes[index]

    def write(self, index: np.ndarray, data: np.ndarray, lanes: np.ndarray, what: str) -> None:
        """Bytes that threads ``lanes`` write."""
        self.check(index, what)
        if (self.flights[index] > 0).any():
            raise PtxError(f"{what}: shared byte {index[self.flights[index] > 0][0]} that a copy is under way to")
        self.bytes[index] = data
        self.own(index, lanes)

    def own(self, index: np.ndarray, lanes: np.ndarray) -> None:
        """Marks bytes as written, by these threads."""
        self.written[index] = True
        self.owner[index] = lanes[:, None] + 1
        self._owned = True

    def synchronize(self, threads: np.ndarray) -> None:
        """A barrier: what these threads (a mask of the block) wrote is everyone's."""
        if threads.all():
            self.owner[:] = 0
            self._owned = False
        else:
            owner = np.where(
                self.owner < 0, -self.owner * 32 - 32, self.owner - 1
            )  # a thread of the warp speaks for it
            self.owner[(self.owner != 0) & threads[np.maximum(owner, 0)]] = 0

    def synchronize_warps(self, threads: np.ndarray) -> None:
        """``bar.warp.sync``: what these threads wrote is their warp's."""
        mine = (self.owner > 0) & threads[np.maximum(self.owner - 1, 0)]
        self.owner[mine] = -((self.owner[mine] - 1) // 32) - 1
