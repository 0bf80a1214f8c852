"""A teacher's largest logits of every row, for large vocabularies."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["TopK"]


class TopK(NamedTuple):
    """The largest teacher logits of every row, for large vocabularies.

    Attributes:
        values: [..., k], the largest logits. indices: int64 [..., k], their classes.
        rest: [...], ``logsumexp(t_j / temperature)`` over the other classes, or None. With it, everything outside
            of the top k counts as one more class, whose probability the student has to match as well. Without it the
            teacher's k probabilities are renormalised to 1, which teaches the student that all else is impossible.
        temperature: the one that `rest` was computed at.
    """

    values: Tensor
    indices: Tensor
    rest: Tensor | None = None
    temperature: float | None = None

    @classmethod
    def of(cls, logits: Tensor, k: int, temperature: float | None = None) -> TopK:
        """Takes the top k of full logits [..., C]; `rest` is computed when a temperature is given (and k < C)."""
        if not 1 <= k <= logits.shape[-1]:
            raise ValueError(f"top_k={k}: within 1 and the number of classes, {logits.shape[-1]}")
        values, indices = logits.topk(k)
        if temperature is None or k == logits.shape[-1]:
            return cls(values, indices)
        others = (logits / temperature).scatter(-1, indices, -torch.inf)
        return cls(values, indices, others.logsumexp(-1), temperature)

    def to(self, device: torch.device | str) -> TopK:
        rest = None if self.rest is None else self.rest.to(device)
        return TopK(self.values.to(device), self.indices.to(device), rest, self.temperature)
