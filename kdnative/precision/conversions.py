"""A model converted in one assignment of schemes or another, from the same integer weights each time."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from kdnative.convert import convert_
from kdnative.convert.report import ConversionReport
from kdnative.formats.weight import QuantizedWeight
from kdnative.precision.assigning import FLOAT
from kdnative.precision.ladder import Ladder
from kdnative.quantize import Calibration, calibrate_

__all__ = ["Conversions"]

_CALIBRATING = ("keep", "tokenizer", "sequential", "state_path", "progress")


@dataclass(frozen=True)
class Conversions:
    """How to convert a model.

    Attributes:
        model: float. ladder: its schemes. calibrations: integer weights by scheme; none where weights are rounded to
            the nearest. options: of `convert_`.
    """

    model: nn.Module
    ladder: Ladder
    calibrations: Mapping[str, Mapping[str, QuantizedWeight]]
    options: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        ladder: Ladder,
        calibration: Any,
        method: Any,
        options: Mapping[str, Any],
        say: Callable[[str], None],
    ) -> Conversions:
        """Calibrates every layer in every scheme that it may get.

        Args:
            calibration: data as for `calibrate_`, or ``{scheme: Calibration}``.
            method: as for `calibrate_`; "rtn" alone needs none. options: of `convert_` and of `calibrate_`.
        """
        own = {name: value for name, value in options.items() if name not in _CALIBRATING or name == "keep"}
        if isinstance(calibration, Calibration):
            raise ValueError(
                "a gate chooses among schemes, and a Calibration has the weights of one: give calibration={scheme: "
                "Calibration, ...}, or the data itself"
            )
        if isinstance(calibration, Mapping):
            if missing := [s for s in ladder.schemes() if s not in calibration]:
                raise ValueError(f"calibration={{scheme: Calibration}} lacks {', '.join(missing)}")
            return cls(model, ladder, calibration, own)
        if method == "rtn":
            return cls(model, ladder, {}, {**own, "method": "rtn"})
        found = {}
        passed = {name: options[name] for name in _CALIBRATING[1:] if name in options}
        for scheme in ladder.schemes():
            say(f"calibrating {scheme}")
            wanted = {f"re:{re.escape(n)}": scheme for n, schemes in ladder.options.items() if scheme in schemes}
            found[scheme] = calibrate_(model, wanted, calibration, method=method, **passed)
        return cls(model, ladder, found, own)

    def of_assignment(self, assignment: Mapping[str, str]) -> nn.Module:
        """A copy of the model, converted."""
        return self._convert(copy.deepcopy(self.model), assignment).model

    def apply(self, assignment: Mapping[str, str]) -> ConversionReport:
        """The model itself, converted in place."""
        return self._convert(self.model, assignment)

    def _convert(self, model: nn.Module, assignment: Mapping[str, str]) -> ConversionReport:
        weights = dict(self.options.get("weights") or {})
        for name, scheme in assignment.items():
            if scheme != FLOAT and name in self.calibrations.get(scheme, {}):
                weights[name] = self.calibrations[scheme][name]
        options = {**self.options, "weights": weights or None}
        return convert_(model, self.ladder.told(assignment), **options)
