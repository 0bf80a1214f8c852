"""Inputs as layers have them: correlated, some much larger than others, some always 0."""

from __future__ import annotations

import torch
from torch import Tensor

from kdnative.formats import arithmetic
from kdnative.formats.weight import QuantizedWeight
from kdnative.quantize.statistics import Accumulator, Statistics


def inputs(rows: int, columns: int, seed: int = 0) -> Tensor:
    """fp32 [rows, columns]."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(rows, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    return mixed * torch.logspace(-1, 1, columns)[torch.randperm(columns, generator=generator)]


def weights(rows: int, columns: int, seed: int = 1) -> Tensor:
    """fp32 [rows, columns]."""
    return 0.05 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def statistics(x: Tensor) -> Statistics:
    """All there are."""
    sums = Accumulator(x.shape[1], ("mean_square", "largest", "second_moment", "sample"))
    sums.add(x, torch.arange(len(x)))
    return sums.result()


def output_error(x: Tensor, weight: Tensor, quantized: QuantizedWeight, bits: int = 16) -> float:
    """The squared error of the output, float64, with activations of so many bits."""
    values, stored = x, quantized
    if quantized.input_scale is not None:
        values, stored = x * quantized.input_scale, quantized.changed(input_scale=None)
    if bits == 8:
        codes, scale = arithmetic.quantize_rows(values)
        values = codes * scale[:, None]
    return float((values.double() @ stored.dequantize().double().t() - x.double() @ weight.double().t()).square().sum())
