"""Weight quantization: plain integer weights from float ones, after training or during it."""

from .fake import FakeQuantLinear
from .plain import QuantizedWeight, pack_bits, unpack_bits
from .qat import finish_qat_, prepare_qat_
from .rtn import quantize_weight, search_clip

__all__ = [
    "FakeQuantLinear",
    "QuantizedWeight",
    "finish_qat_",
    "pack_bits",
    "prepare_qat_",
    "quantize_weight",
    "search_clip",
    "unpack_bits",
]
