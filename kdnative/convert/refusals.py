"""Why a module can't be replaced by a native one: what is unusual about it, or runs around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kdnative.cnn.training import HandedOn, TrainedNetwork
from kdnative.formats.scheme import Scheme
from kdnative.nn import Linear, PackedEncoder
from kdnative.nn.encoder_spec import LINEARS
from kdnative.nn.tree import hooks_of
from kdnative.ops.backends import device_refusal

__all__ = [
    "MIN_IN_FEATURES",
    "MIN_OUT_FEATURES",
    "Refusal",
    "bypassed",
    "check_parameters",
    "held_elsewhere",
    "hooked",
    "in_words",
    "native_already",
    "native_in_another_scheme",
    "not_finite",
    "not_quantizable",
    "owners_of",
    "schemes_of",
    "storage",
    "too_small",
    "unusual",
]

MIN_OUT_FEATURES = 16
"""Linears with fewer outputs (classifier heads) stay in float: the kernels compute 32 outputs at a time."""

MIN_IN_FEATURES = 48
"""Linears with fewer inputs stay in float: the kernels pad inputs to 64, and quantizing them costs more than the
integer product saves (measured against torch in float32, AVX2, 1 to 32 rows: 0.8x to 1.3x at 32, over 1x from 48)."""

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)

_OF_TORCH = vars(nn.Module()).keys()  # among them the children


@dataclass(frozen=True)
class Refusal:
    """Why a module stays what it is: the one way in which anything here says no.

    Args:
        reason: in words, as the report has it.
        needs: what would have to be known first, None where nothing helps. "ranges": those of the values that the
            module is given, which calibration finds.
    """

    reason: str
    needs: str | None = None

    def __str__(self) -> str:
        return self.reason


def schemes_of(module: nn.Module) -> set[Scheme]:
    """The dense forms of the schemes that a native module's linears have."""
    if isinstance(module, Linear):
        return {module.scheme.dense}
    if isinstance(module, PackedEncoder):
        return {Scheme.parse(layer[name]).dense for layer in module.spec["layers"] for name in LINEARS}
    return set()


def native_already(module: nn.Module) -> Refusal:
    """Why a native module stays what it is."""
    own = schemes_of(module)
    return Refusal(f"already native, in {in_words(own)}" if own else "already native")


def native_in_another_scheme(module: nn.Module, asked: Scheme) -> Refusal | None:
    """Why a native module can't get the scheme that is asked for; None where it has it."""
    own = schemes_of(module)
    if not own or {scheme.plain for scheme in own} == {asked.plain}:
        return None
    words = "and has no float weights: convert the float model instead"
    return Refusal(f"it is native already, in {in_words(own)}, {words}")


def in_words(schemes: set[Scheme]) -> str:
    return ", ".join(sorted(map(str, schemes)))


def storage(tensor: Tensor) -> tuple[str, int]:
    """Equal for tensors that start at the same memory, or would if they had values."""
    if tensor.is_meta:
        return ("meta", tensor.untyped_storage()._cdata + tensor.storage_offset())
    return ("address", tensor.data_ptr()) if tensor.numel() else ("object", id(tensor))


def owners_of(modules: Mapping[str, nn.Module]) -> dict[tuple[str, int], list[str]]:
    """The modules that hold each parameter."""
    owners: dict[tuple[str, int], list[str]] = {}
    for name, module in modules.items():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(storage(parameter), []).append(name)
    return owners


def check_parameters(model: nn.Module) -> None:
    """ValueError for parameters without a shape, or on a device where nothing can be native."""
    devices: dict[torch.device, str | None] = {}
    for name, tensor in model.named_parameters():
        if nn.parameter.is_lazy(tensor):
            raise ValueError(f"{name} has no shape yet: run the model once, then convert it")
        if tensor.device not in devices:
            devices[tensor.device] = device_refusal(tensor.device)
        if why := devices[tensor.device]:
            raise ValueError(f"{name} is on {tensor.device}; {why}")


def bypassed(name: str, module: nn.Module, parent: nn.Module | None, held: Mapping[int, list[str]]) -> Refusal | None:
    """Why a native module in the place of ``module``, the child ``name`` of ``parent``, might not be called there."""
    if holders := held.get(id(module)):
        who = holders[0] or "the model"
        return Refusal(f"{who} also holds it outside its child modules, and may call it from there")
    if name == "text_projection" and type(parent).__module__.startswith("open_clip."):
        return Refusal(
            f"{type(parent).__name__} of OpenCLIP multiplies by its weight directly unless it is an nn.Linear"
        )
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
    hooks = hooks_of(module)
    # Transformers leaves hooks behind that record outputs when a caller asks for hidden states, and do nothing else.
    if any(getattr(hook, "__module__", None) != "transformers.utils.output_capturing" for hook in hooks):
        return "has hooks, which a native module does not run: remove them first"
    if not isinstance(vars(module).get("forward"), TrainedNetwork | HandedOn | None):
        return "has its own forward, set on the instance"
    return None


def unusual(module: nn.Module, known: tuple[type, ...]) -> Refusal | None:
    """Why a layer is not plain: not exactly of one of the classes ``known``, or changed from outside."""
    if parametrize.is_parametrized(module):
        return Refusal(
            f"it is parametrized ({', '.join(module.parametrizations)}): make it permanent first, with "
            "torch.nn.utils.parametrize.remove_parametrizations"
        )
    if "weight_mask" in module._buffers:
        return Refusal("it has a pruning mask: make it permanent first, with kdnative.prune.finalize_masks_")
    if type(module) not in known:
        base = next((cls for cls in known if isinstance(module, cls)), known[0])
        path = "nn" if base.__module__.startswith("torch.nn.") else base.__module__
        return Refusal(
            f"{type(module).__name__} is a subclass of {path}.{base.__name__} and may compute something else"
        )
    hooks = hooked(module)
    return Refusal(f"it {hooks}") if hooks else None


def not_quantizable(module: nn.Module, values: bool) -> Refusal | None:
    """Why the ``weight`` of a layer can't be quantized, whatever its values are.

    Args:
        values: False lets weights on the meta device pass, as those whose values come later.
    """
    weight = module.weight.detach()
    if weight.is_meta and values:
        return Refusal("its weight is on the meta device and has no values")
    if type(weight) not in (Tensor, nn.Parameter):
        return Refusal(f"its weight is a {type(weight).__name__}, not a plain tensor")
    if weight.dtype not in _FLOATS:
        return Refusal(f"its weight is {weight.dtype}; float32, bfloat16 and float16 can be converted")
    if 0 in weight.shape:
        return Refusal(f"its weight is empty: shape {list(weight.shape)}")
    return None


def not_finite(module: nn.Module) -> Refusal | None:
    """What is wrong with the values of a layer's ``weight`` and ``bias``; None for what has none."""
    for what in ("weight", "bias"):
        tensor = getattr(module, what, None)
        if tensor is None or tensor.is_meta:
            continue
        if bad := int((~torch.isfinite(tensor)).sum()):
            return Refusal(f"NaN or infinite values: its {what} has {bad} of them")
    return None


def too_small(out_features: int, in_features: int) -> Refusal | None:
    """Why the float layer is faster for this shape; None when it is not."""
    if out_features < MIN_OUT_FEATURES:
        return Refusal(f"faster in float: it has {out_features} outputs, fewer than {MIN_OUT_FEATURES}")
    if in_features < MIN_IN_FEATURES:
        return Refusal(f"faster in float: it has {in_features} inputs, fewer than {MIN_IN_FEATURES}")
    return None
