"""Padding as TensorFlow has it."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Padding", "tensorflow_padding"]

Padding = tuple[int, int, int, int]
"""Rows and columns of zeros: top, bottom, left, right."""


def tensorflow_padding(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Padding:
    """The padding "same": as much as makes ceil(size / stride) pixels, the smaller half in front."""
    found = []
    for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        found += [total // 2, total - total // 2]
    return (found[0], found[1], found[2], found[3])
