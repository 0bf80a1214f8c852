"""Asynchronous copies from global to shared memory (``cp.async``): each thread's groups, and when bytes arrive."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.gpu.ptx.memory import SharedMemory


@dataclass
class _Copy:
    lanes: np.ndarray  # [n]
    groups: np.ndarray  # [n], the number of the group that each lane will close
    index: np.ndarray  # [n, size]
    data: np.ndarray  # [n, size]


class Copies:
    """Copies under way of a block.

    Args:
        lazy: bytes arrive when they are waited for; otherwise at once. A kernel has to be right with both.
    """

    def __init__(self, shared: SharedMemory, threads: int, lazy: bool) -> None:
        self._shared, self._lazy = shared, lazy
        self._committed = np.zeros(threads, np.int64)
        self._open: list[_Copy] = []

    def start(self, lanes: np.ndarray, index: np.ndarray, data: np.ndarray, what: str) -> None:
        """Threads ``lanes`` [n] copy ``data`` [n, size] to shared bytes ``index`` [n, size]."""
        self._shared.check(index, what)
        np.add.at(self._shared.flights, index, 1)
        if not self._lazy:
            self._shared.bytes[index] = data
        self._open.append(_Copy(lanes, self._committed[lanes], index, data))

    def commit(self, mask: np.ndarray) -> None:
        """Closes a group of each thread of a mask."""
        self._committed[mask] += 1

    def wait(self, mask: np.ndarray, pending: int | None) -> None:
        """Threads of a mask wait until at most so many of their latest groups are under way; None: until no copy is."""
        left = []
        for copy in self._open:
            done = mask[copy.lanes]
            if pending is not None:
                done = done & (copy.groups < self._committed[copy.lanes] - pending)
            if done.any():
                self._arrive(copy, done)
                copy = _Copy(copy.lanes[~done], copy.groups[~done], copy.index[~done], copy.data[~done])
            if len(copy.lanes):
                left.append(copy)
        self._open = left

    def finish(self) -> None:
        """The block has ended: what is under way arrives."""
        self.wait(np.ones(len(self._committed), bool), None)

    def _arrive(self, copy: _Copy, done: np.ndarray) -> None:
        index = copy.index[done]
        np.add.at(self._shared.flights, index, -1)
        if self._lazy:
            self._shared.bytes[index] = copy.data[done]
        self._shared.own(index, copy.lanes[done])
