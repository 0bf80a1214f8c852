"""Weight quantization: plain integer weights from float ones, after training or during it."""

from kdnative.formats.weight import QuantizedWeight, pack_bits, unpack_bits
from kdnative.quantize.calibrated_layer import CalibratedLayer
from kdnative.quantize.calibrating import calibrate_
from kdnative.quantize.calibration import Calibration
from kdnative.quantize.fake import FakeQuantLinear
from kdnative.quantize.qat import finish_qat_, prepare_qat_
from kdnative.quantize.rtn import quantize_weight, search_clip
from kdnative.quantize.statistics import Statistics
from kdnative.quantize.ternary import ternary_weight

__all__ = [
    "CalibratedLayer",
    "Calibration",
    "FakeQuantLinear",
    "QuantizedWeight",
    "Statistics",
    "calibrate_",
    "finish_qat_",
    "pack_bits",
    "prepare_qat_",
    "quantize_weight",
    "search_clip",
    "ternary_weight",
    "unpack_bits",
]
