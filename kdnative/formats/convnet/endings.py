"""From real numbers to codes: what the epilogues of kernels take (``csrc/cpu/convolution.h``), all in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kdnative.formats.convnet.graph import ACTIVATIONS, Ending, Range

__all__ = ["MOST", "Target", "apply", "table", "target_of"]

MOST = float(2**30)
"""What a value in front of rounding may be, at most: conversions to int32 are exact below."""

_TABLES: dict[str, Callable[..., Tensor]] = {
    "none": lambda x: x,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "hard_swish": functional.hardswish,
    "hard_sigmoid": functional.hardsigmoid,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": functional.elu,
    "leaky_relu": functional.leaky_relu,
    "mish": functional.mish,
    "softplus": functional.softplus,
}
assert set(_TABLES) == set(ACTIVATIONS)


def apply(ending: Ending, x: Tensor) -> Tensor:
    """The activation of ``ending``, in the dtype of ``x``."""
    return _TABLES[ending.activation](x, *ending.parameters)


def table(ending: Ending, before: Range, out: Range) -> Tensor:
    """uint8 ``[256]`` on the CPU: the code in ``out`` of the activation of each code in ``before``; half to even."""
    arguments = (np.arange(256, dtype=np.float64) - before.zero_point) * before.scale
    values = apply(ending, torch.from_numpy(arguments)).numpy()
    with np.errstate(over="ignore"):  # infinity is the end of the range
        codes = np.rint(values / out.scale + out.zero_point).clip(0, 255)
    return torch.from_numpy(codes.astype(np.uint8))


@dataclass(frozen=True)
class Target:
    """Where sums of a node go: codes (``step``, ``zero``) within ``low`` and ``high``, and what comes then.

    Args:
        finish: of :data:`kdnative.formats.convnet.layout.FINISH`.
        out_scale, out_zero: for "hard_swish". table: for "table".
    """

    finish: str
    step: float
    zero: int
    low: int = 0
    high: int = 255
    out_scale: float = 0.0
    out_zero: float = 0.0
    table: Tensor | None = None

    def check(self, name: str, largest: np.ndarray) -> None:
        """ValueError where a value could be too large for what comes behind the sums.

        Args:
            name: of the node. largest: magnitudes of what each output channel may become.
        """
        if self.finish == "real":  # nothing is rounded
            most = torch.finfo(torch.float32).max
            if not float(largest.max()) < most:
                raise ValueError(f"{name}: results may become {float(largest.max()):.3g}, and fp32 ends at {most:.3g}")
            return
        check_bound(name, largest)
        if self.finish == "hard_swish":
            check_bound(name, largest * self.out_scale + self.out_zero)


def target_of(name: str, ending: Ending, out: Range | None) -> Target:
    """What the epilogue of a node does.

    Raises:
        ValueError: real numbers behind an activation, or a table without the range of what it is applied to.
    """
    kind = ending.activation
    if out is None:
        if kind != "none":
            raise ValueError(f"{name}: real numbers come without an activation (got {kind!r}); give the node a range")
        return Target("real", 1.0, 0)
    if kind == "none":
        return Target("clamp", out.scale, out.zero_point)
    if kind in ("relu", "relu6"):
        six = min(255, round(6 / out.scale) + out.zero_point)
        return Target("clamp", out.scale, out.zero_point, out.zero_point, 255 if kind == "relu" else six)
    if kind == "hard_swish" and ending.before is None:
        return Target("hard_swish", 1.0, 0, out_scale=1 / out.scale, out_zero=float(out.zero_point))
    if ending.before is None:
        raise ValueError(f"{name}: {kind!r} is a table of codes, so `before` must be the range that it is applied to")
    before = ending.before
    return Target("table", before.scale, before.zero_point, table=table(ending, before, out))


def check_bound(name: str, values: np.ndarray | float) -> None:
    """ValueError unless all of them, largest magnitudes in front of rounding, are below :data:`MOST`."""
    largest = float(np.max(values))
    if not (math.isfinite(largest) and largest < MOST):
        raise ValueError(
            f"{name}: results may become {largest:.3g} steps of its range, which is more than kernels take (2^30); "
            "calibrate the range again, or look for a scale that is far too large"
        )
