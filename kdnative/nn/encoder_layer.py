"""One layer of an encoder of transformers, timm, torchvision or OpenCLIP as one native operator."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from kdnative.nn.packed_encoder import PackedEncoder
from kdnative.nn.skeleton import skeleton

__all__ = ["EncoderLayer", "can_record"]


class EncoderLayer(PackedEncoder):
    """A transformer layer that takes hidden states and returns hidden states (Vaswani et al. 2017).

    Takes the place of a layer of a vision, speech or text-image model of transformers 5, timm, torchvision or OpenCLIP,
    whose embeddings and heads stay as they are. Linears run on the integer kernels with dynamic per-token int8
    activations; the rest is float32, with the factors of attention in bfloat16 as in :class:`kdnative.nn.Encoder`.
    Outputs never require grad.

    ``spec`` is a dict that JSON can hold: ``hidden_size``, ``norm`` ("post" or "pre"), ``gated``, ``activation``,
    ``eps`` (of the LayerNorms), ``rotary_given`` (whether calls bring rotary positions), and ``layers``, one layer as
    in :class:`kdnative.nn.Encoder`. ``state_dict()`` has the names of that class too.
    """

    _original: tuple[nn.Module, ...] = ()  # in a tuple, so that it is no child

    @staticmethod
    def _empty_children(spec: dict[str, Any]) -> dict[str, nn.Module | None]:
        return {}

    def remember(self, original: nn.Module) -> EncoderLayer:
        """Keep the float layer whose place this one takes, without its values, for :func:`kdnative.to_float_`."""
        self._original = original._original if isinstance(original, EncoderLayer) else (skeleton(original),)
        return self

    @property
    def original(self) -> nn.Module | None:
        """The float layer without its values; None where it isn't known. Not to be changed."""
        return self._original[0] if self._original else None

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        is_causal: bool | None = False,
        *,
        attn_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        rope: Tensor | None = None,
        **others: Any,
    ) -> Tensor:
        """Hidden states after the layer.

        Args:
            hidden_states: float32, bfloat16 or float16 ``[B, T, H]``.
            attention_mask: None, or what transformers hands to its layers, ``[B, 1, T, T]`` (1 for B or the first T):
                bool, True for the keys of a query; or float, 0 for these and large negative numbers elsewhere. Keys
                must be the same for every query, or with ``is_causal`` those of them that do not come after it. Tokens
                that are no key cost nothing, and their rows of the output are 0.
            is_causal: whether a query attends only to itself and to keys before it; None is no.
            attn_mask: what timm and OpenCLIP call an ``attention_mask``; or ``[T, T]``, the causal mask.
            position_embeddings: of a layer with ``rotary_given``, without effect on others: cosines and sines,
                ``[P, D]`` or ``[B or 1, P, D]`` for heads of width D, the second half of D like the first. With fewer
                positions than tokens the first tokens, of which there is no place in an image, are not turned.
            rope: what timm calls them: sines and cosines in one tensor, ``[P, 2 D]``.
            others: what the model passes to all of its parts; without effect here.

        Returns:
            A tensor like ``hidden_states``.

        Raises:
            RuntimeError: another mask; a shape or dtype other than these; a module on another device; training mode, or
                hidden states that require grad, with grad enabled; attention weights are asked for
                (``output_attentions=True``).
        """
        if self.training and torch.is_grad_enabled():
            raise RuntimeError(
                "kdnative.nn.EncoderLayer is for inference: it has no gradients. Call .eval() on the model (or run "
                "under torch.no_grad()), and train the float model instead"
            )
        mask = attention_mask
        if attn_mask is not None:
            mask, is_causal = (attn_mask[None, None], True) if attn_mask.dim() == 2 else (attn_mask, is_causal)
        keep = None if mask is None else _keys(mask, hidden_states, is_causal)
        if rope is not None:
            position_embeddings = rope.chunk(2, dim=-1)[::-1]
        rotary = _rotary(position_embeddings, hidden_states.shape[1]) if self._spec["rotary_given"] else None
        out = self._layers(hidden_states, keep, int(bool(is_causal)), rotary)
        collector = _collector()
        if collector is not None:
            _record(collector, hidden_states, out)
        return out

    def get_weight_dtype(self) -> torch.dtype:
        """Of the hidden states that OpenCLIP is to hand to the layer; it asks its own layers the same."""
        return torch.float32


def _keys(mask: Tensor, hidden_states: Tensor, causal: bool | None) -> Tensor:
    """The keys ``[B, T]`` of a mask over pairs of tokens, after a look whether that is all that it says."""
    size, tokens = hidden_states.shape[:2]
    if mask.dim() != 4 or mask.shape[1:] not in ((1, tokens, tokens), (1, 1, tokens)):
        raise RuntimeError(
            f"kdnative.nn.EncoderLayer takes an attention_mask of shape [batch, 1, {tokens}, {tokens}], got "
            f"{list(mask.shape)}; to keep the layers in float: convert_(..., fuse=False)"
        )
    allowed = (mask if mask.dtype == torch.bool else mask == 0)[:, 0]
    if not causal and allowed.shape[1] == 1:  # no need to look at the queries
        return allowed[:, 0].expand(size, tokens)
    allowed = allowed.expand(-1, tokens, -1)
    keys = allowed.any(1)
    expected = keys[:, None].expand_as(allowed)
    torch._assert_async(
        (allowed == (expected.tril() if causal else expected)).all(),
        "kdnative.nn.EncoderLayer supports masks of keys that hold for every query, with is_causal those before it; "
        "this attention_mask is another one: convert_(..., fuse=False) leaves attention to the model",
    )
    return keys.expand(size, tokens) if len(keys) == 1 else keys


def _rotary(given: tuple[Tensor, Tensor] | None, tokens: int) -> Tensor:
    """Cosines and sines as the operator takes them, ``[B or 1, T, 2, D / 2]``."""
    if given is None:
        raise RuntimeError("kdnative.nn.EncoderLayer: this layer has rotary positions and needs position_embeddings")
    half = given[0].shape[-1] // 2
    table = torch.stack([part[..., :half].float() for part in given], dim=-2)
    table = table.unsqueeze(0) if table.dim() == 3 else table
    without = tokens - table.shape[1]
    if without > 0:
        still = torch.stack([table.new_ones(half), table.new_zeros(half)]).expand(len(table), without, -1, -1)
        table = torch.cat([still, table], dim=1)
    return table


# -- what callers of the model ask of its layers ---------------------------------------------------------------------


_CAPTURING = "transformers.utils.output_capturing"


def can_record() -> bool:
    """Whether transformers, imported already, collects hidden states in the way that :func:`_record` knows."""
    active = getattr(sys.modules.get(_CAPTURING), "_active_collector", None)
    return all(hasattr(active, name) for name in ("get", "compiling", "global_var"))


def _collector() -> dict[str, Any] | None:
    """Where transformers collects what layers return, while a caller wants that."""
    capturing = sys.modules.get(_CAPTURING)
    if capturing is None:
        return None
    active = capturing._active_collector
    if is_compiling():  # the compiler can't follow get()
        return active.global_var if active.compiling else None
    return active.get()


def _record(collector: dict[str, Any], before: Tensor, after: Tensor) -> None:
    """Do what the forward hooks of transformers would do if this were a layer of theirs."""
    if "attentions" in collector:
        raise RuntimeError(
            "output_attentions=True: a native layer does not keep attention weights; convert_(..., fuse=False) leaves "
            "attention to the model"
        )
    states, wanted = collector.get("hidden_states"), collector.get("_hidden_states_layers")
    if states is None:
        return
    for state in (after,) if states else (before, after):
        states.append(state if wanted is None or len(states) in wanted else None)
