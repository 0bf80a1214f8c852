"""The measured latency of each layer's native form, as a cost for the assignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from kdnative.formats.scheme import Scheme
from kdnative.machine.timer import interleave, torch_threads
from kdnative.nn import Linear
from kdnative.precision.sensitivity import Sensitivity
from kdnative.quantize import quantize_weight
from kdnative.quantize.linears import linears_of

__all__ = ["measure_latency"]


def measure_latency(
    sensitivities: Sequence[Sensitivity],
    model: nn.Module,
    *,
    rows: int = 32,
    threads: int | None = None,
    repeats: int = 9,
) -> list[Sensitivity]:
    """The same rows with ``ms``: the median that their layers take natively, for so many rows of activations at once.

    Layers of one shape and scheme are measured once, all of them interleaved, with random weights: time does not depend
    on values. Each is measured alone and without input scales; a row of several layers has their sum. Fused operators
    run some layers as one product, so these numbers rank schemes, and their sum is not the latency of the model.

    Args:
        sensitivities: of schemes, or "float"; rows of sparsities stay without.
        model: that they are of, before conversion.
        rows: rows of activations (batch * tokens) of a typical call. threads: of torch; None leaves them.
        repeats: samples of each.

    Raises:
        ValueError: the model lacks a layer of these rows, or ``rows`` is below 1.
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    sites = linears_of(model)
    names = {name for row in sensitivities for name in row.names}
    if missing := sorted(names - set(sites)):
        raise ValueError(f"the model has no linear {missing[0]!r}: the sensitivities belong to another model")
    shapes = {name: tuple(sites[name].weight.shape) for name in names}
    single = [row for row in sensitivities if not row.change.startswith("sparsity")]
    cases = dict.fromkeys((shapes[name], row.change) for row in single for name in row.names)
    generator = torch.Generator().manual_seed(0)
    with torch_threads(threads), torch.inference_mode():
        calls = {}
        for (outputs, inputs), change in cases:
            layer = _layer(outputs, inputs, change, generator)
            x = torch.randn(rows, inputs, generator=generator)
            calls[f"{outputs}x{inputs} {change}"] = _bound(layer, x)
        timings = interleave(calls, rounds=repeats, round_seconds=0.002)
    ms = {case: 1e3 * timings[f"{case[0][0]}x{case[0][1]} {case[1]}"].p50 for case in cases}
    return [replace(row, ms=sum(ms[shapes[n], row.change] for n in row.names)) if row in single else row
            for row in sensitivities]  # fmt: skip


def _layer(outputs: int, inputs: int, change: str, generator: torch.Generator) -> nn.Module:
    weight = torch.randn(outputs, inputs, generator=generator)
    if change == "float":
        layer = nn.Linear(inputs, outputs)
        layer.weight.copy_(weight)
        return layer
    scheme = Scheme.parse(change)
    return Linear.from_quantized(quantize_weight(weight, scheme), None, scheme)


def _bound(layer: nn.Module, x: torch.Tensor):
    return lambda: layer(x)
