"""``nn.MultiheadAttention``: its parts, and whether it has a native form."""

from __future__ import annotations

from torch import nn

from kdnative.models.layer import Named, Unsupported

__all__ = ["input_projection", "projections", "why_not"]


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
