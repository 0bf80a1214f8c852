"""The distillation formulas in float64, for the tests of the terms."""

from __future__ import annotations

import numpy as np
import torch


def softmax64(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def soft_rows(s, p, temperature):
    """Rows of T^2 * KL(p || softmax(s / T)), for probabilities p."""
    q = softmax64(s / temperature)
    return temperature**2 * (p * (np.log(p) - np.log(q))).sum(-1)


def logits(rows=5, classes=4, seed=0, scale=3.0):
    """Student's and teacher's logits, float64 [rows, classes], and labels."""
    generator = torch.Generator().manual_seed(seed)
    s, t = (torch.randn(rows, classes, dtype=torch.float64, generator=generator) * scale for _ in range(2))
    return s, t, torch.randint(classes, (rows,), generator=generator)
