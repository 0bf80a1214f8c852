"""The plain tensors of a linear: what its ``state_dict()`` and checkpoints hold, see :class:`kdnative.nn.Linear`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kdnative.formats import QuantizedWeight, Scheme, pack_bits, unpack_bits

__all__ = ["checked_bias", "mismatch", "of_weight", "specification", "to_weight"]


def specification(k: int, n: int, scheme: Scheme, bias: bool) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
    """Shape and dtype of each tensor for a weight ``[n, k]``; dtype None: any float is taken, float32 is given."""
    groups = (n,) if scheme.group_size is None else (n, scheme.groups(k))
    codes = ((n, k), torch.int8) if scheme.weight_bits == 8 else ((n, k * scheme.weight_bits // 8), torch.uint8)
    wanted = {"qweight": codes, "scale": ((n,) if scheme.integer_scales else groups, torch.float32)}
    if not scheme.symmetric:
        wanted["zero"] = (groups, torch.int8)
    if scheme.integer_scales:
        wanted["group_scale"] = (groups, torch.uint8)
    if scheme.input_scales:
        wanted["input_scale"] = ((k,), torch.float32)
    if bias:
        wanted["bias"] = ((n,), None)
    return wanted


def of_weight(weight: QuantizedWeight) -> dict[str, Tensor]:
    """The tensors of a weight, all but the bias."""
    state = {"qweight": weight.qweight, "scale": weight.scale}
    if weight.bits != 8:
        state["qweight"] = pack_bits(weight.qweight, weight.bits)
    others = {"zero": weight.zero, "group_scale": weight.group_scale, "input_scale": weight.input_scale}
    return state | {name: tensor for name, tensor in others.items() if tensor is not None}


def to_weight(state: Mapping[str, Tensor], scheme: Scheme, k: int) -> QuantizedWeight:
    """The inverse of :func:`of_weight`, on the CPU, for tensors that come from a file.

    Args:
        state: tensors as :func:`specification` wants them.
        k: the inputs.

    Raises:
        ValueError: a value is outside its range.
    """
    given = {name: tensor.detach().cpu() for name, tensor in state.items() if name not in ("bias", "weight")}
    codes, bits = given["qweight"], scheme.weight_bits
    if bits != 8:
        codes = unpack_bits(codes, bits, k)
    others = {name: given.get(name) for name in ("zero", "group_scale", "input_scale")}
    return QuantizedWeight(codes, given["scale"], bits=bits, group_size=scheme.group_size, **others)


def checked_bias(bias: Tensor, out_features: int) -> Tensor:
    """Float32 ``[N]``; ValueError for another shape, or values that are not finite."""
    bias = bias.detach().float()
    if tuple(bias.shape) != (out_features,):
        raise ValueError(f"the bias has shape {list(bias.shape)}, the layer needs [{out_features}]")
    if not bool(torch.isfinite(bias).all()):
        raise ValueError("the bias holds NaN or infinite values")
    return bias


def mismatch(key: str, given: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None) -> str | None:
    """Why a tensor can't be loaded, in torch's words where it has some; None when it can. dtype None: any float."""
    if tuple(given.shape) != shape:
        return (
            f"size mismatch for {key}: copying a param with shape {given.shape} from checkpoint, "
            f"the shape in current model is {torch.Size(shape)}."
        )
    if given.is_meta:
        return f"{key} is a meta tensor: it has no values to load."
    if given.dtype != dtype and not (dtype is None and given.dtype.is_floating_point):
        return (
            f"dtype mismatch for {key}: the checkpoint has {given.dtype}, the model needs {dtype or 'a float dtype'}."
        )
    return None
