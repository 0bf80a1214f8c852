"""The CPU: kernels of the native library, which registers them with torch itself (``csrc/ops``)."""

from __future__ import annotations

from kdnative.formats.scheme import NAMES
from kdnative.ops.backends.base import Backend

__all__ = ["CPU"]

CPU = Backend("cpu", NAMES, fused=True)
