"""``kdnative.json``: what a checkpoint says of itself, and the checks before anything else believes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import kdnative

__all__ = [
    "BUFFER",
    "FORMAT",
    "MANIFEST",
    "WEIGHTS",
    "CheckpointError",
    "digest_of",
    "dtype_name",
    "read_manifest",
    "reason_of",
    "some",
]

FORMAT = 1
WEIGHTS = "model.safetensors"
MANIFEST = "kdnative.json"
BUFFER = "buffer:"  # prefix of tensors that are not in the state dict but that the model needs

_FIELDS = {"kdnative": str, "weights": dict, "modules": dict, "attributes": dict, "rebuild": str, "sha256": str}
_LATER_FIELDS = {"frozen": (str, list), "generation": dict, "plain": list, "why": str}  # older checkpoints lack them
_WEIGHT_FIELDS = {"bytes": int, "sha256": str, "tensors": dict, "aliases": dict}


class CheckpointError(RuntimeError):
    """A checkpoint can't be written or read; the text names the file and says why."""


def read_manifest(path: Path) -> dict:
    """The description in a checkpoint's folder; its tables have the fields and types that they must have.

    Raises:
        CheckpointError: it is missing, can't be read, is damaged, changed, or of another format.
    """
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file}: there is no such file; is {path} a kdnative checkpoint?") from None
    except NotADirectoryError:
        raise CheckpointError(
            f"{path}: this is a file, or lies below one; a checkpoint is the folder that holds {MANIFEST}: give that"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{file}: can't be read: {reason_of(error)}") from error
    except (RecursionError, ValueError) as error:
        raise CheckpointError(f"{file}: damaged: {error}") from error
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        raise CheckpointError(
            f"{file}: format {version!r}; kdnative {kdnative.__version__} reads format {FORMAT}"
            + (f": it was written by kdnative {manifest.get('kdnative')}, upgrade to that" if newer else "")
        )
    _check_fields(file, manifest, _FIELDS)
    _check_fields(file, manifest, {name: kind for name, kind in _LATER_FIELDS.items() if name in manifest})
    if manifest["sha256"] != digest_of(manifest):
        raise CheckpointError(f"{file}: changed since it was saved: its SHA-256 is not the one that it states")
    _check_fields(file, manifest["weights"], _WEIGHT_FIELDS)
    tensors, modules = manifest["weights"]["tensors"], manifest["modules"]
    sound = all(isinstance(m, dict) and isinstance(m.get("class"), str) for m in modules.values())
    if not sound or "" not in modules or not all(map(_is_tensor_entry, tensors.values())):
        raise CheckpointError(f"{file}: damaged: its tables of tensors and modules are not well-formed")
    return manifest


def digest_of(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a description's content without its own entry ``sha256``, hexadecimal."""
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    content = json.loads(json.dumps(content))  # as it is read: keys that are numbers become text, and sort as text
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_tensor_entry(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("shape"), list):
        return False
    dtype = getattr(torch, str(value.get("dtype")), None)
    return isinstance(dtype, torch.dtype) and all(type(size) is int and size >= 0 for size in value["shape"])


def _check_fields(file: Path, table: dict, fields: Mapping[str, type | tuple[type, ...]]) -> None:
    for name, kind in fields.items():
        if not isinstance(table.get(name), kind):
            names = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
            raise CheckpointError(f"{file}: damaged: {name!r} is missing or not a {names}")


def reason_of(error: OSError) -> str:
    """Why the system refused a file, in words, and what can be done where that is known."""
    if isinstance(error, PermissionError):
        return "this user has no permission; ask its owner for it (chmod +r), or copy it as a user who has"
    if isinstance(error, IsADirectoryError):
        return "there is a folder of that name where a file is expected; save or copy the checkpoint again"
    return error.strerror or str(error)


def dtype_name(dtype: torch.dtype) -> str:
    """As the description has it: ``float32``."""
    return str(dtype).removeprefix("torch.")


def some(names: list[str]) -> str:
    """The first ten, and how many more there are."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
