"""``nn.TransformerEncoder`` and its layer as one native operator."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.nn.config_checks import FLAG, NOT_NEGATIVE
from kdnative.nn.encoder_spec import Shapes
from kdnative.nn.packed_encoder import PackedEncoder

__all__ = ["TransformerEncoder"]


def _is_final_norm(value: Any) -> bool:
    if value is None:
        return True
    fields = isinstance(value, dict) and value.keys() == {"eps", "bias"}
    return fields and NOT_NEGATIVE[0](value["eps"]) and FLAG[0](value["bias"])


class TransformerEncoder(PackedEncoder):
    """The layers of an ``nn.TransformerEncoder``, or a single ``nn.TransformerEncoderLayer`` (Vaswani et al. 2017).

    Takes the place of either: same call, same shapes, output in the dtype of the input. Linears run on the integer
    kernels with dynamic per-token int8 activations; the rest is float32, with the factors of attention in bfloat16 as
    in :class:`kdnative.nn.Encoder`. Outputs never require grad.

    Tokens that ``src_key_padding_mask`` drops cost nothing, no token attends to them, and their rows of the output are
    0 (before a final norm), as in torch's own fast path. Of masks over pairs of tokens the causal one is supported.

    ``spec`` is a dict that JSON can hold: ``hidden_size``, ``norm`` ("post", or "pre" for ``norm_first``),
    ``activation``, ``eps`` (of the LayerNorms in layers), ``batch_first``, ``final_norm`` (``{"eps", "bias"}`` of the
    LayerNorm behind the layers, which stays a torch module ``norm``, or None), ``single`` (whether it took the place of
    an ``nn.TransformerEncoderLayer``, for :func:`kdnative.to_float_`), and ``layers`` as in
    :class:`kdnative.nn.Encoder`. ``state_dict()`` has the names of that class too, and ``norm.*``.
    """

    own_kinds = {
        "batch_first": FLAG,
        "final_norm": (_is_final_norm, "null or {eps: number, bias: true or false}"),
        "single": FLAG,
    }

    @classmethod
    def checked(cls, spec: dict[str, Any]) -> dict[str, Any]:
        """The complete form of a spec; ValueError as in :class:`PackedEncoder`, or where ``single`` can't be true."""
        spec = super().checked({"single": False, **spec} if isinstance(spec, dict) else spec)
        if spec["single"] and (len(spec["layers"]) != 1 or spec["final_norm"]):
            raise ValueError("encoder spec: single is true, but it has not one layer without a norm behind it")
        return spec

    @classmethod
    def plain_shapes(cls, spec: dict[str, Any]) -> Shapes:
        """As in :class:`PackedEncoder`, and those of the norm behind the layers."""
        yield from super().plain_shapes(spec)
        if spec["final_norm"]:
            yield "norm.weight", (spec["hidden_size"],), None
            if spec["final_norm"]["bias"]:
                yield "norm.bias", (spec["hidden_size"],), None

    def _set(self, spec: dict[str, Any], children: dict[str, nn.Module | None], packed: Tensor) -> None:
        super()._set(spec, children, packed)
        self.batch_first = self._spec["batch_first"]

    @staticmethod
    def _empty_children(spec: dict[str, Any]) -> dict[str, nn.Module | None]:
        final = spec["final_norm"]
        return {"norm": nn.LayerNorm(spec["hidden_size"], final["eps"], bias=final["bias"]) if final else None}

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
        *,
        src_mask: Tensor | None = None,
    ) -> Tensor:
        """Encode a batch.

        Args:
            src: float32, bfloat16 or float16 ``[T, B, H]``, with ``batch_first`` ``[B, T, H]``, or ``[T, H]``.
            mask, src_mask: None, or the causal mask ``[T, T]``: bool, True above the diagonal; or float, -inf there and
                0 elsewhere. ``src_mask`` is what a layer calls it.
            is_causal: True says that the mask is causal, without looking (it need not be given then).
            src_key_padding_mask: ``[B, T]`` (``[T]`` without a batch): bool, True for padding; or float, 0 for tokens
                and -inf for padding.

        Returns:
            A tensor like ``src``.

        Raises:
            ValueError, RuntimeError: another mask over pairs of tokens. RuntimeError: a shape or dtype other than
                these; a module on another device; training mode, or an ``src`` that requires grad, with grad enabled.
        """
        if self.training and torch.is_grad_enabled():
            raise RuntimeError(
                "kdnative.nn.TransformerEncoder is for inference: it has no gradients. Call .eval() on it (or run "
                "under torch.no_grad()), and train the float model instead"
            )
        padding, hidden = src_key_padding_mask, src
        if padding is not None and padding.is_floating_point():
            _require_zeros_and_infinities(padding)
        if src.dim() == 2:  # no batch
            hidden, padding = src.unsqueeze(0), None if padding is None else padding.unsqueeze(0)
        elif not self.batch_first:
            hidden = src.transpose(0, 1)
        mask = src_mask if mask is None else mask
        if mask is not None and not is_causal:
            _require_causal(mask, hidden.shape[1])
        causal = int(mask is not None or bool(is_causal))
        out = self._layers(hidden, None, causal, None, padding)
        if src.dim() == 2:
            out = out.squeeze(0)
        elif not self.batch_first:
            out = out.transpose(0, 1).contiguous()
        norm = self._modules["norm"]
        return out if norm is None else norm(out)


_ONLY_CAUSAL = (
    "kdnative.nn.TransformerEncoder supports no mask over pairs of tokens but the causal one, "
    "nn.Transformer.generate_square_subsequent_mask(T): leave the mask out, or keep this encoder in float: "
    "convert_(..., keep=[...])"
)


def _require_causal(mask: Tensor, tokens: int) -> None:
    if mask.shape != (tokens, tokens):
        raise ValueError(f"{_ONLY_CAUSAL} (got shape {list(mask.shape)} for T = {tokens})")
    later = torch.ones(tokens, tokens, dtype=torch.bool, device=mask.device).triu(1)
    same = mask == torch.zeros_like(mask).masked_fill(later, -math.inf) if mask.is_floating_point() else mask == later
    torch._assert_async(same.all(), _ONLY_CAUSAL)


def _require_zeros_and_infinities(padding: Tensor) -> None:
    torch._assert_async(
        ((padding == 0) | (padding == -math.inf)).all(),
        "kdnative.nn.TransformerEncoder: a float src_key_padding_mask may hold 0 for tokens and -inf for padding only",
    )
