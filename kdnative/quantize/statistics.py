"""What calibration keeps of the inputs of a linear layer, however many batches there are."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SAMPLE_ROWS", "STATISTICS", "Accumulator", "Statistics"]

STATISTICS = ("mean_square", "largest", "second_moment", "sample", "held")

SAMPLE_ROWS = 512
"""Most rows of a sample."""

_LARGE = 1e18
"""Sums of squares of larger values overflow float32."""


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
        held: fp32 [R, K], R <= 512 of the rows that were held out, which nothing else here is of.
    """

    rows: int
    second_moment: Tensor | None = None
    mean_square: Tensor | None = None
    largest: Tensor | None = None
    sample: Tensor | None = None
    held: Tensor | None = None


class _Sample:
    """The rows with the smallest keys."""

    def __init__(self, size: int) -> None:
        self.rows = torch.empty(0, size, dtype=torch.float32, device="cpu")
        self._keys = torch.empty(0, dtype=torch.int64, device="cpu")

    def add(self, x: Tensor, keys: Tensor) -> None:
        if len(self._keys) == SAMPLE_ROWS:  # most rows can't be among the kept ones any more
            chosen = keys < self._keys[-1]
            x, keys = x[chosen], keys[chosen]
        keys, order = torch.cat([self._keys, keys]).sort(stable=True)
        self._keys, order = keys[:SAMPLE_ROWS], order[:SAMPLE_ROWS]
        self.rows = torch.cat([self.rows, x])[order]


class Accumulator:
    """Takes rows of inputs in, batch after batch, and keeps sums.

    Products of a batch are fp32 (of huge values fp64), their sums fp64: the order of the batches and where they are cut
    change the result by less than fp32 can show. The sample is the rows with the smallest keys: it depends on neither.

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
        self._samples = {name: _Sample(size) for name in ("sample", "held") if name in needs}

    @staticmethod
    def bytes_of(size: int, needs: Collection[str]) -> int:
        """Memory of an accumulator, at most."""
        moment = 8 * size * size if "second_moment" in needs else 0
        samples = sum(name in needs for name in ("sample", "held")) * SAMPLE_ROWS * (4 * size + 8)
        return moment + samples + 12 * size

    def add(self, rows: Tensor, keys: Tensor, held: Tensor | None = None) -> bool:
        """Takes rows in, unless they hold NaN or infinite values.

        Args:
            rows: [M, K], floating point.
            keys: int64 [M]; which rows are kept as the sample follows from their keys alone.
            held: bool [M], those that are held out. They count where "held" is wanted, and for nothing else.

        Returns:
            Whether all values were finite.
        """
        x = rows.detach().to("cpu", torch.float32)
        if not bool(torch.isfinite(x).all()):
            return False
        if held is not None and bool(held.any()):
            if "held" in self._samples:
                self._samples["held"].add(x[held], keys[held])
            x, keys = x[~held], keys[~held]
        if not len(x):
            return True
        self.rows += len(x)
        largest = x.abs().amax(0)
        self._largest = torch.maximum(self._largest, largest)
        factors = x.double() if self.size and float(largest.max()) > _LARGE else x
        if self._moment is not None:
            product = factors.t() @ factors
            self._moment += product
            self._square += product.diagonal()
        else:
            self._square += factors.square().sum(0)
        if "sample" in self._samples:
            self._samples["sample"].add(x, keys)
        return True

    def result(self) -> Statistics:
        """The statistics so far."""
        rows = max(self.rows, 1)
        return Statistics(
            self.rows,
            None if self._moment is None else (self._moment / rows).float(),
            (self._square / rows).float(),
            self._largest.clone(),
            *(self._samples[name].rows.clone() if name in self._samples else None for name in ("sample", "held")),
        )
