"""What weights look like: schemes, plain integer weights, and the packed buffers that kernels read."""

from kdnative.formats import dense, sparse
from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight, code_range, pack_bits, unpack_bits

__all__ = ["QuantizedWeight", "Scheme", "code_range", "dense", "pack_bits", "sparse", "unpack_bits"]
