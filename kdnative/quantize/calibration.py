"""The result of calibration: integer weights by the names of their layers, as plain data that can be saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kdnative.formats.weight import QuantizedWeight
from kdnative.quantize.calibrated_layer import CalibratedLayer
from kdnative.quantize.calibration_file import read_layers, write_layers
from kdnative.shown import shown

__all__ = ["Calibration"]


class Calibration(Mapping[str, QuantizedWeight]):
    """Integer weights by the names of layers, and how they were found.

    Attributes:
        rows: one `CalibratedLayer` each, in the order of the model.
        statistics_bytes: most memory that statistics and the method took at once, besides the model, its activations
            and the weights that were found. Not part of what is saved: a calibration that goes on needs less.
    """

    def __init__(
        self, weights: Mapping[str, QuantizedWeight], rows: Sequence[CalibratedLayer], statistics_bytes: int = 0
    ) -> None:
        if [row.name for row in rows] != list(weights):
            raise ValueError("a calibration has one row for each weight, in the same order")
        self._weights, self.rows, self.statistics_bytes = dict(weights), tuple(rows), statistics_bytes

    @property
    def method(self) -> str:
        """The method; of several all of them, with commas between."""
        return ", ".join(dict.fromkeys(row.method for row in self.rows))

    def __getitem__(self, name: str) -> QuantizedWeight:
        return self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def __repr__(self) -> str:
        return f"<Calibration of {len(self)} layers, {self.method}>"

    def __str__(self) -> str:
        lines = [("layer", "scheme", "method", "rows", "dead inputs", "error before", "error after")]
        for row in self.rows:
            errors = ("-" if e is None else f"{e:.2e}" for e in (row.error_before, row.error_after))
            lines.append((row.name or "(model)", row.scheme, row.method, str(row.rows), str(row.dead), *errors))
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file, in one step; its layout is that of `kdnative.quantize.calibration_file`."""
        layers = {row.name: (self[row.name], row) for row in self.rows}
        write_layers(path, layers, {})

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Reads what `save` wrote, and checks it as the file of a stranger.

        Raises:
            ValueError: it is damaged, or no calibration. OSError: it can't be read.
        """
        layers, extra = read_layers(path)
        if extra != {}:
            raise ValueError(f"{path} is no calibration, or damaged: extra is {shown(extra)}")
        weights = {name: weight for name, (weight, _) in layers.items()}
        return cls(weights, [row for _, row in layers.values()])
