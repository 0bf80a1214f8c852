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
from kdnative.nn.hf_config import settings_of, to_plain
from kdnative.quantize import FakeQuantLinear

__all__ = [
    "NATIVE",
    "ROOTS",
    "become",
    "build",
    "buffers_to_keep",
    "describe",
    "fit",
    "float_tensors",
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
_KIND_OF_MODEL = ("model_type", "hidden_size", "vocab_size")
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


def describe(model: nn.Module) -> dict:
    """Everything needed to build the structure of a model again.

    Returns:
        ``modules``: ``{name: {"class": ..., "config": ... where it can be built from one}}``; ``transformers``: class
        and configuration when the model is one of that library, else None; ``attributes``: numbers that modules hold
        and that differ from what the configuration gives, such as the head counts of a pruned attention;
        ``rebuild``: "transformers", "modules", or "into" when only a model made by the caller can be filled.
    """
    structure = {
        "modules": {name: _entry(module) for name, module in walk(model)},
        "transformers": _transformers_part(model),
        "attributes": {},
        "rebuild": "into",
    }
    for way in ("transformers", "modules"):
        if way == "transformers" and structure["transformers"] is None:
            continue
        try:
            skeleton = build({**structure, "rebuild": way}, native=lambda name, entry: model.get_submodule(name))
        except Exception:  # whatever a constructor or a configuration raises: it can't be built this way
            continue
        if _names(skeleton) == _names(model) and _same_tensors(skeleton, model) and _same_gaps(skeleton, model):
            return {**structure, "rebuild": way, "attributes": _differing_attributes(model, skeleton)}
    return structure


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
            count = sum(1 for other in entries if other.rpartition(".")[0] == name)
            del layers[count:]
        if not name or "config" not in entry:
            continue
        if entry["class"] in NATIVE:
            _put(model, name, native(name, entry), places)
        elif _entry(old := model.get_submodule(name)) != entry:
            new = _like(old, _make(entry))
            if isinstance(new, MultiheadAttention):  # whose last linear may stay in float
                new.out_proj = old.out_proj
            _put(model, name, new, places)


def become(module: nn.Module, native: nn.Module) -> None:
    """Turn a module that may have no parent into the native one: it stays the same object and changes its class."""
    module.__class__ = type(native)
    module.__dict__ = native.__dict__


def takes_place_of(entry: dict, module: nn.Module) -> bool:
    """Whether the native module of a table entry is what a float module like this one is converted into."""
    spec = entry["config"]
    if entry["class"] == "kdnative.nn.Encoder":
        known = spec["transformers"] or {}
        same = all(getattr(getattr(module, "config", None), key, None) == known.get(key) for key in _KIND_OF_MODEL)
        return hf.is_encoder(module) and same
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
            if not _is_number(vars(module).get(key)) or not _is_number(value):
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


def _entry(module: nn.Module) -> dict:
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
        config = None if isinstance(module, _CONTAINERS) else _arguments_of(module)
        return {"class": f"torch.nn.{cls.__name__}", **({} if config is None else {"config": config})}
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
    """``new``, from the meta device, with the dtype and device of ``old``; its values are still to be loaded."""
    like = next(old.parameters(recurse=False), None)
    if like is None:
        return new
    new = new.to(like.dtype)
    return new if like.is_meta else new.to_empty(device=like.device)


def _is_number(value) -> bool:
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


def _same_gaps(skeleton: nn.Module, model: nn.Module) -> bool:
    """Whether the model has None, and nothing else, wherever `_leave_out` put it."""
    return all(
        getattr(model.get_submodule(name), attribute, skeleton) is None
        for name, module in walk(skeleton)
        for attribute, child in module._modules.items()
        if child is None
    )


def _transformers_part(model: nn.Module) -> dict | None:
    if not type(model).__module__.startswith("transformers."):
        return None
    import transformers

    if not isinstance(model, transformers.PreTrainedModel):
        return None
    return {
        "class": type(model).__name__,
        "config": to_plain(model.config),
        "attention": model.config._attn_implementation,
    }


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
    config._attn_implementation = part["attention"]
    with torch.device("meta"):
        return cls(config)


def _names(model: nn.Module) -> set[str]:
    """Every path to a module: one that is used twice has two."""
    return {name for name, _ in model.named_modules(remove_duplicate=False)}


def _same_tensors(a: nn.Module, b: nn.Module) -> bool:
    """Whether two models have tensors of the same names and shapes, and no tensor hides outside of them."""
    for tensors in (float_tensors, buffers_to_keep):
        shapes_a, shapes_b = ({k: t.shape for k, t in tensors(m).items()} for m in (a, b))
        if shapes_a != shapes_b:
            return False
    return not any(isinstance(value, Tensor) for _, module in walk(a) for value in vars(module).values())


def _differing_attributes(model: nn.Module, skeleton: nn.Module) -> dict[str, dict]:
    fresh = dict(walk(skeleton))
    differing = {}
    for name, module in walk(model):
        if module is fresh[name] or getattr(nn, type(module).__name__, None) is type(module):
            continue
        own, other = _numbers(module), _numbers(fresh[name])
        found = {key: value for key, value in own.items() if key in other and other[key] != value}
        if found:
            differing[name] = found
    return differing


def _numbers(module: nn.Module) -> dict[str, int | float | bool]:
    return {
        key: value
        for key, value in vars(module).items()
        if _is_number(value) and not key.startswith("_") and key != "training"
    }
