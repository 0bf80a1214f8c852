"""The buffer of a network of convolutions: its header and records, as ``csrc/cpu/convnet_format.h`` reads them.

A header, a record for each node, numbers of nodes ("links": the inputs of every node, then the outputs of the network),
and sections that records point to. Offsets are bytes from the start of the buffer and multiples of 64; every number is
little-endian.
"""

from __future__ import annotations

import numpy as np

__all__ = ["ALIGN", "FINISH", "HEADER", "KINDS", "MAGIC", "MOST_PIXELS", "MOST_TAPS", "RECORD", "TILE", "VERSION"]

MAGIC = 0x4B444331  # "KDC1"
VERSION = 1
ALIGN = 64
MOST_TAPS = 4096  # of a kernel; pixels of a side of an adaptive pooling, and of a stride
MOST_PIXELS = 1024  # of a padding or a dilation

KINDS = {
    "input": 0,
    "conv": 1,
    "depthwise": 2,
    "max": 3,
    "average": 4,
    "add": 5,
    "multiply": 6,
    "concat": 7,
    "channels": 8,
    "lookup": 9,
    "resize": 10,
}
FINISH = {"clamp": 0, "hard_swish": 1, "table": 2, "real": 3}

HEADER = np.dtype(
    [("magic", "<i4"), ("version", "<i4"), ("bytes", "<i8")]
    + [(name, "<i4") for name in ("nodes", "link_count", "outputs", "unused")]
    + [("node_table", "<i8"), ("links", "<i8"), ("reserved", "<i8", 10)]
)
RECORD = np.dtype(
    [(name, "<i4") for name in ("kind", "channels", "real", "zero", "inputs", "input_count", "finish", "low", "high")]
    + [(name, "<i4") for name in ("whole_rows", "same", "kernel_h", "kernel_w", "stride_h", "stride_w")]
    + [(name, "<i4") for name in ("dilation_h", "dilation_w", "pad_top", "pad_bottom", "pad_left", "pad_right")]
    + [(name, "<i4") for name in ("adaptive", "ceil_mode", "count_pad", "tiles", "lanes")]
    + [(name, "<i4") for name in ("bilinear", "align_corners", "size_h", "size_w")]
    + [(name, "<f4") for name in ("out_scale", "out_zero", "residual_scale", "scale_a", "offset", "scale")]
    + [(name, "<f8") for name in ("step", "factor_h", "factor_w")]
    + [(name, "<i8") for name in ("table", "tile_table", "weights", "weight_bytes", "start", "start_signed")]
    + [(name, "<i8") for name in ("scales", "biases", "zeros", "order", "unused")]
)
TILE = np.dtype(
    [(name, "<i4") for name in ("first", "outputs", "vectors", "channel", "depth", "lane")] + [("weights", "<i8")]
)
assert HEADER.itemsize == 128 and RECORD.itemsize == 256 and TILE.itemsize == 32
