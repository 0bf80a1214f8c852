"""What a window may be, for the kernels of convolutions and of poolings."""

from __future__ import annotations

from kdnative.formats.convnet.graph import Conv, Pool
from kdnative.formats.convnet.layout import MOST_PIXELS, MOST_TAPS

__all__ = ["check_window", "too_much"]


def check_window(node: Conv | Pool) -> None:
    """ValueError where `too_much` finds something, with the name of the node."""
    if (problem := too_much(node)) is not None:
        raise ValueError(f"{node.name}: the kernels can't run {problem}")


def too_much(node: Conv | Pool) -> str | None:
    """What of a window is too much for the kernels, in words; None: nothing."""
    height, width = node.kernel
    if isinstance(node, Pool) and node.adaptive:
        if max(node.kernel) > MOST_TAPS:
            return f"an adaptive pooling to {height} x {width} pixels; {MOST_TAPS} a side are allowed"
        return None
    if height * width > MOST_TAPS:
        return f"a kernel of {height} x {width} pixels; {MOST_TAPS} pixels are allowed"
    if max(node.stride) > MOST_TAPS:
        return f"a stride of {node.stride[0]} x {node.stride[1]} pixels; {MOST_TAPS} a side are allowed"
    if max(*node.dilation, *(() if node.padding == "same" else node.padding)) > MOST_PIXELS:
        return f"a padding or dilation of more than {MOST_PIXELS} pixels"
    return None
