"""Soft and hard labels of large vocabularies, computed from hidden states and heads: logits are never in memory."""

from kdnative.distill.tiled.function import LinearKL, linear_kl
from kdnative.distill.tiled.logits import LinearLogits

__all__ = ["LinearKL", "LinearLogits", "linear_kl"]
