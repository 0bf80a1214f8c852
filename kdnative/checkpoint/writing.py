"""Writing a checkpoint: plain tensors and a description, put into a folder in which other files may lie."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import kdnative
from kdnative.checkpoint import structure
from kdnative.checkpoint.describing import describe
from kdnative.checkpoint.hub_files import write_config
from kdnative.checkpoint.manifest import (
    BUFFER,
    FORMAT,
    MANIFEST,
    CheckpointError,
    dtype_name,
    encode,
    reason_of,
    weights_name,
)
from kdnative.checkpoint.placing import check_folder, place, staging
from kdnative.checkpoint.settings import frozen_parameters, generation_settings, image_input_of
from kdnative.files import sha256_of

__all__ = ["save"]


def save(model: nn.Module, path: str | os.PathLike[str], *, tokenizer: Any = None, beside: bool = False) -> Path:
    """Write a checkpoint into a folder, or replace the one that is there.

    The old checkpoint is in place until the new one is complete; then one rename of ``kdnative.json`` makes the change.
    A reader gets the old model or the new one, whole, and so does whoever comes after a failure or a kill. Files of
    other names stay as they are, and so do the folder's owner and permissions; a replaced file hands its own on. What
    a killed save has left in the folder is removed by the next one.

    Args:
        model: converted, pruned, or plain float; on any device.
            A :class:`kdnative.nn.ImageInput` that it has as ``preprocess`` is saved with it.
        path: the folder. It and its parents are created; it may be a mount point, or a link to a folder.
        tokenizer: a tokenizer or image processor, anything with ``save_pretrained(folder)``, saved beside the model.
            Its files replace those that an earlier `save` wrote, and nothing else.
        beside: write into a folder that holds other files and no checkpoint yet, too.

    Returns:
        ``path``.

    Raises:
        CheckpointError: the folder can't be read or written; it holds something else than a kdnative checkpoint, or a
            file of the user's that has the name of a file to write; or the model has tensors without values or of a
            kind that can't be stored, or such a generation config. The text says what is in the folder then.
    """
    path = Path(path)
    folder = Path(os.path.realpath(path))
    try:
        check_folder(folder, beside)
    except OSError as error:
        raise CheckpointError(f"{path}: what is there can't be read: {reason_of(error)}") from error
    tensors, aliases = _plain_tensors(model)
    described = describe(model)
    try:
        generation = generation_settings(model)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    plain = structure.plain_tensors(model)
    extra = {**structure.buffers_to_keep(model), **{name: plain[name] for name in described["plain"]}}
    places = {tensor.data_ptr() for tensor in tensors.values()}
    for name, tensor in extra.items():
        stored = _storable(name, tensor)
        if stored.data_ptr() in places:  # Llama holds its frequencies twice; a file has no tensors that share memory
            stored = stored.clone()
        places.add(stored.data_ptr())
        tensors[BUFFER + name] = stored
    try:
        with staging(folder, beside) as stage:
            if tokenizer is not None:
                tokenizer.save_pretrained(str(stage.companions))
            write_config(stage.companions, model, described)
            weights, digest = _write_tensors(stage.path, tensors)
            manifest = {
                "format": FORMAT,
                "kdnative": kdnative.__version__,
                "torch": torch.__version__,
                "weights": {
                    "file": weights.name,
                    "bytes": weights.stat().st_size,
                    "sha256": digest,
                    "tensors": {n: {"shape": list(t.shape), "dtype": dtype_name(t.dtype)} for n, t in tensors.items()},
                    "aliases": aliases,
                },
                **described,
                "generation": generation,
                "image_input": image_input_of(model),
                "frozen": frozen_parameters(model),
            }
            place(stage, lambda files: encode({**manifest, "files": files}))
    except CheckpointError:
        raise
    except Exception as error:  # safetensors and tokenizers raise errors of their own kinds
        raise CheckpointError(
            f"{path}: the checkpoint could not be written: {error}; {_what_is_there(folder)}"
        ) from error
    return path


def _what_is_there(folder: Path) -> str:
    """Whatever failed before the description was exchanged has changed nothing."""
    return "the folder holds the old one" if (folder / MANIFEST).exists() else "the folder holds none"


def _plain_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state dict, every tensor once, and ``{other name: name}`` for those that several names share."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{name}: a {type(value).__name__} can't be stored, only tensors")
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() and not value.is_meta and key in first:
            aliases[name] = first[key]
            continue
        first[key] = name
        tensors[name] = _storable(name, value)
    return tensors, aliases


def _storable(name: str, tensor: Tensor) -> Tensor:
    """On the CPU, contiguous, and sharing no memory with another tensor."""
    if tensor.is_meta:
        raise CheckpointError(f"{name} is on the meta device: it has no values to save")
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise CheckpointError(f"{name} is a {tensor.layout} tensor; only dense ones can be stored")
    tensor = tensor.detach().cpu().contiguous()
    own = tensor.numel() * tensor.element_size()
    return tensor if tensor.untyped_storage().nbytes() == own else tensor.clone()


def _write_tensors(folder: Path, tensors: dict[str, Tensor]) -> tuple[Path, str]:
    """The file, named after its content, and its SHA-256."""
    from safetensors.torch import save_file

    file, usual = folder / "tensors", folder / "usual"
    save_file(tensors, str(file), metadata={"format": "pt"})
    usual.touch()
    shutil.copymode(usual, file)  # safetensors makes files that only the owner can read
    usual.unlink()
    digest = sha256_of(file)
    return file.rename(folder / weights_name(digest)), digest
