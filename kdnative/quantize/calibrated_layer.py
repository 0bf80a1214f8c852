"""What is known of a layer that was calibrated."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CalibratedLayer"]


@dataclass(frozen=True)
class CalibratedLayer:
    """What calibration did with one linear.

    Args:
        name: its path in the model.
        scheme: that it was quantized for, as asked for; its weight may have input scales besides.
        method: that made the weight.
        rows: inputs that the method saw; 0 of a method without data.
        dead: inputs of the layer that were 0 in every row.
        error_before: relative error of the layer's output on a sample of the inputs that the method did not see,
            ``|y' - y|^2 / |y|^2`` with the activations rounded as the scheme does, of a weight rounded to the nearest.
            None without data, where all examples are alike, and where y is 0.
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

    @property
    def is_worse(self) -> bool:
        """Whether rounding to the nearest would have had less error, by more than a hundredth of it."""
        return None not in (self.error_before, self.error_after) and self.error_after > 1.01 * self.error_before
