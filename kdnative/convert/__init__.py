"""Float modules become native ones, in place: ``decide``, ``build`` and ``apply``, which ``convert_`` calls."""

from kdnative.convert import attention, convolutions, encoders, layers  # noqa: F401  (they register their converters)
from kdnative.convert.building import Built, build
from kdnative.convert.deciding import decide
from kdnative.convert.in_place import apply, convert_
from kdnative.convert.native_forward import native_forward
from kdnative.convert.network_state import restore_networks_, save_networks
from kdnative.convert.network_training import finish_networks_, prepare_networks_
from kdnative.convert.plan import Decision, Plan, Region
from kdnative.convert.refusals import Refusal
from kdnative.convert.registry import Converter, Native, RegionConverter, converts
from kdnative.convert.report import ConversionReport, ConversionRow
from kdnative.convert.surroundings import Site
from kdnative.convert.to_float import to_float_
from kdnative.convert.weights import Weights

__all__ = [
    "Built",
    "ConversionReport",
    "ConversionRow",
    "Converter",
    "Decision",
    "Native",
    "Plan",
    "Refusal",
    "Region",
    "RegionConverter",
    "Site",
    "Weights",
    "apply",
    "build",
    "convert_",
    "converts",
    "decide",
    "finish_networks_",
    "native_forward",
    "prepare_networks_",
    "restore_networks_",
    "save_networks",
    "to_float_",
]
