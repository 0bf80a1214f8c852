"""Accelerate around one training: its device, precision and gradients, and nothing left behind.

Accelerate keeps its state in classes, so that a second ``Accelerator`` of one process has to be like the first. Here
each training gets a state of its own. An ``Accelerator`` that the caller has goes on with the state it was made with.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from kdnative.extras import require

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["accelerator"]

# What launchers tell a process about its fellows.
_FELLOWS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


@contextmanager
def accelerator(device: torch.device, bf16: bool) -> Iterator[Accelerator]:
    """An ``Accelerator`` for one training in this process.

    Args:
        device: where it computes. bf16: autocast to bfloat16 within ``autocast()``.

    Raises:
        ImportError: accelerate is not installed. ValueError: the process is one of several ranks.
    """
    ranks = max(int(os.environ.get(name) or 1) for name in _FELLOWS)
    if ranks > 1:
        raise ValueError(
            f"this process is one of {ranks} ranks, but train() runs in one process: start it without a "
            "distributed launcher"
        )
    library = require("accelerate", "train()")
    from accelerate.state import AcceleratorState, GradientState, PartialState

    holders = (PartialState, AcceleratorState, GradientState)
    before = [vars(holder)["_shared_state"] for holder in holders]
    for holder in holders:
        holder._shared_state = {}
    try:
        with _only_this_device(device):
            made = library.Accelerator(mixed_precision="bf16" if bf16 else "no", cpu=device.type == "cpu")
        yield made
    finally:
        for holder, state in zip(holders, before, strict=True):
            holder._shared_state = state


@contextmanager
def _only_this_device(device: torch.device) -> Iterator[None]:
    """The environment without what launchers of Accelerate say in it: the caller's settings decide alone."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("ACCELERATE_") or name == "LOCAL_RANK":
            del os.environ[name]
    os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
