"""The structure of a model as plain data, and back: what a checkpoint knows besides tensors.

Nothing here runs code from a file: a table names classes, and only those of ``torch.nn``, of kdnative, and the model
classes of transformers are built.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from kdnative.nn import (
    Embedding,
    Encoder,
    EncoderLayer,
    Linear,
    MultiheadAttention,
    PackedEncoder,
    TransformerEncoder,
    hf,
    known_layers,
    torch_encoder,
)
from kdnative.nn.hf_config import set_attention, settings_of
from kdnative.quantize import FakeQuantLinear

__all__ = [
    "NATIVE",
    "ROOTS",
    "become",
    "build",
    "buffers_to_keep",
    "entry_of",
    "fit",
    "float_tensors",
    "is_number",
    "plain_tensors",
    "set_attributes",
    "takes_place_of",
    "walk",
]

NATIVE = {f"kdnative.nn.{cls.__name__}": cls for cls in (Linear, Embedding, Encoder, EncoderLayer, TransformerEncoder)}
_QAT = "kdnative.quantize.FakeQuantLinear"
_ATTENTION = "kdnative.nn.MultiheadAttention"
ROOTS = {**NATIVE, _ATTENTION: MultiheadAttention}
"""What a whole model may become."""

_FLOAT_FORMS = {
    "kdnative.nn.Linear": (("in_features", "out_features"), nn.Linear),
    "kdnative.nn.Embedding": (("num_embeddings", "embedding_dim"), nn.Embedding),
    _ATTENTION: (("embed_dim", "num_heads", "batch_first"), nn.MultiheadAttention),
}
_OWN = {_QAT: FakeQuantLinear, _ATTENTION: MultiheadAttention}
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def walk(module: nn.Module, name: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, nn.Module]]:
    """Every module once, outermost first, without the inside of native ones."""
    seen = set() if seen is None else seen
    if id(module) in seen:
        return
    seen.add(id(module))
    yield name, module
    if not isinstance(module, tuple(NATIVE.values())):
        for attribute, child in module.named_children():
            yield from walk(child, f"{name}.{attribute}" if name else attribute, seen)


def build(structure: dict, native: Callable[[str, dict], nn.Module] | None = None) -> nn.Module:
    """The model that `describe` described; float parameters and buffers, and encoders, are on the meta device.

    Args:
        structure: see `describe`.
        native: makes the native module of a name and table entry; None builds empty ones.

    Raises:
        ValueError, TypeError, AttributeError: the description is not one of a model that can be built.
    """
    native = native or (lambda name, entry: _make(entry))
    entries = structure["modules"]
    if structure["rebuild"] == "modules":
        return _build_tree(entries, native)
    if structure["rebuild"] != "transformers":
        raise ValueError("its structure is not one that can be built from a file")
    model = _transformers_skeleton(structure["transformers"])
    fit(model, entries, native)
    _leave_out(model, entries)
    set_attributes(model, structure["attributes"])
    return model


def fit(model: nn.Module, entries: dict[str, dict], native: Callable[[str, dict], nn.Module] | None = None) -> None:
    """Give a model the native modules of a table, and the shapes of its torch.nn layers, in place."""
    native, places = native or (lambda name, entry: _make(entry)), _places(model)
    for name, entry in entries.items():
        if entry["class"] == "torch.nn.ModuleList":
            layers = model.get_submodule(name)
            # Older checkpoints do not say the length; their tables leave out modules that are there twice.
            count = entry.get("length", sum(1 for other in entries if other.rpartition(".")[0] == name))
            del layers[count:]
        if not name or "config" not in entry:
            continue
        if entry["class"] in NATIVE:
            _put(model, name, native(name, entry), places)
        elif entry_of(old := model.get_submodule(name)) != entry:
            new = _like(old, _make(entry))
            if isinstance(new, MultiheadAttention):  # whose last linear may stay in float
                new.out_proj = old.out_proj
            _put(model, name, new, places)


def become(module: nn.Module, native: nn.Module) -> None:
    """Turn a module that may have no parent into the native one: it stays the same object and changes its class."""
    module.__class__ = type(native)
    module.__dict__ = native.__dict__


def takes_place_of(entry: dict, module: nn.Module) -> bool:
    """Whether a module is like the native one of a table entry, or a float one that is converted into such."""
    spec = entry["config"]
    if type(module) is ROOTS[entry["class"]]:
        own, given = module.spec, _make(entry).spec
        return all(own[key] == given[key] for key in own if key not in ("dtype", "transformers"))
    if entry["class"] == "kdnative.nn.Encoder":
        # The plain configuration has a family's own names for sizes, such as `dim`; its class knows the common ones.
        wanted = {"model_type": (spec["transformers"] or {}).get("model_type")}
        wanted |= {name: spec[name] for name in ("hidden_size", "vocab_size")}
        return hf.is_encoder(module) and all(getattr(module.config, k, None) == v for k, v in wanted.items())
    if entry["class"] == "kdnative.nn.EncoderLayer":
        norm = next((m for m in module.modules() if isinstance(m, nn.LayerNorm)), None)
        return known_layers.is_layer(module) and norm is not None and norm.normalized_shape == (spec["hidden_size"],)
    if entry["class"] == "kdnative.nn.TransformerEncoder":
        layers = getattr(module, "layers", [module])
        known = torch_encoder.is_encoder(module) and len(layers) == len(spec["layers"])
        return known and layers[0].linear1.in_features == spec["hidden_size"]
    sizes, cls = _FLOAT_FORMS[entry["class"]]
    module = hf.linear_of_conv1d(module) if hf.is_conv1d(module) else module
    return type(module) is cls and all(getattr(module, name) == spec[name] for name in sizes)


def set_attributes(model: nn.Module, attributes: dict[str, dict]) -> None:
    """Set numbers that modules hold; ValueError where a module has no number of that name."""
    for name, values in attributes.items():
        module = model.get_submodule(name)
        for key, value in values.items():
            if not is_number(vars(module).get(key)) or not is_number(value):
                raise ValueError(f"{name}.{key} is not a number")
            setattr(module, key, value)


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
                if module._buffers.get(key) is not None:
                    found[f"{name}.{key}" if name else key] = module._buffers[key]
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


def entry_of(module: nn.Module) -> dict:
    """What a table says of a module: its class, and what to build it from where that is known."""
    cls = type(module)
    for name, native in NATIVE.items():
        if cls is native:
            return {"class": name, "config": module.spec}
    if cls is MultiheadAttention:
        return {"class": _ATTENTION, "config": module.spec}
    if cls is FakeQuantLinear:
        config = {key: getattr(module, key) for key in ("in_features", "out_features", "clip")}
        return {"class": _QAT, "config": {**config, "bias": module.bias is not None, "scheme": str(module.scheme)}}
    if getattr(nn, cls.__name__, None) is cls:
        entry = {"class": f"torch.nn.{cls.__name__}"}
        if cls is nn.ModuleList:
            entry["length"] = len(module)
        config = None if isinstance(module, _CONTAINERS) else _arguments_of(module)
        return entry if config is None else {**entry, "config": config}
    return {"class": f"{cls.__module__}.{cls.__qualname__}"}


def _arguments_of(module: nn.Module) -> dict | None:
    """Constructor arguments of a layer of torch.nn, read from its attributes; None if they can't all be."""
    if next(module.children(), None) is not None:
        return None
    arguments = {}
    for name, parameter in list(inspect.signature(type(module).__init__).parameters.items())[1:]:
        if name in ("device", "dtype") or name.startswith("_"):
            continue
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


def _make(entry: dict) -> nn.Module:
    """The module of a table entry; float ones on the meta device."""
    config = {key: _tuples(value) for key, value in entry["config"].items()} if "config" in entry else {}
    name = entry["class"]
    if name in NATIVE:
        cls = NATIVE[name]
        return cls.unfilled(entry["config"]) if issubclass(cls, PackedEncoder) else cls(**entry["config"])
    with torch.device("meta"):
        if name in _OWN:
            return _OWN[name](**entry["config"])
        cls = getattr(nn, name.removeprefix("torch.nn."), None) if name.startswith("torch.nn.") else None
        if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
            raise ValueError(f"{name} is not a class that can be built from a file")
        if "config" not in entry and cls not in _CONTAINERS:
            raise ValueError(f"{name} does not keep its arguments, so it can't be built from a file")
        return cls(**config)


def _like(old: nn.Module, new: nn.Module) -> nn.Module:
    """``new``, from the meta device, with dtype, device and mode of ``old``; its values are still to be loaded."""
    like, new = next(old.parameters(recurse=False), None), new.train(old.training)
    if like is None:
        return new
    new = new.to(like.dtype).requires_grad_(like.requires_grad)
    return new if like.is_meta else new.to_empty(device=like.device)


def is_number(value) -> bool:
    """Whether a value is one of those that a description may set on a module."""
    return type(value) in (int, float, bool)


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _build_tree(entries: dict[str, dict], native: Callable[[str, dict], nn.Module]) -> nn.Module:
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


def _leave_out(model: nn.Module, entries: dict[str, dict]) -> None:
    """Set to None the modules that the table lacks: a constructor's argument, not the configuration, left them out."""
    for name, _ in list(walk(model)):
        parent, _, attribute = name.rpartition(".")
        if name not in entries and (not parent or parent in entries):
            setattr(model.get_submodule(parent), attribute, None)


def _transformers_skeleton(part: dict) -> nn.Module:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            f'a {part["class"]} is rebuilt with transformers: pip install "kdnative[pipeline]", or give into=model'
        ) from error
    cls = getattr(transformers, part["class"], None)
    if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
        raise ValueError(f"{part['class']!r} is not a model class of transformers {transformers.__version__}")
    config = cls.config_class.from_dict(settings_of(part["config"]))
    set_attention(config, part["attention"])
    with torch.device("meta"):
        return cls(config)
