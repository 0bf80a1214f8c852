"""A short trial: whether a network trains faster in bf16 than in fp32."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from kdnative.evaluate import logits_of

__all__ = ["faster_in_bf16"]

_ROUNDS = 3
_MOST = 32  # examples: enough to tell, and a second of time


def faster_in_bf16(model: nn.Module, inputs: Mapping[str, Tensor]) -> bool:
    """Times forward and backward of a copy in both, in turn; the quickest of three counts."""
    tried = copy.deepcopy(model).train()
    some = {name: value[:_MOST] for name, value in inputs.items()}
    with torch.random.fork_rng([]):
        times = [(_seconds(tried, some, False), _seconds(tried, some, True)) for _ in range(_ROUNDS)]
    plain, bf16 = (min(column) for column in zip(*times, strict=True))
    return bf16 < plain


def _seconds(model: nn.Module, inputs: Mapping[str, Tensor], bf16: bool) -> float:
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        loss = logits_of(model(**inputs)).float().square().mean()
    loss.backward()
    model.zero_grad(set_to_none=True)
    return time.perf_counter() - start
