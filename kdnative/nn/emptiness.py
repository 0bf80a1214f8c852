"""Native modules without weights.

A module that is made from shapes and a scheme has no weights yet, and one that moves to the meta device has them no
longer: both are *empty*. Nothing is packed from zeros only to be replaced. What is packed is what is loaded.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["empty", "stays_empty", "target_of"]


def empty(kind: str) -> str:
    """What to tell who asks for the weights of an empty module of a kind such as ``kdnative.nn.Linear``."""
    return (
        f"this {kind} is empty: it has shapes and no weights. Load a state dict into it, or make it from a float "
        "module (kdnative.convert_, from_float)"
    )


def target_of(fn: Callable[[Tensor], Tensor], tensor: Tensor) -> torch.device:
    """The device to which ``fn``, what ``Module._apply`` is given, would move a tensor."""
    return fn(tensor.new_empty(0)).device


def stays_empty(fn: Callable[[Tensor], Tensor], kind: str) -> bool:
    """True: an empty module is the same after ``fn``, what ``Module._apply`` is given by ``.half()``, ``.to(...)``.

    Raises:
        NotImplementedError: ``fn`` would move values to another device, and there are none (as in torch).
    """
    try:
        fn(torch.empty(0, dtype=torch.uint8, device="meta"))
    except NotImplementedError:
        raise NotImplementedError(f"{empty(kind)}; then move it") from None
    return True
