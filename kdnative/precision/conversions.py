"""A model converted in one assignment of schemes or another, from the same integer weights each time."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from kdnative.convert import convert_
from kdnative.convert.report import ConversionReport
from kdnative.precision.assigning import FLOAT
from kdnative.precision.ladder import Ladder
from kdnative.quantize import Calibration, calibrate_

__all__ = ["Conversions"]

_CONVERTING = ("keep", "embeddings", "fuse", "rows", "weights")


@dataclass(frozen=True)
class Conversions:
    """How to convert a model.

    Attributes:
        model: float. ladder: its schemes. calibrations: integer weights by scheme. options: of `convert_`.
    """

    model: nn.Module
    ladder: Ladder
    calibrations: Mapping[str, Calibration]
    options: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        ladder: Ladder,
        calibration: Any,
        options: Mapping[str, Any],
        say: Callable[[str], None],
    ) -> Conversions:
        """Calibrates every layer in every scheme that it may get.

        Args:
            calibration: data as for `calibrate_`, or ``{scheme: Calibration}``.
            options: those of `convert_`; ``method`` and ``tokenizer`` are for the calibration.
        """
        own = {name: options[name] for name in _CONVERTING if name in options}
        if options.get("clip_search"):
            raise ValueError("clip_search=True does not work with a gate: give method='clip' instead")
        if isinstance(calibration, Calibration):
            raise ValueError(
                "a gate chooses among schemes, but a Calibration holds weights for one scheme: give "
                "calibration={scheme: Calibration, ...}, or the calibration data"
            )
        if isinstance(calibration, Mapping):
            if missing := [scheme for scheme in ladder.schemes() if scheme not in calibration]:
                raise ValueError(f"calibration={{scheme: Calibration}} lacks {', '.join(missing)}")
            return cls(model, ladder, calibration, own)
        if isinstance(calibration, Iterator):
            calibration = list(calibration)  # every scheme reads it
        found = {}
        for scheme in ladder.schemes():
            say(f"calibrating {scheme}")
            wanted = {f"re:{re.escape(name)}": scheme for name, among in ladder.options.items() if scheme in among}
            passed = {name: options[name] for name in ("method", "tokenizer") if name in options}
            found[scheme] = calibrate_(model, wanted, calibration, **passed)
        return cls(model, ladder, found, own)

    def of_assignment(self, assignment: Mapping[str, str]) -> nn.Module:
        """A copy of the model, converted."""
        return self._convert(copy.deepcopy(self.model), assignment).model

    def apply(self, assignment: Mapping[str, str]) -> ConversionReport:
        """The model itself, converted in place."""
        return self._convert(self.model, assignment)

    def _convert(self, model: nn.Module, assignment: Mapping[str, str]) -> ConversionReport:
        told = self.ladder.told(assignment)
        return convert_(model, told, calibration=self._merged(assignment), **self.options)

    def _merged(self, assignment: Mapping[str, str]) -> Calibration:
        """The weights of every layer in its scheme: the assigned one, or the most exact that it may get."""
        weights, rows = {}, []
        for name, among in self.ladder.options.items():
            scheme = assignment.get(name, among[-1])
            if scheme != FLOAT:
                found = self.calibrations[scheme]
                weights[name] = found[name]
                rows.append(next(row for row in found.rows if row.name == name))
        return Calibration(weights, rows)
