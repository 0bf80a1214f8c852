"""Writing a checkpoint: the folder appears complete, or not at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import kdnative
from kdnative import rebuild
from kdnative.files import replace_folder, sha256_of

from .describing import describe
from .manifest import BUFFER, FORMAT, MANIFEST, WEIGHTS, CheckpointError, digest_of, dtype_name, reason_of
from .settings import frozen_parameters, generation_settings

__all__ = ["save"]


def save(model: nn.Module, path: str | os.PathLike, *, tokenizer: Any = None) -> Path:
    """Write a checkpoint folder, or replace one.

    The folder appears complete or not at all; when writing fails, an older checkpoint there is untouched. Files in the
    folder that `save` did not write stay in it.

    Args:
        model: converted, pruned, or plain float; on any device.
        path: the folder.
        tokenizer: anything with ``save_pretrained(folder)``, saved beside the model.

    Returns:
        The folder.

    Raises:
        CheckpointError: the folder can't be read or written, holds something else than a kdnative checkpoint, or the
            model has tensors without values or of a kind that can't be stored, or such a generation config.
    """
    path = Path(path)
    try:
        old = _files_of(path)
    except OSError as error:
        raise CheckpointError(f"{path}: what is there can't be read: {reason_of(error)}") from error
    tensors, aliases = _plain_tensors(model)
    structure = describe(model)
    try:
        generation = generation_settings(model)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    plain = rebuild.plain_tensors(model)
    beside = {**rebuild.buffers_to_keep(model), **{name: plain[name] for name in structure.get("plain", ())}}
    tensors |= {BUFFER + name: _storable(name, t) for name, t in beside.items()}

    def write(folder: Path) -> None:
        if tokenizer is not None:
            tokenizer.save_pretrained(str(folder))
        if structure["transformers"] is not None:
            _write_json(folder / "config.json", structure["transformers"]["config"])
        _write_tensors(folder / WEIGHTS, tensors)
        manifest = {
            "format": FORMAT,
            "kdnative": kdnative.__version__,
            "torch": torch.__version__,
            "weights": {
                "file": WEIGHTS,
                "bytes": (folder / WEIGHTS).stat().st_size,
                "sha256": sha256_of(folder / WEIGHTS),
                "tensors": {n: {"shape": list(t.shape), "dtype": dtype_name(t.dtype)} for n, t in tensors.items()},
                "aliases": aliases,
            },
            **structure,
            "generation": generation,
            "frozen": frozen_parameters(model),
            "files": sorted([MANIFEST, *(entry.name for entry in folder.iterdir())]),
        }
        _write_json(folder / MANIFEST, {**manifest, "sha256": digest_of(manifest)})
        shutil.copymode(folder / MANIFEST, folder / WEIGHTS)  # safetensors makes files that only the owner can read

    try:
        replace_folder(path, write, old)
    except CheckpointError:
        raise
    except Exception as error:  # safetensors and tokenizers raise errors of their own kinds
        raise CheckpointError(f"{path}: the checkpoint could not be written: {error}") from error
    return path


def _files_of(path: Path) -> set[str]:
    """Names of the files that an earlier `save` wrote to ``path``; refuses folders that are something else."""
    if not path.exists():
        return set()
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is a file of that name; a checkpoint is a folder")
    if not any(path.iterdir()):
        return set()
    if not (path / MANIFEST).is_file():
        raise CheckpointError(
            f"{path}: the folder is not empty and not a kdnative checkpoint (it has no {MANIFEST}); "
            "give another folder, or empty this one"
        )
    try:
        files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
        return {str(name) for name in files} | {MANIFEST, WEIGHTS}
    except (RecursionError, ValueError, KeyError, TypeError):  # damaged: replacing it is a way to repair it
        return {MANIFEST, WEIGHTS}


def _plain_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state dict, every tensor once, and ``{other name: name}`` for those that several names share."""
    tensors, aliases, first = {}, {}, {}
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


def _write_tensors(file: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, str(file), metadata={"format": "pt"})


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
