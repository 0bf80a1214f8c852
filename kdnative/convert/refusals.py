"""Why a module can't be replaced by a native one: what is unusual about it, or runs around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kdnative.formats.scheme import Scheme
from kdnative.nn import Linear, PackedEncoder
from kdnative.nn.encoder_spec import LINEARS
from kdnative.patterns import Choice

__all__ = [
    "MIN_IN_FEATURES",
    "MIN_OUT_FEATURES",
    "NOT_FINITE",
    "Verdict",
    "bypassed",
    "check_parameters",
    "held_elsewhere",
    "hooked",
    "in_words",
    "native_in_another_scheme",
    "owners_of",
    "schemes_of",
    "storage",
    "too_small",
    "unusual",
    "without_values",
]

MIN_OUT_FEATURES = 16
"""Linears with fewer outputs (classifier heads) stay in float: the kernels compute 32 outputs at a time."""

MIN_IN_FEATURES = 48
"""Linears with fewer inputs stay in float: the kernels pad inputs to 64, and quantizing them costs more than the
integer product saves (measured against torch in float32, AVX2, 1 to 32 rows: 0.8x to 1.3x at 32, over 1x from 48)."""

NOT_FINITE = "NaN or infinite values"
"""How the text of the one obstacle begins that is never passed over."""

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)

_OF_TORCH = vars(nn.Module()).keys()  # among them the children

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class Verdict:
    """What will happen to one layer: the scheme that it gets, or None and the reason."""

    scheme: Scheme | None
    reason: str


def schemes_of(module: nn.Module) -> set[Scheme]:
    """The dense forms of the schemes that a native module's linears have."""
    if isinstance(module, Linear):
        return {module.scheme.dense}
    if isinstance(module, PackedEncoder):
        return {Scheme.parse(layer[name]).dense for layer in module.spec["layers"] for name in LINEARS}
    return set()


def native_in_another_scheme(module: nn.Module, choice: Choice) -> str | None:
    """Why a native module can't get the scheme that a pattern of its own asks for; None where it has it."""
    own = schemes_of(module)
    if not own or choice.scheme is None or not choice.explicit or own == {choice.scheme.dense}:
        return None
    return f"it is native already, in {in_words(own)}, and its float weights are gone: convert the float model instead"


def in_words(schemes: set[Scheme]) -> str:
    return ", ".join(sorted(map(str, schemes)))


def storage(tensor: Tensor) -> tuple[str, int]:
    """Equal for tensors that start at the same memory."""
    return ("address", tensor.data_ptr()) if tensor.numel() and not tensor.is_meta else ("object", id(tensor))


def owners_of(modules: dict[str, nn.Module]) -> dict[tuple[str, int], list[str]]:
    """The modules that hold each parameter."""
    owners: dict[tuple[str, int], list[str]] = {}
    for name, module in modules.items():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(storage(parameter), []).append(name)
    return owners


def check_parameters(model: nn.Module) -> None:
    """ValueError for parameters without a shape, or on another device than the CPU."""
    for name, tensor in model.named_parameters():
        if nn.parameter.is_lazy(tensor):
            raise ValueError(f"{name} has no shape before the first call: run the model once, then convert it")
        if tensor.device.type not in ("cpu", "meta"):
            raise ValueError(f"{name} is on {tensor.device}; native modules run on the CPU: call model.cpu() first")


def bypassed(name: str, module: nn.Module, parent: nn.Module | None, held: Mapping[int, list[str]]) -> str | None:
    """Why a native module in the place of ``module``, the child ``name`` of ``parent``, might not be called there."""
    if holders := held.get(id(module)):
        return f"{holders[0] or 'the model'} holds it outside of its children too, and may call it from there"
    if name == "text_projection" and type(parent).__module__.startswith("open_clip."):
        return f"{type(parent).__name__} of OpenCLIP multiplies by it itself unless it is an nn.Linear"
    return None


def held_elsewhere(modules: Mapping[str, nn.Module]) -> dict[int, list[str]]:
    """Modules that others hold in a plain list, tuple, set, dict or attribute: names of these, by the module's id.

    Who calls a module from there goes on calling the old one when a native one takes its place among the children.
    """
    held: dict[int, list[str]] = {}
    for name, module in modules.items():
        for attribute, value in vars(module).items():
            if attribute not in _OF_TORCH:
                for part in _modules_in(value):
                    held.setdefault(id(part), []).append(name)
    return held


def _modules_in(value: Any, depth: int = 3) -> Iterator[nn.Module]:
    if isinstance(value, nn.Module):
        yield value
    elif depth and isinstance(value, dict | list | tuple | set):  # which may hold itself
        for part in value.values() if isinstance(value, dict) else value:
            yield from _modules_in(part, depth - 1)


def hooked(module: nn.Module) -> str | None:
    """Why replacing a module would lose something that runs around its forward."""
    hooks = [hook for name in _HOOKS for hook in getattr(module, name).values()]
    # Transformers leaves hooks behind that record outputs when a caller asks for hidden states, and do nothing else.
    if any(getattr(hook, "__module__", None) != "transformers.utils.output_capturing" for hook in hooks):
        return "has hooks, which a native module would not run: remove them first"
    if "forward" in vars(module):
        return "has a forward of its own, set on the instance"
    return None


def unusual(module: nn.Module, known: tuple[type, ...]) -> str | None:
    """Why a layer is not plain: not exactly of one of the classes ``known``, or changed from outside."""
    if parametrize.is_parametrized(module):
        return (
            f"it is parametrized ({', '.join(module.parametrizations)}): make that permanent first, with "
            "torch.nn.utils.parametrize.remove_parametrizations"
        )
    if "weight_mask" in module._buffers:
        return "it has a pruning mask: make that permanent first, with kdnative.prune.finalize_masks_"
    if type(module) not in known:
        base = "nn.Linear" if isinstance(module, nn.Linear) else "nn.Embedding"
        return f"{type(module).__name__} is a subclass of {base} and may behave in its own way"
    hooks = hooked(module)
    return hooks and f"it {hooks}"


def without_values(module: nn.Module) -> str | None:
    """Why the ``weight`` or ``bias`` of a layer can't be quantized."""
    weight = module.weight.detach()
    if weight.is_meta:
        return "its weight is on the meta device and has no values"
    if type(weight) not in (Tensor, nn.Parameter):
        return f"its weight is a {type(weight).__name__}, not a plain tensor"
    if weight.dtype not in _FLOATS:
        return f"its weight is {weight.dtype}; float32, bfloat16 and float16 can be converted"
    if 0 in weight.shape:
        return f"its weight is empty: shape {list(weight.shape)}"
    for what, tensor in (("weight", weight), ("bias", getattr(module, "bias", None))):
        if tensor is not None and not bool(torch.isfinite(tensor).all()):
            return f"{NOT_FINITE}: its {what} has {int((~torch.isfinite(tensor)).sum())} of them"
    return None


def too_small(out_features: int, in_features: int) -> str:
    """Why the float layer is faster for this shape; empty when it is not."""
    if out_features < MIN_OUT_FEATURES:
        return f"faster in float: {out_features} outputs are fewer than {MIN_OUT_FEATURES}"
    if in_features < MIN_IN_FEATURES:
        return f"faster in float: {in_features} inputs are fewer than {MIN_IN_FEATURES}"
    return ""
