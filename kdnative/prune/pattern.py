"""Patterns of zeros: single weights, N of M consecutive inputs, or blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["ALREADY_PRUNED", "Pattern", "keep_largest", "keep_n_of_m"]

ALREADY_PRUNED = -1.0
"""A score below all others: what a mask has removed stays removed."""


@dataclass(frozen=True)
class Pattern:
    """Blocks of `rows` outputs x `columns` inputs; with `n_of_m`, `n` of `columns` inputs stay (and rows is 1)."""

    rows: int = 1
    columns: int = 1
    n: int = 0
    n_of_m: bool = False

    @staticmethod
    def parse(text: str) -> Pattern:
        if text == "unstructured":
            return Pattern()
        if (match := re.fullmatch(r"(\d+):(\d+)", text)) and 0 < int(match[1]) < int(match[2]):
            return Pattern(1, int(match[2]), int(match[1]), True)
        if (match := re.fullmatch(r"(\d+)x(\d+)", text)) and int(match[1]) and int(match[2]):
            return Pattern(int(match[1]), int(match[2]))
        raise ValueError(
            f"pattern={text!r}; allowed are 'unstructured', N:M with 0 < N < M such as '2:4', and RxC such as '4x1'"
        )

    def checked_sparsity(self, sparsity: float | None) -> float:
        if self.n_of_m:
            fixed = 1 - self.n / self.columns
            if sparsity is not None and abs(sparsity - fixed) > 1e-9:
                raise ValueError(
                    f"sparsity={sparsity}, but pattern {self.n}:{self.columns} always removes {fixed:.4g}: "
                    "leave sparsity out"
                )
            return fixed
        if sparsity is None or not 0 <= sparsity < 1:
            raise ValueError(f"sparsity={sparsity}; a share of the weights, 0 <= sparsity < 1, is needed")
        return float(sparsity)

    def blocks(self, values: Tensor) -> Tensor:
        """[N, K] -> [N / rows, rows, K / columns, columns], padded with zeros at the edges."""
        n, k = values.shape
        padded = nn.functional.pad(values, (0, -k % self.columns, 0, -n % self.rows))
        return padded.unflatten(1, (-1, self.columns)).unflatten(0, (-1, self.rows))

    def expand(self, kept: Tensor, shape: torch.Size) -> Tensor:
        """The mask [N, K] from what is kept: blocks [N / rows, K / columns], or for N:M [N, K / M, M]."""
        if self.n_of_m:
            return kept.reshape(shape)
        mask = kept.repeat_interleave(self.rows, 0).repeat_interleave(self.columns, 1)
        return mask[: shape[0], : shape[1]].contiguous()


def keep_largest(scores: Tensor, count: int) -> Tensor:
    """Which of the scores, [B], to keep, bool; removes the ``count`` smallest, or more where more was pruned before."""
    kept = scores != ALREADY_PRUNED
    kept[scores.topk(count, largest=False, sorted=False).indices] = False
    return kept


def keep_n_of_m(scores: Tensor, n: int) -> Tensor:
    """Which of the last dimension to keep, bool: the ``n`` largest, without those that were pruned before."""
    kept = torch.zeros_like(scores, dtype=torch.bool)
    kept.scatter_(-1, scores.topk(n, dim=-1).indices, True)
    return kept & (scores != ALREADY_PRUNED)
