"""Changes to a model that can be taken back: every attribute that is set is remembered."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.models.family import need
from kdnative.prune.graph import Attention, FeedForward, Layers, Outputs

__all__ = ["Edits"]


class Edits:
    """A log of attributes set on modules and configurations. Used as a context, it undoes all of them on an error."""

    def __init__(self) -> None:
        self._log: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Edits:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None:
            self.undo()

    def set(self, owner: Any, attribute: str, value: Any) -> None:
        self._log.append((owner, attribute, getattr(owner, attribute)))
        setattr(owner, attribute, value)

    def undo(self) -> None:
        """Puts the very objects back that were there before, in reverse order."""
        for owner, attribute, old in reversed(self._log):
            setattr(owner, attribute, old)
        self._log.clear()

    def keep_rows(self, linear: nn.Linear, kept: Tensor) -> None:
        """Leaves only the outputs `kept` (int64, sorted) of a linear."""
        self._replace(linear, "weight", linear.weight.detach().index_select(0, kept.to(linear.weight.device)))
        if linear.bias is not None:
            self._replace(linear, "bias", linear.bias.detach().index_select(0, kept.to(linear.bias.device)))
        self.set(linear, "out_features", len(kept))
        self._renew_clip(linear)

    def keep_columns(self, linear: nn.Linear, kept: Tensor) -> None:
        """Leaves only the inputs `kept` of a linear."""
        scheme = getattr(linear, "scheme", None)
        if scheme is not None:
            scheme.groups(len(kept))  # a ValueError in words when the groups do not fit any more
        self._replace(linear, "weight", linear.weight.detach().index_select(1, kept.to(linear.weight.device)))
        self.set(linear, "in_features", len(kept))
        if getattr(linear, "input_scale", None) is not None:
            self.set(linear, "input_scale", linear.input_scale.index_select(0, kept.to(linear.input_scale.device)))
        self._renew_clip(linear)

    def keep_units(self, outputs: Outputs, kept: Tensor) -> None:
        """Leaves only the outputs `kept` of each of the runs of a linear."""
        runs = torch.arange(outputs.runs)[:, None] * outputs.width
        self.keep_rows(outputs.linear, (runs + kept).flatten())

    def keep_heads(self, attention: Attention, heads: Tensor) -> None:
        """Leaves only some heads (int64, sorted) of an attention."""
        size, before = attention.head_size, attention.heads
        kept = (heads[:, None] * size + torch.arange(size)).flatten()
        for outputs in attention.inputs:
            self.keep_units(outputs, kept)
        self.keep_columns(attention.out, kept)
        for names, old, new in zip(attention.numbers, (before, before * size), (len(heads), len(kept)), strict=True):
            for name in names:
                if getattr(attention.module, name, None) == old:
                    self.set(attention.module, name, new)

    def keep_shared_bias(self, layers: Layers, heads: Tensor) -> None:
        """Leaves only the columns of some heads in a position bias that all layers share."""
        table = layers.shared_bias
        self._replace(table, "weight", table.weight.detach().index_select(1, heads.to(table.weight.device)))
        self.set(table, "embedding_dim", len(heads))
        if hasattr(layers.stack.owner, "n_heads"):
            self.set(layers.stack.owner, "n_heads", len(heads))

    def keep_neurons(self, ffn: FeedForward, kept: Tensor) -> None:
        """Leaves only some neurons (int64, sorted) between linears."""
        for outputs in ffn.inputs:
            self.keep_units(outputs, kept)
        self.keep_columns(ffn.down, kept)

    def keep_layers(self, layers: Layers, kept: list[int]) -> None:
        """Leaves only some layers (indices, ascending) of a stack; its configuration follows.

        Raises:
            ValueError: the model can't do without the others, in words.
        """
        stack = layers.stack
        total, family, config, owner = len(layers), stack.family, stack.config, stack.owner
        if kept[0] and isinstance(need(stack.layers[0], family.attention_norm), nn.Identity):
            raise ValueError(
                f"layers={kept}: the first layer of {family.name} has no normalisation, so it must stay: include "
                "layer 0"
            )
        changes = {} if family.taken is None or config is None else dict(family.taken(config, kept))
        changes |= {name: len(kept) for name in family.depth if getattr(config, name, None) == total}
        self.set(owner, stack.attribute, _rebuilt(stack.container, [stack.layers[i] for i in kept]))
        for index, layer in enumerate(stack.layers):
            for module in layer.modules():
                for name in ("layer_idx", "layer_id"):
                    if getattr(module, name, None) is not None:
                        self.set(module, name, index)
        for name in ("n_layers", "num_layers"):
            if getattr(owner, name, None) == total:
                self.set(owner, name, len(kept))
        for name, value in changes.items():
            self.set(config, name, value)
        layers.attentions = [layers.attentions[i] for i in kept] if layers.attentions else []
        layers.feed_forwards = [layers.feed_forwards[i] for i in kept]

    def _replace(self, module: nn.Module, attribute: str, value: Tensor) -> None:
        old = getattr(module, attribute)
        self.set(module, attribute, nn.Parameter(value.contiguous(), requires_grad=old.requires_grad))

    def _renew_clip(self, linear: nn.Linear) -> None:
        """The steps of a FakeQuantLinear belong to the weight they were found for."""
        if getattr(linear, "clip", None) is not None:
            for name, value in linear.kept(linear.found()).items():
                self.set(linear, name, value)


def _rebuilt(container: nn.ModuleList | nn.Sequential, layers: list[nn.Module]) -> nn.ModuleList | nn.Sequential:
    """A container of the same kind, under the first of its names."""
    if isinstance(container, nn.ModuleList):
        return nn.ModuleList(layers)
    return nn.Sequential(OrderedDict(zip(container._modules, layers, strict=False)))
