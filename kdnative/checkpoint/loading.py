"""Reading a checkpoint into a model."""

from __future__ import annotations

import os
from collections.abc import Set
from pathlib import Path

from torch import Tensor, nn

from kdnative import rebuild

from .manifest import MANIFEST, WEIGHTS, CheckpointError, read_manifest, some
from .weights import Weights

__all__ = ["load"]


def load(path: str | os.PathLike, into: nn.Module | None = None) -> nn.Module:
    """Read a checkpoint.

    Args:
        path: the folder.
        into: a model of the original classes, float or converted, to be given the checkpoint's native modules, shapes
            and tensors in place. Where the whole model was one encoder or layer, it becomes the native module: the
            same object, of another class, as :func:`kdnative.convert_` does it. None rebuilds the model: transformers'
            models, and trees of ``nn.Sequential``, ``nn.ModuleList`` and ``nn.ModuleDict`` with layers of torch.nn and
            kdnative.

    Returns:
        The model, on the CPU and in eval mode; ``into`` itself where it is given, on its device and in its mode.

    Raises:
        CheckpointError: a file is missing, damaged, changed, or of another version; the tensors are not those of the
            model; or the model can't be rebuilt, and ``into`` is needed. ``into`` has its old modules then.
    """
    path = Path(path)
    manifest = read_manifest(path)
    with Weights(path, manifest) as weights:
        if into is not None:
            return _fill(path, manifest, weights, into)
        return _rebuild(path, manifest, weights)


def _rebuild(path: Path, manifest: dict, weights: Weights) -> nn.Module:
    if manifest["rebuild"] == "into":
        root = manifest["modules"][""]["class"]
        raise CheckpointError(
            f"{path}: a {root} can't be rebuilt from a file, because it is neither made of torch.nn layers in "
            "containers nor what transformers builds from its configuration; build it in your code and call "
            "load(path, into=model)"
        )
    try:
        model = rebuild.build(manifest)
    except ImportError:
        raise
    except Exception as error:  # whatever a damaged or foreign description makes a constructor raise
        raise CheckpointError(f"{path / MANIFEST}: the model can't be rebuilt: {error}") from error
    _check_shapes(path, model, weights)
    filled = _fill_packed(path, model, weights)
    _load_state(path, model, weights.state(without=filled), assign=True, filled=filled)
    _restore_buffers(path, model, weights)
    _tie(model, manifest["weights"]["aliases"])
    return model.eval()


def _fill(path: Path, manifest: dict, weights: Weights, model: nn.Module) -> nn.Module:
    """Load into the caller's model; its old modules come back if that fails."""
    root = manifest["modules"][""]
    if root["class"] in rebuild.ROOTS:
        return _fill_native(path, manifest, weights, model)
    before = [(module, dict(module._modules)) for module in model.modules()]
    try:
        rebuild.fit(model, manifest["modules"])
        _check_shapes(path, model, weights)
        filled = _fill_packed(path, model, weights)
        _load_state(path, model, weights.state(without=filled), assign=False, filled=filled)
        rebuild.set_attributes(model, manifest["attributes"])
    except Exception as error:
        for module, children in before:
            module._modules = children
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: it does not fit into the given {type(model).__name__}: {error}") from error
    return model


def _fill_native(path: Path, manifest: dict, weights: Weights, model: nn.Module) -> nn.Module:
    """A checkpoint of one native module: into one like it, or in place of the float module it was converted from."""
    root = manifest["modules"][""]
    if type(model) is rebuild.ROOTS[root["class"]]:
        _load_state(path, model, weights.state(), assign=False)
    elif rebuild.takes_place_of(root, model):
        native = _rebuild(path, manifest, weights).train(model.training)
        rebuild.become(model, native)
    else:
        raise CheckpointError(
            f"{path}: it holds a {root['class']}, which can't take the place of this {type(model).__name__}: the model "
            "to load into must be of the kind and sizes of the converted one"
        )
    return model


def _check_shapes(path: Path, model: nn.Module, weights: Weights) -> None:
    """Before anything is copied: torch reports a wrong shape only after it has copied what was right."""
    for name, tensor in rebuild.float_tensors(model).items():
        if name not in weights.shapes:
            raise CheckpointError(f"{path / WEIGHTS}: {name} is missing; the model needs it")
        if weights.shapes[name] != list(tensor.shape):
            raise CheckpointError(
                f"{path / WEIGHTS}: {name} has shape {weights.shapes[name]}, the model needs {list(tensor.shape)}"
            )


def _fill_packed(path: Path, model: nn.Module, weights: Weights) -> set[str]:
    """Give encoders and linears their weights part by part, and return the names of these.

    Tables of encoders are read into the packed weights; of the rest one part at a time is in memory beside them.
    """
    filled: set[str] = set()
    for name, module in rebuild.walk(model):
        if not isinstance(module, (rebuild.PackedEncoder, rebuild.Linear)):
            continue
        prefix = f"{name}." if name else ""
        own = {prefix + key for key in module.plain_names()}
        if not own <= weights.shapes.keys():
            continue  # load_state_dict says what is missing
        if isinstance(module, rebuild.PackedEncoder):
            errors = module.fill(lambda key, place, prefix=prefix: weights.read(prefix + key, place))
        else:
            errors = []
            state = {key: weights.read(key) for key in own}
            module._load_from_state_dict(state, prefix, {}, True, [], [], errors)
        if errors:
            raise CheckpointError(f"{path / WEIGHTS}: the tensors are not those of the model: {'; '.join(errors)}")
        filled |= own
    return filled


def _load_state(
    path: Path, model: nn.Module, state: dict[str, Tensor], assign: bool, filled: Set[str] = frozenset()
) -> None:
    """``filled``: names that have their values already."""
    try:
        result = model.load_state_dict(state, strict=not filled, assign=assign)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path / WEIGHTS}: the tensors are not those of the model: {error}") from error
    wrong = {"Missing": result.missing_keys, "Unexpected": result.unexpected_keys}
    lists = [f"{what}: {some(left)}" for what, names in wrong.items() if (left := sorted({*names} - filled))]
    if lists:
        raise CheckpointError(f"{path / WEIGHTS}: the tensors are not those of the model: {'; '.join(lists)}")


def _restore_buffers(path: Path, model: nn.Module, weights: Weights) -> None:
    for name in rebuild.buffers_to_keep(model):
        if name not in weights.buffers:
            raise CheckpointError(
                f"{path / WEIGHTS}: the buffer {name} is missing: this version of the model class has one that the "
                "saved model had not; build the model in your code and call load(path, into=model)"
            )
        parent, _, own = name.rpartition(".")
        model.get_submodule(parent)._buffers[own] = weights.read_buffer(name)


def _tie(model: nn.Module, aliases: dict[str, str]) -> None:
    """Let shared parameters be one object again."""
    for alias, name in aliases.items():
        source, target = (model.get_submodule(n.rpartition(".")[0])._parameters for n in (name, alias))
        parameter = source.get(name.rpartition(".")[2])
        if parameter is not None and alias.rpartition(".")[2] in target:
            target[alias.rpartition(".")[2]] = parameter
