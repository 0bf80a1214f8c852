"""The result of calibration: integer weights by the names of their layers, as plain data that can be saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdnative.formats.weight import QuantizedWeight

__all__ = ["CalibratedLayer", "Calibration"]


@dataclass(frozen=True)
class CalibratedLayer:
    """What calibration did with one linear.

    Args:
        name: its path in the model.
        scheme: that it was quantized for, as asked for; its weight may have input scales besides.
        method: that made the weight.
        rows: inputs that the method saw; 0 of a method without data.
        dead: inputs of the layer that were 0 in every row.
        error_before: relative error of the layer's output on a sample of its inputs, ``|y' - y|^2 / |y|^2`` with the
            activations rounded as the scheme does, of a weight rounded to the nearest. None without data.
        error_after: the same of the weight that was found.
        digest: of the float weight, hexadecimal: a calibration is of these values and no others.
    """

    name: str
    scheme: str
    method: str
    rows: int
    dead: int
    error_before: float | None
    error_after: float | None
    digest: str


class Calibration(Mapping[str, QuantizedWeight]):
    """Integer weights by the names of layers, and how they were found.

    Attributes:
        rows: one `CalibratedLayer` each, in the order of the model.
        statistics_bytes: most memory that statistics took at once.
    """

    def __init__(
        self, weights: Mapping[str, QuantizedWeight], rows: Sequence[CalibratedLayer], statistics_bytes: int = 0
    ) -> None:
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

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file, in one step."""
        raise NotImplementedError

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Reads what `save` wrote."""
        raise NotImplementedError
