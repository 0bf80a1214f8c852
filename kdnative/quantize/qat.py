"""Turns the linear layers of a model into quantization-aware ones, and back."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight
from kdnative.patterns import Selection, within
from kdnative.quantize.fake import FakeQuantLinear

__all__ = ["finish_qat_", "prepare_qat_"]

_log = logging.getLogger(__name__)

_FOUR_BITS = (
    "GPTQ usually loses less accuracy than an epoch of quantization-aware training, and is faster: "
    "convert_(model, scheme, calibration=..., method='gptq')"
)


def prepare_qat_(
    model: nn.Module,
    schemes: Scheme | str | Mapping[str, Scheme | str | None] = "w8a8",
    *,
    keep: Iterable[str] = (),
    clip: str | None = None,
    ternary: str | None = None,
    weights: Mapping[str, QuantizedWeight] | None = None,
) -> list[str]:
    """Turns every `nn.Linear` into a `FakeQuantLinear`, in place: the same objects, parameters, hooks and masks.

    A model trained so gives the very bits of the one that ``convert_(model, fuse=False, embeddings=None)`` makes of it,
    for schemes with ``a8``. What `convert_` makes by default differs from it a little: embedding tables become int8, a
    fused encoder computes norms and attention in its own order, with bfloat16 factors on some processors. To train on
    the outputs of that model, run the training within `kdnative.convert.native_forward`.

    At 2 bits training is worth its time, best from calibrated weights (``weights``). At 4 bits it is not: GPTQ alone is
    closer to the float model than an epoch of training makes it (``kdnative bench qat``), which is logged as a warning.

    Args:
        model: any module. Left alone are subclasses of `nn.Linear` (their owners read the weights directly), layers
            whose weight is also that of an `nn.Embedding`, layers that are quantization-aware already, and those in
            networks of convolutions that `kdnative.convert.prepare_networks_` has prepared.
        schemes: one scheme for all, or {pattern: scheme}, the patterns of `convert_`: the first that matches decides;
            None, or no match, leaves a layer in float.
        keep: patterns of layers to leave in float whatever `schemes` says.
        clip: how the steps of weights are chosen, see `FakeQuantLinear`. With ``weights`` and ``ternary`` they are kept
            ("search", also for None) or learned ("learn").
        ternary: layers of 2 bits get the codes -1, 0 and 1 alone: "channel" (one step for an output) or "group" (one
            for each group). Steps start from `ternary_weight`, unless ``weights`` brings such codes and steps.
        weights: integer weights by the names of layers, such as a `Calibration`: the first forward computes with their
            very codes and scales. Layers without one start from a search. One with input scales makes the layer's
            scheme its ``-is`` form.

    Returns:
        The names of the layers that changed, in the order of `named_modules`.

    Raises:
        ValueError: a pattern matches no linear layer, a scheme does not fit a layer (both named), or no layer is left
            to quantize; a module that is native already is asked for; or ``weights`` do not fit. The model is then
            unchanged.
    """
    selection = Selection(schemes, keep, Scheme.parse)
    # Native modules come from packages above this one, which know what plain tensors they have.
    native = [name for name, module in model.named_modules() if hasattr(type(module), "plain_shapes")]
    if asked := [name for name in native if selection.choose(name).value]:
        raise ValueError(
            f"{asked[0] or 'the model'} is native already and can't be trained: prepare the float model, "
            f"train it, then convert it (keep={asked!r} leaves these parts unchanged)"
        )
    embedded = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    networks = [n for n, m in model.named_modules() if getattr(vars(m).get("forward"), "trains_network", False)]
    candidates = {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear
        and id(module.weight) not in embedded
        and not any(within(name, network) for network in networks)
    }
    selection.check_used([*candidates, *native])
    chosen = {name: scheme for name in candidates if (scheme := selection.choose(name).value) is not None}
    if not chosen:
        raise ValueError(f"there is no layer to quantize; the model has {len(candidates)} linear layers in float")
    if ternary is not None and not any(scheme.weight_bits == 2 for scheme in chosen.values()):
        raise ValueError(f"ternary={ternary!r}, but no layer has a 2-bit scheme: give one such as w2a8-g32")
    codes = {name: ternary if scheme.weight_bits == 2 else None for name, scheme in chosen.items()}
    starts = _starts(candidates, chosen, weights or {})
    made = {}
    for name, scheme in chosen.items():
        start = starts.get(name)
        try:
            steps = "search" if start is not None and clip is None else clip
            made[name] = FakeQuantLinear.from_float(candidates[name], scheme, steps, ternary=codes[name], weight=start)
        except ValueError as error:
            raise ValueError(f"{name or 'the model'}: {error}") from error
    for name, layer in made.items():
        layer.become(candidates[name])
    for name, start in starts.items():
        candidates[name].start_from_(start)
    if any(scheme.weight_bits == 4 for scheme in chosen.values()):
        _log.warning("4-bit weights: %s", _FOUR_BITS)
    _set_fast_path(model, allowed=False)
    return list(made)


def _starts(
    candidates: Mapping[str, nn.Linear],
    chosen: Mapping[str, Scheme],
    weights: Mapping[str, QuantizedWeight],
) -> dict[str, QuantizedWeight]:
    """The integer weights from which layers start, by their names."""
    if stray := [name for name in weights if name not in chosen]:
        others = f" and {len(stray) - 1} others" if len(stray) > 1 else ""
        raise ValueError(f"weights has an entry for {stray[0]!r}{others}, which is not a quantized linear layer")
    starts = {name: weights[name] for name in chosen if name in weights}
    first: dict[int, str] = {}
    for name in starts:
        other = first.setdefault(id(candidates[name].weight), name)
        if other != name:
            raise ValueError(f"{name} and {other} share one float weight, which can't start from two integer ones")
    return starts


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
