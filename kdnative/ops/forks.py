"""What Python does for forked children; the threads themselves are the native library's (``csrc/ops/fork.cpp``)."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kdnative import _C


@contextmanager
def one_thread() -> Iterator[None]:
    """Let this thread compute alone: for many small operations, which a pool of threads makes no faster.

    A pool that is not started is none that a fork could lose. Other threads keep theirs.
    """
    before = _C.set_threads_here(1)
    try:
        yield
    finally:
        if before:
            _C.set_threads_here(before)


def _after_fork() -> None:
    """Where threads were lost, the rest of a model must not wait for them either."""
    if _C.pool_is_lost():
        torch.set_num_threads(1)


def _at_exit() -> None:
    """Torch has one more pool, which ends at exit: a child would wait for its parent's unless torch makes a new one."""
    if os.getpid() != _loaded_in:
        torch.set_num_threads(torch.get_num_threads())


_loaded_in = os.getpid()
os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
