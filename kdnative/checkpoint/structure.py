"""The structure of a model as plain data, and back: what a checkpoint knows besides tensors.

Nothing here runs code from a file: a table names classes, and only layers of ``torch.nn``, modules of kdnative, and
models of transformers of the kinds in :mod:`kdnative.checkpoint.allowed` are built.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdnative.checkpoint import hostile
from kdnative.extras import require
from kdnative.models import known_layers
from kdnative.nn import ConvNet, Encoder, EncoderLayer, MultiheadAttention, PackedEncoder
from kdnative.nn.config_checks import FLAG, SCHEME, SIZE, check_config
from kdnative.nn.hf_config import set_attention, settings_of
from kdnative.nn.tree import NATIVE, walk
from kdnative.quantize import FakeQuantLinear

__all__ = [
    "ROOTS",
    "NotBuilt",
    "build",
    "buffers_to_keep",
    "entry_of",
    "fit",
    "float_tensors",
    "has_numbers_of_its_own",
    "native_shapes",
    "numbers_of",
    "plain_tensors",
    "set_attributes",
]

_QAT = "kdnative.quantize.FakeQuantLinear"
_QAT_KINDS = {
    "clip": (lambda v: v in (None, "search", "learn"), "a kind of clip"),
    "ternary": (lambda v: v in (None, "channel", "group"), "a kind of ternary"),
}
_ATTENTION = "kdnative.nn.MultiheadAttention"
ROOTS = {**NATIVE, _ATTENTION: MultiheadAttention}
"""What a whole model may become."""

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class NotBuilt(ValueError):
    """Why a description can't be built, or a model can't be described so that it can, in words."""


def build(
    structure: dict[str, Any], tensors: int, native: Callable[[str, dict[str, Any]], nn.Module] | None = None
) -> nn.Module:
    """The model that `describe` described; float parameters and buffers, and encoders, are on the meta device.

    Args:
        structure: see `describe`.
        tensors: how many the model has; it bounds its modules.
        native: makes the native module of a name and table entry; None builds empty ones.

    Raises:
        NotBuilt: the description is of a kind of model that is not built from a file. Any other exception: it is not
            one of a model that can be built; constructors raise what they like.
    """
    native = native or (lambda name, entry: _make(entry))
    entries = structure["modules"]
    if structure["rebuild"] == "modules":
        return _build_tree(entries, native)
    if structure["rebuild"] != "transformers":
        raise ValueError("its structure is not one that can be built from a file")
    model = _transformers_skeleton(structure["transformers"], most_modules=1000 + 16 * tensors)
    fit(model, entries, native)
    _leave_out(model, entries)
    set_attributes(model, structure["attributes"])
    return model


def fit(
    model: nn.Module,
    entries: dict[str, dict[str, Any]],
    native: Callable[[str, dict[str, Any]], nn.Module] | None = None,
    shapes: Mapping[str, list[int]] | None = None,
) -> None:
    """Give a model the native modules of a table, and the shapes of its torch.nn layers, in place.

    Args:
        shapes: of the tensors that there are; nothing larger is allocated.
    """
    native, places = native or (lambda name, entry: _make(entry)), _places(model)
    for name, entry in entries.items():
        if entry["class"] == "torch.nn.ModuleList":
            layers = model.get_submodule(name)
            del layers[entry["length"] :]
        if not name or "config" not in entry:
            continue
        if entry["class"] in NATIVE:
            new, old = native(name, entry), model.get_submodule(name)
            if isinstance(new, Encoder) and shapes is not None:  # the caller's configuration, not one from a file
                new.adopt(getattr(old, "config", None))
            if isinstance(new, EncoderLayer) and (isinstance(old, EncoderLayer) or known_layers.is_layer(old)):
                new.remember(old)
            _put(model, name, new, places)
        elif entry_of(old := model.get_submodule(name)) != entry:
            new = _make(entry).train(old.training)
            if isinstance(new, MultiheadAttention):  # its linears come later; the last one may stay in float
                new.out_proj = old.out_proj
            else:
                new = _like(old, new, name, shapes)
            _put(model, name, new, places)


def native_shapes(entries: dict[str, dict[str, Any]]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every plain tensor of the native modules in a table, by arithmetic alone.

    Attentions, which have linears for tensors, are checked on the way.

    Raises:
        ValueError: a module's configuration has an entry of another kind than it must be; the text names the module.
    """
    for name, entry in entries.items():
        prefix, config = f"{name}." if name else "", cast(dict[str, Any], entry.get("config"))  # what else is refused
        try:
            if entry["class"] in NATIVE:
                for key, shape, _ in NATIVE[entry["class"]].plain_shapes(config):
                    yield prefix + key, shape
            elif entry["class"] == _ATTENTION:
                _check_attention(config, [entries.get(prefix + part, {}) for part in _PROJECTIONS])
        except ValueError as error:
            raise ValueError(f"{name or entry['class']}: {error}") from error


def set_attributes(model: nn.Module, attributes: dict[str, dict[str, Any]]) -> None:
    """Set numbers that modules hold; ValueError where a module has none of that name, or is none of transformers'."""
    for name, values in attributes.items():
        module = model.get_submodule(name)
        for key, value in values.items():
            if not has_numbers_of_its_own(module) or key not in numbers_of(module) or not _is_number(value):
                raise ValueError(f"{name}.{key} is not a number")
            setattr(module, key, value)


def has_numbers_of_its_own(module: nn.Module) -> bool:
    """Whether a module's numbers may differ from what it was built with: those of layers are their constructors'."""
    native = isinstance(module, (*ROOTS.values(), FakeQuantLinear))
    return not native and getattr(nn, type(module).__name__, None) is not type(module)


def numbers_of(module: nn.Module) -> dict[str, int | float | bool]:
    """Numbers that a module holds under public names."""
    return {
        key: value
        for key, value in vars(module).items()
        if _is_number(value) and not key.startswith("_") and key != "training"
    }


def _is_number(value: Any) -> bool:
    return type(value) in (int, float, bool)


# -- tensors outside of native modules ---------------------------------------------------------------------------------


def float_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers outside native modules, under their names in a state dict."""
    found = {}
    for name, module in walk(model):
        if not isinstance(module, tuple(NATIVE.values())):
            kept = {k: v for k, v in module._buffers.items() if k not in module._non_persistent_buffers_set}
            for key, tensor in {**module._parameters, **kept}.items():
                if tensor is not None:
                    found[f"{name}.{key}" if name else key] = tensor
    return found


def buffers_to_keep(model: nn.Module) -> dict[str, Tensor]:
    """Buffers outside native modules that a state dict leaves out; building on the meta device loses their values."""
    found = {}
    for name, module in walk(model):
        if not isinstance(module, tuple(NATIVE.values())):
            for key in sorted(module._non_persistent_buffers_set):
                if (buffer := module._buffers.get(key)) is not None:
                    found[f"{name}.{key}" if name else key] = buffer
    return found


def plain_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Tensors that modules hold in plain attributes, outside native ones; on the meta device they lose their values."""
    found = {}
    for name, module in walk(model):
        if not isinstance(module, tuple(NATIVE.values())):
            for key, value in vars(module).items():
                if isinstance(value, Tensor):
                    found[f"{name}.{key}" if name else key] = value
    return found


# -- entries of the table ----------------------------------------------------------------------------------------------


def entry_of(module: nn.Module) -> dict[str, Any]:
    """What a table says of a module: its class, and what to build it from where that is known."""
    cls = type(module)
    for name, native in NATIVE.items():
        if cls is native:
            return {"class": name, "config": module.spec}
    if cls is MultiheadAttention:
        return {"class": _ATTENTION, "config": module.spec}
    if cls is FakeQuantLinear:
        config = {key: getattr(module, key) for key in ("in_features", "out_features", "clip", "ternary")}
        return {"class": _QAT, "config": {**config, "bias": module.bias is not None, "scheme": str(module.scheme)}}
    if getattr(nn, cls.__name__, None) is cls:
        entry: dict[str, Any] = {"class": f"torch.nn.{cls.__name__}"}
        if isinstance(module, nn.ModuleList):
            entry["length"] = len(module)
        arguments = None if isinstance(module, _CONTAINERS) else _arguments_of(module)
        return entry if arguments is None else {**entry, "config": arguments}
    return {"class": f"{cls.__module__}.{cls.__qualname__}"}


def _arguments_of(module: nn.Module) -> dict[str, Any] | None:
    """Constructor arguments of a layer of torch.nn, read from its attributes; None if they can't all be."""
    if next(module.children(), None) is not None:
        return None
    if isinstance(module, nn.Identity):  # it takes any, and keeps none
        return {}
    arguments = {}
    for name, parameter in _parameters_of(type(module)).items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or not hasattr(module, name):
            return None
        value = getattr(module, name)
        if name == "bias":
            value = value is not None and value is not False
        try:
            arguments[name] = json.loads(json.dumps(value))
        except TypeError:
            return None
    return arguments


def _parameters_of(cls: type[nn.Module]) -> dict[str, inspect.Parameter]:
    """Those of a constructor that say what a layer is, rather than where its values lie."""
    parameters = list(inspect.signature(cls.__init__).parameters.items())[1:]
    return {name: p for name, p in parameters if name not in ("device", "dtype") and not name.startswith("_")}


def _make(entry: dict[str, Any]) -> nn.Module:
    """The module of a table entry; float ones, and the linears of an attention, on the meta device."""
    name, config = entry["class"], cast(dict[str, Any], entry.get("config"))  # constructors refuse what else it is
    if name in NATIVE:
        cls = NATIVE[name]
        return cls.from_spec(config) if issubclass(cls, (ConvNet, PackedEncoder)) else cls(**config)
    with torch.device("meta"):
        if name == _QAT:
            kinds = {"in_features": SIZE, "out_features": SIZE, "scheme": SCHEME, "bias": FLAG}
            check_config(name, config, kinds, _QAT_KINDS)
            return FakeQuantLinear(**config)
        if name == _ATTENTION:
            return _make_attention(config)
        return _make_layer(name, config)


def _check_attention(config: dict[str, Any], projections: list[dict[str, Any]]) -> None:
    kinds = {"embed_dim": SIZE, "num_heads": SIZE, "bias": FLAG, "batch_first": FLAG, "scheme": SCHEME}
    check_config("attention", config, kinds)
    width, heads = config["embed_dim"], config["num_heads"]
    if width % heads:
        raise ValueError(f"num_heads must divide embed_dim, got {heads} and {width}")
    for linear in [entry["config"] for entry in projections if "config" in entry]:  # a float one may have none
        sizes = [linear.get(name) for name in ("in_features", "out_features")]
        if sizes != [width, width]:
            raise ValueError(f"embed_dim is {width}, but a linear of it has sizes {sizes}")


def _make_attention(config: dict[str, Any]) -> MultiheadAttention:
    """Its linears are entries of the table themselves, and come later."""
    width, heads = config["embed_dim"], config["num_heads"]
    linears = [nn.Linear(width, width, config["bias"]) for _ in range(4)]
    return MultiheadAttention.from_parts(linears, heads, config["batch_first"])


def _make_layer(name: str, config: dict[str, Any] | None) -> nn.Module:
    cls = getattr(nn, name.removeprefix("torch.nn."), None) if name.startswith("torch.nn.") else None
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ValueError(f"{name} is not a class that can be built from a file")
    # A transformer of torch copies its layers, as often as it is told; a table has them as entries of their own.
    if (config is None and cls not in _CONTAINERS) or cls.__name__.startswith("Transformer"):
        raise ValueError(f"{name} does not keep its arguments, so it can't be built from a file")
    config = config or {}
    if unknown := sorted(config.keys() - _parameters_of(cls).keys()):
        raise ValueError(f"{name} has no argument {unknown[0]!r} that a file may give")
    if issubclass(cls, nn.RNNBase) and not (SIZE[0](config.get("num_layers")) and config["num_layers"] <= 1000):
        raise ValueError(f"{name}: num_layers is {config.get('num_layers')}; it must be an integer from 1 to 1000")
    with hostile.limited_modules(100):
        return cls(**{key: _tuples(value) for key, value in config.items()})


def _like(old: nn.Module, new: nn.Module, name: str, shapes: Mapping[str, list[int]] | None) -> nn.Module:
    """``new``, from the meta device, with dtype and device of ``old``; its values are still to be loaded."""
    like = next(old.parameters(recurse=False), None)
    if like is None:
        return new
    new = new.to(like.dtype).requires_grad_(like.requires_grad)
    if like.is_meta:
        return new
    for key, tensor in new.state_dict().items():
        if shapes is not None and shapes.get(f"{name}.{key}") != list(tensor.shape):
            raise ValueError(f"{name}.{key} would have shape {list(tensor.shape)}, and there is no such tensor")
    return new.to_empty(device=like.device)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


# -- the tree ----------------------------------------------------------------------------------------------------------


def _build_tree(entries: dict[str, dict[str, Any]], native: Callable[[str, dict[str, Any]], nn.Module]) -> nn.Module:
    modules: dict[str, nn.Module] = {}
    for name, entry in entries.items():
        modules[name] = native(name, entry) if entry["class"] in NATIVE else _make(entry)
        if name:
            parent, _, attribute = name.rpartition(".")
            modules[parent].add_module(attribute, modules[name])
    return modules[""]


def _places(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Where each module is, by its id: some are used in several places."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for attribute, child in module._modules.items():
            if child is not None:
                places.setdefault(id(child), []).append((module, attribute))
    return places


def _put(model: nn.Module, name: str, module: nn.Module, places: dict[int, list[tuple[nn.Module, str]]]) -> None:
    """Put a module in place of the one of that name, wherever that is."""
    parent, _, attribute = name.rpartition(".")
    holder = model.get_submodule(parent)
    if attribute not in holder._modules:
        raise ValueError(f"there is no module {name!r} in {type(model).__name__}")
    old = holder._modules[attribute]
    for other, place in ((holder, attribute), *places.get(id(old), ())):
        if other._modules.get(place) is old:
            setattr(other, place, module)


def _leave_out(model: nn.Module, entries: dict[str, dict[str, Any]]) -> None:
    """Set to None the modules that the table lacks: a constructor's argument, not the configuration, left them out."""
    for name, _ in list(walk(model)):
        parent, _, attribute = name.rpartition(".")
        if name not in entries and (not parent or parent in entries):
            setattr(model.get_submodule(parent), attribute, None)


def _transformers_skeleton(part: dict[str, Any], most_modules: int) -> nn.Module:
    require("transformers", f"rebuilding a {part['class']}", "or give into=model")
    try:
        cls: Any = hostile.model_class(part["class"], part["config"])
        hostile.check_config(part["config"])
        hostile.check_attention(part["attention"])
    except ValueError as error:
        raise NotBuilt(str(error)) from error
    with hostile.isolated(), hostile.limited_modules(most_modules), torch.device("meta"):
        config = cls.config_class.from_dict(settings_of(part["config"]))
        set_attention(config, part["attention"])
        return cast(nn.Module, cls(config))
