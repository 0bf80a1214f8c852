"""What weights look like: schemes, plain integer weights, and the packed buffers that kernels read."""

from kdnative.formats import arithmetic, dense, layouts, sparse
from kdnative.formats.scheme import ActivationFormat, Scheme, WeightFormat
from kdnative.formats.weight import QuantizedWeight, code_range, pack_bits, unpack_bits

__all__ = [
    "ActivationFormat",
    "QuantizedWeight",
    "Scheme",
    "WeightFormat",
    "arithmetic",
    "code_range",
    "dense",
    "layouts",
    "pack_bits",
    "sparse",
    "unpack_bits",
]
