"""Turns the linear layers of a model into quantization-aware ones, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from kdnative.formats.scheme import Scheme
from kdnative.patterns import Selection
from kdnative.quantize.fake import FakeQuantLinear

__all__ = ["finish_qat_", "prepare_qat_"]


def prepare_qat_(
    model: nn.Module,
    schemes: Scheme | str | Mapping[str, Scheme | str | None] = "w8a8",
    *,
    keep: Iterable[str] = (),
    clip: str | None = None,
) -> list[str]:
    """Turns every `nn.Linear` into a `FakeQuantLinear`, in place: the same objects, parameters, hooks and masks.

    A model trained so gives the very bits of the one that ``convert_(model, fuse=False, embeddings=None)`` makes of it,
    for schemes with ``a8``. What `convert_` makes by default differs from it a little: embedding tables become int8, a
    fused encoder computes norms and attention in its own order, with bfloat16 factors on some processors.

    Args:
        model: any module. Left alone are subclasses of `nn.Linear` (their owners read the weights directly), layers
            whose weight is also that of an `nn.Embedding`, and layers that are quantization-aware already.
        schemes: one scheme for all, or {pattern: scheme}, the patterns of `convert_`: the first that matches decides;
            None, or no match, leaves a layer in float.
        keep: patterns of layers to leave in float whatever `schemes` says.
        clip: how weight ranges are chosen, see `FakeQuantLinear`.

    Returns:
        The names of the layers that changed, in the order of `named_modules`.

    Raises:
        ValueError: a pattern matches no linear layer, a scheme does not fit a layer (both named), or no layer is left
            to quantize; or a module that is native already is asked for. The model is then unchanged.
    """
    selection = Selection(schemes, keep, Scheme.parse)
    # Native modules come from packages above this one, which know what plain tensors they have.
    native = [name for name, module in model.named_modules() if hasattr(type(module), "plain_shapes")]
    if asked := [name for name in native if selection.choose(name).value]:
        raise ValueError(
            f"{asked[0] or 'the model'} is native already and can't be trained: prepare the float model, train it, and "
            f"convert it afterwards (keep={asked!r} leaves such parts as they are)"
        )
    embedded = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    candidates = {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and id(module.weight) not in embedded
    }
    selection.check_used([*candidates, *native])
    chosen = {name: scheme for name in candidates if (scheme := selection.choose(name).value) is not None}
    if not chosen:
        raise ValueError(f"no layer is left to quantize; the model has {len(candidates)} linear layers in float")
    made = {}
    for name, scheme in chosen.items():
        try:
            made[name] = FakeQuantLinear.from_float(candidates[name], scheme, clip)
        except ValueError as error:
            raise ValueError(f"{name or 'the model'}: {error}") from error
    for name, layer in made.items():
        layer.become(candidates[name])
    _set_fast_path(model, allowed=False)
    return list(made)


@torch.no_grad()
def finish_qat_(model: nn.Module) -> list[str]:
    """Turns every `FakeQuantLinear` into an `nn.Linear` that holds the dequantized weight, in place.

    The result is a plain float model whose weights lie on the grid of the scheme (its activations are not quantized any
    more). `convert_` does not need this: it reads `FakeQuantLinear.quantized()`.

    Returns:
        The names of the layers that changed; empty when there were none.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, FakeQuantLinear)}
    # All weights are read before any is written: two layers may share one, and a clipped range must not shrink twice.
    weights = {name: layer.quantized().dequantize() for name, layer in found.items()}
    for name, layer in found.items():
        layer.weight.copy_(weights[name])
        layer.become_float()
    _set_fast_path(model, allowed=True)
    return list(found)


def _set_fast_path(model: nn.Module, allowed: bool) -> None:
    """`nn.TransformerEncoderLayer` in eval mode reads its linears' weights past their forward, unless this says no."""
    codes = {nn.functional.relu: 1, nn.functional.gelu: 2}
    for layer in model.modules():
        if isinstance(layer, nn.TransformerEncoderLayer):
            layer.activation_relu_or_gelu = codes.get(layer.activation, 0) if allowed else 0
