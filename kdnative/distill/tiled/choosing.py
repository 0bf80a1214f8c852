"""Who computes tiles: Triton where it can, else plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kdnative.distill.tiled.logits import LinearLogits
from kdnative.distill.tiled.passes import Tiles
from kdnative.extras import installed

__all__ = ["tiles_for", "triton_tiles"]


def tiles_for(student: LinearLogits, teachers: Sequence[LinearLogits]) -> Tiles:
    """Triton's for 16-bit products of one teacher on an NVIDIA GPU that has them, where Triton is installed.

    All else is plain torch's: fp32 as well, whose products Triton would round to TF32.
    """
    hidden = student.hidden
    if not hidden.is_cuda or torch.version.hip is not None or torch.cuda.get_device_capability(hidden.device) < (8, 0):
        return Tiles()
    sixteen = hidden.dtype in (torch.bfloat16, torch.float16) and all(t.hidden.dtype == hidden.dtype for t in teachers)
    return triton_tiles() if sixteen and len(teachers) == 1 and installed("triton") else Tiles()


def triton_tiles() -> Tiles:
    from kdnative.ops.backends.triton import linear_kl as kernels

    return Tiles(kernels.log_sums, kernels.tile, whole=False)
