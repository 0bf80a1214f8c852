"""Plain or float modules become native ones, in place."""

from kdnative.convert.plan import convert_
from kdnative.convert.report import ConversionReport, ConversionRow

__all__ = ["ConversionReport", "ConversionRow", "convert_"]
