"""Int8 products for tests of kernels that leave out zeros: rows of activations, and what must come out, by numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from kdnative.formats import QuantizedWeight


@dataclass
class Case:
    """A product of int8 rows and a weight, with a bias, and what comes out with relu and without a residual."""

    rows: np.ndarray  # int8 [m, k_pad], k_pad a multiple of 128, with zeros behind k
    scale: np.ndarray  # float32 [m]
    weight: QuantizedWeight
    bias: torch.Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        n, k = self.weight.qweight.shape
        return self.rows.shape[0], n, k

    def expected(self) -> np.ndarray:
        """float32 [m, n]: exact sums, then each step rounded."""
        _, _, k = self.shape
        sums = self.rows[:, :k].astype(np.int64) @ self.weight.qweight.numpy().astype(np.int64).T
        y = sums.astype(np.float32) * (self.scale[:, None] * self.weight.scale.numpy()[None])
        return np.maximum(np.float32(0), y + self.bias.numpy())

    def output(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A residual, room for the product, and the product with that residual added last; ``[m, n]``."""
        m, n, _ = self.shape
        residual = torch.randn(m, n, generator=torch.Generator().manual_seed(2)).to(dtype)
        out = torch.full((m, n), torch.nan, dtype=dtype)
        return residual, out, (torch.from_numpy(self.expected()) + residual.float()).to(dtype)


def case(m: int, qweight: torch.Tensor, seed: int = 0) -> Case:
    """A random product of ``m`` rows with this weight ``[n, k]``."""
    n, k = qweight.shape
    random = np.random.default_rng(seed)
    rows = np.zeros((m, -(-k // 128) * 128), np.int8)
    rows[:, :k] = random.integers(-127, 128, (m, k))
    scales = random.uniform(0.001, 0.02, m + n).astype(np.float32)
    weight = QuantizedWeight(qweight, torch.from_numpy(scales[m:].copy()), None, 8, None)
    return Case(rows, scales[:m].copy(), weight, torch.from_numpy(random.normal(0, 2, n).astype(np.float32)))


def two_of_four(n: int, k: int, seed: int = 0) -> torch.Tensor:
    """int8 ``[n, k]`` with at most two of four that are not zero: any two, sometimes fewer."""
    random = np.random.default_rng(seed)
    q = random.integers(-127, 128, (n, -(-k // 4), 4))
    places = random.integers(0, 4, (n, q.shape[1], 2))
    mask = (np.arange(4) == places[..., :1]) | (np.arange(4) == places[..., 1:])
    return torch.from_numpy((q * mask).reshape(n, -1)[:, :k].astype(np.int8).copy())


def in_blocks(n: int, k: int, side: int, kept: float, seed: int = 0) -> torch.Tensor:
    """int8 ``[n, k]`` without zeros in some blocks, and with nothing else in the others."""
    random = np.random.default_rng(seed)
    q = random.integers(1, 128, (n, k)) * random.choice([-1, 1], (n, k))
    mask = random.random((-(-n // side), -(-k // side))) < kept
    return torch.from_numpy((q * mask.repeat(side, 0).repeat(side, 1)[:n, :k]).astype(np.int8))
