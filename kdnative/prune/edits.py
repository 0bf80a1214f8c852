"""Changes to a model that can be taken back: every attribute that is set is remembered."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdnative.prune.hf_graph import Attention, FeedForward, Stack

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
        self._renew_clip(linear)

    def keep_heads(self, attention: Attention, heads: Tensor) -> None:
        """Leaves only some heads (int64, sorted) of an attention."""
        size = attention.head_size
        kept = (heads[:, None] * size + torch.arange(size)).flatten()
        for linear in (attention.q, attention.k, attention.v):
            self.keep_rows(linear, kept)
        self.keep_columns(attention.out, kept)
        self.set(attention.module, attention.heads_attribute, len(heads))
        self.set(attention.module, attention.width_attribute, len(kept))

    def keep_shared_bias(self, stack: Stack, heads: Tensor) -> None:
        """Leaves only the columns of some heads in a position bias that all layers share."""
        table = stack.shared_bias
        self._replace(table, "weight", table.weight.detach().index_select(1, heads.to(table.weight.device)))
        self.set(table, "embedding_dim", len(heads))
        if hasattr(stack.owner, "n_heads"):
            self.set(stack.owner, "n_heads", len(heads))

    def keep_neurons(self, ffn: FeedForward, kept: Tensor) -> None:
        """Leaves only some neurons (int64, sorted) between two linears."""
        self.keep_rows(ffn.up, kept)
        self.keep_columns(ffn.down, kept)

    def keep_layers(self, stack: Stack, kept: list[int]) -> None:
        """Leaves only some layers of an encoder, in the order given."""
        layers = [stack.layers[i] for i in kept]
        self.set(stack.owner, "layer", nn.ModuleList(layers))
        for index, layer in enumerate(layers):
            for module in layer.modules():
                if getattr(module, "layer_idx", None) is not None:
                    self.set(module, "layer_idx", index)
        if hasattr(stack.owner, "n_layers"):
            self.set(stack.owner, "n_layers", len(kept))
        if stack.config is not None:
            self.set(stack.config, "num_hidden_layers", len(kept))
        stack.attentions = [stack.attentions[i] for i in kept]
        stack.feed_forwards = [stack.feed_forwards[i] for i in kept]

    def _replace(self, module: nn.Module, attribute: str, value: Tensor) -> None:
        old = getattr(module, attribute)
        self.set(module, attribute, nn.Parameter(value.contiguous(), requires_grad=old.requires_grad))

    def _renew_clip(self, linear: nn.Linear) -> None:
        """Clipping factors of a FakeQuantLinear belong to the weight they were found for."""
        if getattr(linear, "clip_factor", None) is not None:
            factor = linear.searched_clip()
            self.set(linear, "clip_factor", nn.Parameter(factor) if linear.clip == "learn" else factor)
