"""Reading a checkpoint into a model."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.checkpoint import hostile, structure
from kdnative.checkpoint.manifest import MANIFEST, CheckpointError, some
from kdnative.checkpoint.places import takes_place_of
from kdnative.checkpoint.settings import (
    freeze,
    read_generation,
    read_image_input,
    set_generation,
    set_image_input,
)
from kdnative.checkpoint.weights import Weights, open_checkpoint
from kdnative.nn import ConvNet, Encoder, Linear, PackedEncoder
from kdnative.nn.saving import set_save_pretrained
from kdnative.nn.tree import NATIVE, become, walk
from kdnative.ops.forks import one_thread

__all__ = ["load"]

_MOST_DERIVED = 32 << 20
"""Bytes of rotary angles and the like that an encoder may have beside its tensors, however small these are."""


def load(path: str | os.PathLike[str], into: nn.Module | None = None) -> nn.Module:
    """Read a checkpoint. It runs no code from the files, opens no connection and asks no questions.

    A process that saves into the folder meanwhile does no harm: the result is the old model or the new one, whole.

    A model that was saved with a :class:`kdnative.nn.ImageInput` as its ``preprocess`` has it again, and ``classes``:
    ``model(model.preprocess("picture.png"))``.

    The model computes, and generates, what the saved one did: tensors have the types in which they were saved,
    transformers' models the generation config, and parameters that were frozen (``requires_grad=False``) are frozen.

    Args:
        path: the folder.
        into: a model of the original classes, float or converted, to be given the checkpoint's native modules, shapes
            and tensors in place. The checkpoint's types win: what it has in bfloat16 becomes bfloat16 in a float32
            model too (``.to(dtype)`` afterwards gives another). What the model has frozen stays so, and its hooks stay
            except on layers that become native. Where the whole model was one encoder or layer, it becomes the native
            module: the same object, of another class, as :func:`kdnative.convert_` does it. None rebuilds the model:
            the kinds of models of transformers that :mod:`kdnative.checkpoint.allowed` lists, and trees of
            ``nn.Sequential``, ``nn.ModuleList`` and ``nn.ModuleDict`` with layers of torch.nn and kdnative; not one
            with hooks, or with a forward set on an instance, which no file holds.

    Returns:
        The model, on the CPU and in eval mode; ``into`` itself where it is given, on its device and in its mode.

    Raises:
        CheckpointError: a file is missing, can't be read, is damaged, changed, or of another version; the tensors are
            not those of the model; or the model can't be rebuilt, and ``into`` is needed. ``into`` has its old modules
            and types then.
    """
    path = Path(path)
    manifest, weights = open_checkpoint(path)
    with weights, one_thread():
        try:
            image_input = read_image_input(manifest["image_input"])
            _check_natives(path, manifest, weights, configurations=into is None)
            model = _rebuild(path, manifest, weights) if into is None else _fill(path, manifest, weights, into)
        except (CheckpointError, ImportError):
            raise
        except Exception as error:  # whatever a damaged or foreign description makes a constructor raise
            text = str(error) or type(error).__name__
            raise CheckpointError(f"{path / MANIFEST}: the model can't be rebuilt: {text}") from error
    set_image_input(model, image_input)
    if "transformers" in sys.modules:
        from kdnative.checkpoint.auto_classes import register

        register()
    model._kdnative_folder = str(path)  # type: ignore[assignment] # whose tokenizer and card push_to_hub sends
    return model


def _check_natives(path: Path, manifest: dict[str, Any], weights: Weights, configurations: bool) -> None:
    """Whether the tensors of native modules are there, before anything is made as large as the description says.

    ``configurations``: whether those of encoders are going to be used.
    """
    natives = [(NATIVE[entry["class"]], entry) for entry in manifest["modules"].values() if entry["class"] in NATIVE]
    fused = [(cls, entry["config"]) for cls, entry in natives if issubclass(cls, (ConvNet, PackedEncoder))]
    try:
        for name, shape in structure.native_shapes(manifest["modules"]):
            _check_shape(weights, name, shape)
        for _, config in fused if configurations else ():
            if plain := config.get("transformers"):
                hostile.check_config(plain)
        derived = sum(cls.derived_bytes(config) for cls, config in fused)
    except ValueError as error:
        raise CheckpointError(f"{path / MANIFEST}: the model can't be rebuilt: {error}") from error
    if derived > _MOST_DERIVED + 4 * weights.bytes:
        raise CheckpointError(
            f"{path / MANIFEST}: damaged: its native modules would have {derived:,} bytes beside {weights.bytes:,} "
            "bytes of tensors"
        )


def _check_shape(weights: Weights, name: str, shape: Sequence[int]) -> None:
    if name not in weights.shapes:
        raise CheckpointError(f"{weights.file}: {name} is missing; the model needs it")
    if weights.shapes[name] != list(shape):
        raise CheckpointError(f"{weights.file}: {name} has shape {weights.shapes[name]}, the model needs {list(shape)}")


def _rebuild(path: Path, manifest: dict[str, Any], weights: Weights) -> nn.Module:
    if manifest["rebuild"] == "into":
        root = manifest["modules"][""]["class"]
        raise CheckpointError(
            f"{path}: a {root} can't be rebuilt from a file, because {manifest['why']}; build it in your code and call "
            "load(path, into=model)"
        )
    try:
        return _built(manifest, weights)
    except structure.NotBuilt as error:
        raise CheckpointError(f"{path}: the model is not built from this file: {error}") from error


def _built(manifest: dict[str, Any], weights: Weights) -> nn.Module:
    model = structure.build(manifest, len(weights.shapes))
    set_generation(model, read_generation(manifest["generation"]))
    _check_shapes(model, weights)
    filled = _fill_packed(model, weights)
    _load_state(model, weights, weights.state(without=filled), assign=True, filled=filled)
    _restore_buffers(model, weights)
    _tie(model, manifest["weights"]["aliases"])
    freeze(model, manifest["frozen"])
    set_save_pretrained(model, tuple(NATIVE.values()))
    return model.eval()


def _fill(path: Path, manifest: dict[str, Any], weights: Weights, model: nn.Module) -> nn.Module:
    """Load into the caller's model; its old modules and types come back if that fails."""
    root = manifest["modules"][""]
    if root["class"] in structure.ROOTS:
        _check_kind(path, root, model)
        if type(model) is not structure.ROOTS[root["class"]]:
            native = _built({**manifest, "rebuild": "modules"}, weights).train(model.training)
            if isinstance(native, Encoder):
                native.adopt(getattr(model, "config", None))
            become(model, native)
            return model
    before = [(module, dict(module._modules)) for module in model.modules()]
    other_types: list[tuple[Tensor, Tensor]] = []
    try:
        generation = read_generation(manifest["generation"])
        structure.fit(model, manifest["modules"], shapes=weights.shapes)
        _check_shapes(model, weights)
        _take_types_and_buffers(model, weights, other_types)
        filled = _fill_packed(model, weights)
        _load_state(model, weights, weights.state(without=filled), assign=False, filled=filled)
        structure.set_attributes(model, manifest["attributes"])
        set_generation(model, generation)
    except Exception as error:
        for module, children in before:
            module._modules = children
        for tensor, data in other_types:
            tensor.data = data
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: it does not fit into the given {type(model).__name__}: {error}") from error
    if root["class"] in NATIVE and "dtype" in root["config"]:
        model.to(getattr(torch, root["config"]["dtype"]))  # of its output: fit() gives it to modules inside of others
    freeze(model, manifest["frozen"])
    set_save_pretrained(model, tuple(NATIVE.values()))
    return model


def _check_kind(path: Path, root: dict[str, Any], model: nn.Module) -> None:
    """A checkpoint of one native module goes into one like it, or in place of the float one that it was."""
    if takes_place_of(root, model):
        return
    text = (
        f"{path}: it holds a {root['class']}, which can't take the place of this {type(model).__name__}: the model "
        "to load into must be of the kind, sizes and settings of the converted one"
    )
    parts = [name for name, module in model.named_modules() if name and takes_place_of(root, module)]
    if len(parts) == 1:
        text += f"; its part {parts[0]} is: load(path, into=model.get_submodule({parts[0]!r}))"
    raise CheckpointError(text)


def _check_shapes(model: nn.Module, weights: Weights) -> None:
    """Before anything is copied: torch reports a wrong shape only after it has copied what was right."""
    for name, tensor in structure.float_tensors(model).items():
        _check_shape(weights, name, tensor.shape)


def _take_types_and_buffers(model: nn.Module, weights: Weights, before: list[tuple[Tensor, Tensor]]) -> None:
    """Give float parameters and buffers of the caller's model the types of the saved ones, before they are copied.

    Native modules compute in the type of the model that was converted; beside float ones of another type they would
    fail at the first call. Buffers that no state dict has get their values too: a change of type would round what the
    caller's model holds. ``before`` gets each tensor that changes, and what it held.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        dtype = weights.dtypes.get(name, tensor.dtype)
        if name in weights.buffers and (saved := weights.read_buffer(name)).shape == tensor.shape:
            data = saved.to(tensor.device)
        elif dtype != tensor.dtype and dtype.is_floating_point and tensor.is_floating_point():
            data = tensor.data.to(dtype)
        else:
            continue
        before.append((tensor, tensor.data))
        if tensor.dtype != dtype:
            tensor.grad = None  # of values that go, and of a type that no longer fits
        tensor.data = data


def _fill_packed(model: nn.Module, weights: Weights) -> set[str]:
    """Give encoders and linears their weights part by part, and return the names of these.

    Tables of encoders are read into the packed weights; of the rest one part at a time is in memory beside them.
    """
    filled: set[str] = set()
    for name, module in walk(model):
        if not isinstance(module, (ConvNet, PackedEncoder, Linear)):
            continue
        prefix = f"{name}." if name else ""
        own = {prefix + key for key in module.plain_names()}
        if not own <= weights.shapes.keys():
            continue  # load_state_dict says what is missing
        if isinstance(module, (ConvNet, PackedEncoder)):
            errors = module.fill(partial(_read_below, weights, prefix))
        else:
            errors = []
            state = {key: weights.read(key) for key in own}
            module._load_from_state_dict(state, prefix, {}, True, [], [], errors)  # type: ignore[no-untyped-call] # torch's
        if errors:
            raise CheckpointError(f"{weights.file}: the tensors are not those of the model: {'; '.join(errors)}")
        filled |= own
    return filled


def _read_below(weights: Weights, prefix: str, key: str, place: Tensor | None) -> Tensor:
    return weights.read(prefix + key, place)


def _load_state(
    model: nn.Module, weights: Weights, state: dict[str, Tensor], assign: bool, filled: Set[str] = frozenset()
) -> None:
    """``filled``: names that have their values already."""
    try:
        result = model.load_state_dict(state, strict=not filled, assign=assign)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{weights.file}: the tensors are not those of the model: {error}") from error
    wrong = {"Missing": result.missing_keys, "Unexpected": result.unexpected_keys}
    lists = [f"{what}: {some(left)}" for what, names in wrong.items() if (left := sorted({*names} - filled))]
    if lists:
        raise CheckpointError(f"{weights.file}: the tensors are not those of the model: {'; '.join(lists)}")


def _restore_buffers(model: nn.Module, weights: Weights) -> None:
    for name in (*structure.buffers_to_keep(model), *structure.plain_tensors(model)):
        if name not in weights.buffers:
            raise CheckpointError(
                f"{weights.file}: the tensor {name} is missing: this version of the model class has one that the "
                "saved model had not; build the model in your code and call load(path, into=model)"
            )
        parent, _, own = name.rpartition(".")
        module = model.get_submodule(parent)
        if own in module._buffers:
            module._buffers[own] = weights.read_buffer(name)
        else:
            setattr(module, own, weights.read_buffer(name))


def _tie(model: nn.Module, aliases: dict[str, str]) -> None:
    """Let shared parameters be one object again."""
    for alias, name in aliases.items():
        source, target = (model.get_submodule(n.rpartition(".")[0])._parameters for n in (name, alias))
        parameter = source.get(name.rpartition(".")[2])
        if parameter is not None and alias.rpartition(".")[2] in target:
            target[alias.rpartition(".")[2]] = parameter
