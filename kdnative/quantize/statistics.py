"""What calibration keeps of the inputs of a linear layer, however many batches there are."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SAMPLE_ROWS", "STATISTICS", "Accumulator", "Statistics"]

STATISTICS = ("mean_square", "largest", "second_moment", "sample")

SAMPLE_ROWS = 512
"""Most rows of a sample."""


@dataclass(frozen=True)
class Statistics:
    """Of the inputs of one linear, or of several that read the same input, over all rows of the calibration data.

    What nobody needed is None.

    Args:
        rows: how many inputs ``[K]`` there were.
        second_moment: fp32 [K, K], the mean of ``x x^T``.
        mean_square: fp32 [K], the mean of ``x^2``.
        largest: fp32 [K], the largest ``|x|``; 0 where an input is always 0.
        sample: fp32 [R, K], R <= 512 of the rows, drawn from all of them.
    """

    rows: int
    second_moment: Tensor | None = None
    mean_square: Tensor | None = None
    largest: Tensor | None = None
    sample: Tensor | None = None


class Accumulator:
    """Takes rows of inputs in, batch after batch, and keeps sums.

    Products of a batch are fp32, their sums fp64: the order of the batches and where they are cut change the result by
    less than fp32 can show. The sample is the rows with the smallest keys, so it depends on neither.

    Args:
        size: K, the inputs.
        needs: the fields of `Statistics` that are wanted.
    """

    def __init__(self, size: int, needs: Collection[str]) -> None:
        if unknown := sorted(set(needs) - set(STATISTICS)):
            raise ValueError(f"there are no statistics {', '.join(unknown)}; known are {', '.join(STATISTICS)}")
        self.size, self.needs, self.rows = size, frozenset(needs), 0
        self._square = torch.zeros(size, dtype=torch.float64, device="cpu")
        self._largest = torch.zeros(size, dtype=torch.float32, device="cpu")
        moment = "second_moment" in needs
        self._moment = torch.zeros(size, size, dtype=torch.float64, device="cpu") if moment else None
        self._sample = torch.empty(0, size, dtype=torch.float32, device="cpu")
        self._keys = torch.empty(0, dtype=torch.int64, device="cpu")

    @staticmethod
    def bytes_of(size: int, needs: Collection[str]) -> int:
        """Memory of an accumulator, at most."""
        moment = 8 * size * size if "second_moment" in needs else 0
        sample = SAMPLE_ROWS * (4 * size + 8) if "sample" in needs else 0
        return moment + sample + 12 * size

    def add(self, rows: Tensor, keys: Tensor) -> bool:
        """Takes rows in, unless they hold NaN or infinite values.

        Args:
            rows: [M, K], floating point.
            keys: int64 [M]; which rows are kept as the sample follows from their keys alone.

        Returns:
            Whether all values were finite.
        """
        if not len(rows):
            return True
        x = rows.detach().to("cpu", torch.float32)
        largest = x.abs().amax(0)
        if not bool(torch.isfinite(largest).all()):
            return False
        self.rows += len(x)
        self._largest = torch.maximum(self._largest, largest)
        if self._moment is not None:
            product = x.t() @ x
            self._moment += product
            self._square += product.diagonal()
        else:
            self._square += x.square().sum(0)
        if "sample" in self.needs:
            self._keep(x, keys)
        return True

    def _keep(self, x: Tensor, keys: Tensor) -> None:
        if len(self._keys) == SAMPLE_ROWS:  # most rows can't be among the kept ones any more
            chosen = keys < self._keys[-1]
            x, keys = x[chosen], keys[chosen]
        keys, order = torch.cat([self._keys, keys]).sort(stable=True)
        self._keys, order = keys[:SAMPLE_ROWS], order[:SAMPLE_ROWS]
        self._sample = torch.cat([self._sample, x])[order]

    def result(self) -> Statistics:
        """The statistics so far."""
        rows = max(self.rows, 1)
        return Statistics(
            self.rows,
            None if self._moment is None else (self._moment / rows).float(),
            (self._square / rows).float(),
            self._largest.clone(),
            self._sample.clone() if "sample" in self.needs else None,
        )
