"""The integer weights that a conversion packs: given ones, or quantized here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.convert.refusals import storage
from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight
from kdnative.nn import Embedding
from kdnative.quantize import FakeQuantLinear, quantize_weight

__all__ = ["Weights"]


class Weights:
    """Integer weights by the names of layers.

    Args:
        given: those that are there already, checked against the plan.
        clip_search: search the clipping range of others.
        rows: rows of activations of a typical call, on which the gain of sparse kernels depends.
    """

    def __init__(self, given: Mapping[str, QuantizedWeight], clip_search: bool, rows: int) -> None:
        self.given, self.clip_search, self.rows = given, clip_search, rows
        self._tables: dict[Any, Embedding] = {}  # by the float table

    def of(self, name: str, layer: nn.Module, scheme: Scheme) -> QuantizedWeight:
        """The weight ``[N, K]`` of the layer ``name``.

        Raises:
            ValueError: NaN or infinite values, in its weight or its bias.
        """
        if layer.bias is not None and not bool(torch.isfinite(layer.bias).all()):
            raise ValueError(f"{name}: the bias holds NaN or infinite values")
        if name in self.given:
            constant = getattr(layer, "constant", None)  # of a stand-in for the layer that the weight was made for
            given = self.given[name].to(layer.weight.device)
            return given if constant is None else given.changed(scale=given.scale * constant)
        if type(layer) is FakeQuantLinear:
            return layer.quantized()
        return quantize_weight(layer.weight.detach(), scheme, clip_search=self.clip_search)

    def table(self, embedding: nn.Embedding) -> Embedding:
        """An int8 table; embeddings of one float table have one int8 table too."""
        weight: Tensor = embedding.weight
        key = storage(weight), weight.shape, weight.stride()
        if key not in self._tables:
            self._tables[key] = Embedding.from_float(embedding)
            return self._tables[key]
        first = self._tables[key]
        table = Embedding(weight.shape[0], weight.shape[1], embedding.padding_idx, dtype=weight.dtype).eval()
        table.qweight, table.scale = first.qweight, first.scale
        return table
