"""``nn.MultiheadAttention``, recognised and rebuilt as :class:`kdnative.nn.MultiheadAttention`."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from kdnative.formats.scheme import Scheme
from kdnative.models.layer_conversion import Named, Unsupported
from kdnative.nn.attention import MultiheadAttention
from kdnative.nn.linear import Linear
from kdnative.quantize import QuantizedWeight

__all__ = ["attention_from_torch", "input_projection", "projections", "why_not"]


def why_not(attention: nn.MultiheadAttention) -> str | None:
    """Why an attention has no native form; None where it has one."""
    if attention.in_proj_weight is None:
        return "it has a kdim or vdim of its own"
    if attention.bias_k is not None or attention.add_zero_attn:
        return "it has add_bias_kv or add_zero_attn"
    return None


def input_projection(attention: nn.MultiheadAttention) -> nn.Linear | None:
    """The linear that gives queries, keys and values, on the parameters of ``attention``; None if there are three."""
    if attention.in_proj_weight is None:
        return None
    rows, columns = attention.in_proj_weight.shape
    linear = nn.Linear(columns, rows, bias=attention.in_proj_bias is not None, device="meta")
    linear.weight, linear.bias = attention.in_proj_weight, attention.in_proj_bias
    return linear


def projections(name: str, attention: nn.Module) -> tuple[Named, Named]:
    """What a layer around an attention of that name needs of it: queries, keys and values as one, and the output."""
    if type(attention) is not nn.MultiheadAttention:
        raise Unsupported(f"{name} is of a class of its own, {type(attention).__name__}")
    if obstacle := why_not(attention):
        raise Unsupported(f"{name}: {obstacle}")
    return (name, input_projection(attention)), (f"{name}.out_proj", attention.out_proj)


def attention_from_torch(
    attention: nn.MultiheadAttention, weight: QuantizedWeight, scheme: Scheme
) -> MultiheadAttention:
    """The native form of an attention without obstacle (:func:`why_not`), which is not changed.

    ``weight`` is that of its :func:`input_projection`, ``[3 E, E]``. The output projection is that of ``attention``.
    """
    size, bias = attention.embed_dim, attention.in_proj_bias
    linears = []
    for start in range(0, 3 * size, size):
        rows = slice(start, start + size)
        part = replace(
            weight,
            qweight=weight.qweight[rows],
            scale=weight.scale[rows],
            zero=None if weight.zero is None else weight.zero[rows],
            group_scale=None if weight.group_scale is None else weight.group_scale[rows],
        )
        part_bias = None if bias is None else bias.detach()[rows]
        linears.append(Linear.from_quantized(part, part_bias, scheme, dtype=attention.in_proj_weight.dtype))
    linears.append(attention.out_proj)
    return MultiheadAttention.from_parts(linears, attention.num_heads, attention.batch_first)
