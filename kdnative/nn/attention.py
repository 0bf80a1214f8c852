"""A drop-in replacement of ``torch.nn.MultiheadAttention`` with integer weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnative.formats.scheme import Scheme
from kdnative.nn.linear import Linear

__all__ = ["MultiheadAttention"]


class MultiheadAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017) of queries over keys and values, same call as torch's.

    Its four linears, ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj``, are modules of their own, native ones after
    :func:`kdnative.convert_`; scores, softmax and their product with the values are torch's. Queries, keys and values
    may be the same or three different tensors, so that it serves encoders, decoders and cross-attention.

    Args:
        embed_dim: E, the width of queries, keys, values and output.
        num_heads: must divide E.
        bias: whether the linears have one.
        batch_first: inputs are ``[B, T, E]`` rather than ``[T, B, E]``.
        scheme: of the four linears: a name such as ``"w8a8"`` or a :class:`kdnative.Scheme`.

    Raises:
        ValueError: ``num_heads`` does not divide ``embed_dim``; otherwise as :class:`kdnative.nn.Linear`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        bias: bool = True,
        batch_first: bool = False,
        scheme: Scheme | str = "w8a8",
    ) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"num_heads must divide embed_dim, got {num_heads} and {embed_dim}")
        self._set([Linear(embed_dim, embed_dim, scheme, bias) for _ in range(4)], num_heads, batch_first)

    @classmethod
    def from_parts(cls, linears: Sequence[nn.Module], num_heads: int, batch_first: bool) -> MultiheadAttention:
        """An attention around linears that there are already, in the order of the class's text, each E to E."""
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        module._set(linears, num_heads, batch_first)
        return module.eval()

    def _set(self, linears: Sequence[nn.Module], num_heads: int, batch_first: bool) -> None:
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = linears
        self.embed_dim, self.num_heads, self.batch_first = self.q_proj.in_features, num_heads, batch_first

    @property
    def spec(self) -> dict:
        """The constructor's arguments, as JSON can hold them. The linears have a spec each, which may differ."""
        return {
            "embed_dim": self.embed_dim,
            "num_heads": self.num_heads,
            "bias": self.q_proj.bias is not None,
            "batch_first": self.batch_first,
            "scheme": str(self.q_proj.scheme),
        }

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            query: float32, bfloat16 or float16 ``[T, B, E]``, with ``batch_first`` ``[B, T, E]``, or ``[T, E]``.
            key, value: the same with S in place of T.
            key_padding_mask: ``[B, S]`` (``[S]`` without a batch): bool, True for keys to leave out; or float, added to
                the scores.
            need_weights: whether to return the attention weights, which is slower.
            attn_mask: ``[T, S]`` or ``[B * heads, T, S]``: bool, True for keys that a query does not see; or float,
                added to the scores.
            average_attn_weights: whether the weights are the mean over the heads.
            is_causal: says that ``attn_mask`` is the causal one. It must be given too, as torch asks for it.

        Returns:
            The output, like ``query``, and the weights ``[B, T, S]``, ``[B, heads, T, S]`` if not averaged, or None.

        Raises:
            RuntimeError: ``is_causal`` without ``attn_mask``; a mask of another shape; otherwise as the linears.
        """
        if is_causal and attn_mask is None:
            raise RuntimeError("kdnative.nn.MultiheadAttention: is_causal=True needs the attn_mask too, as in torch")
        alone = query.dim() == 2
        first = self.batch_first or alone
        q, k, v = (
            self._heads(linear(x.unsqueeze(0) if alone else x), first)
            for linear, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        mask = self._mask(attn_mask, key_padding_mask, q, k)
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            out = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out = out.transpose(1, 2) if first else out.permute(2, 0, 1, 3)
        out = self.out_proj(out.flatten(2))
        if alone:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return out, weights

    def _heads(self, x: Tensor, batch_first: bool) -> Tensor:
        """``[B, heads, T, head_dim]``."""
        x = x.unflatten(-1, (self.num_heads, -1))
        return x.transpose(1, 2) if batch_first else x.permute(1, 2, 0, 3)

    def _mask(self, attn_mask: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
        """Both masks as one that is added to the scores ``[B, heads, T, S]``; None where there is none."""
        (batch, heads, tokens, _), keys = q.shape, k.shape[2]
        mask = None
        if attn_mask is not None:
            if attn_mask.shape not in ((tokens, keys), (batch * heads, tokens, keys)):
                raise RuntimeError(
                    f"kdnative.nn.MultiheadAttention takes an attn_mask of shape [{tokens}, {keys}] or "
                    f"[{batch * heads}, {tokens}, {keys}], got {list(attn_mask.shape)}"
                )
            mask = _added(attn_mask, q.dtype)
            mask = mask.unflatten(0, (batch, heads)) if mask.dim() == 3 else mask
        if padding is not None:
            padding = padding.unsqueeze(0) if padding.dim() == 1 else padding
            if padding.shape != (batch, keys):
                raise RuntimeError(
                    f"kdnative.nn.MultiheadAttention takes a key_padding_mask of shape [{batch}, {keys}], got "
                    f"{list(padding.shape)}"
                )
            kept = _added(padding, q.dtype)[:, None, None]
            mask = kept if mask is None else mask + kept
        return mask


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as what is added to scores: -inf where a bool one is True."""
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask, -math.inf)
    return mask.to(dtype)
