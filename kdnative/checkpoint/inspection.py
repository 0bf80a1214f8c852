"""What a checkpoint holds, told from its description alone."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch

from kdnative.checkpoint.folder import read_manifest
from kdnative.checkpoint.manifest import BUFFER, MANIFEST, CheckpointError, reason_of
from kdnative.checkpoint.settings import read_image_input
from kdnative.formats.scheme import Scheme
from kdnative.nn.encoder_spec import LINEARS

__all__ = ["file_size", "inspect"]

_ENCODERS = ("kdnative.nn.Encoder", "kdnative.nn.EncoderLayer", "kdnative.nn.TransformerEncoder")
_CONVNET = "kdnative.nn.ConvNet"


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint holds, from its description alone (no model is built, the weights are not read).

    Returns:
        ``{"path", "format", "kdnative", "model", "rebuild", "modules": [{"name", "kind", "scheme", "shape", "bytes"}],
        "image_input", "totals": {"modules", "tensors", "bytes", "file_bytes"}}``; bytes are those stored. A fused
        encoder has a row for each of its parts, a network of convolutions one for each convolution. ``image_input`` is
        how the model is given pictures, :meth:`kdnative.nn.ImageInput.to_json`, or None.

    Raises:
        CheckpointError: there is no readable description.
    """
    path = Path(path)
    manifest = read_manifest(path)
    tensors = manifest["weights"]["tensors"]
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for name, tensor in tensors.items():
        if not name.startswith(BUFFER):
            parent, _, own = name.rpartition(".")
            groups.setdefault(parent, {})[own] = tensor
    try:
        rows = [_row(name, group, manifest["modules"]) for name, group in groups.items()]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path / MANIFEST}: damaged: its modules and tensors do not agree: {error!r}") from error
    try:
        read_image_input(manifest["image_input"])
    except ValueError as error:
        raise CheckpointError(f"{path / MANIFEST}: damaged: {error}") from error
    return {
        "path": str(path),
        "format": manifest["format"],
        "kdnative": manifest["kdnative"],
        "model": manifest["modules"][""]["class"],
        "rebuild": manifest["rebuild"],
        "modules": rows,
        "image_input": manifest["image_input"],
        "totals": {
            "modules": len(rows),
            "tensors": len(tensors),
            "bytes": sum(map(_stored_bytes, tensors.values())),
            "file_bytes": manifest["weights"]["bytes"],
        },
    }


def file_size(path: str | os.PathLike[str]) -> int:
    """Bytes of the weights: of a file, of a checkpoint, or of all ``.safetensors`` files of a Hugging Face folder.

    Raises:
        CheckpointError: there is no such file, or it can't be read.
    """
    path = Path(path)
    try:
        if (path / MANIFEST).is_file():
            return (path / str(read_manifest(path)["weights"]["file"])).stat().st_size
        files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
        if not files:
            raise CheckpointError(f"{path}: there is no .safetensors file")
        return sum(file.stat().st_size for file in files)
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {reason_of(error)}") from error


def _row(name: str, tensors: dict[str, dict[str, Any]], modules: dict[str, dict[str, Any]]) -> dict[str, Any]:
    entry, codes = modules.get(name), tensors.get("qweight")
    if entry is not None:
        kind, scheme = entry["class"], entry.get("config", {}).get("scheme")
    else:
        kind, scheme = _part_of_fused(name, modules)
    weight = codes or tensors.get("weight")
    shape = None if weight is None else list(weight["shape"])
    if codes is not None and scheme is None:
        scheme = "int8"  # embedding tables
    elif codes is not None and codes["dtype"] == "uint8":
        shape = [*codes["shape"][:-1], codes["shape"][-1] * 8 // Scheme.parse(scheme).weight_bits]
    return {
        "name": name,
        "kind": kind,
        "scheme": scheme,
        "shape": shape,
        "bytes": sum(map(_stored_bytes, tensors.values())),
    }


def _part_of_fused(name: str, modules: dict[str, dict[str, Any]]) -> tuple[str, str | None]:
    """What a part of a fused module is, and its scheme if it is a linear or a convolution."""
    outer = name
    while outer and outer not in modules:
        outer = outer.rpartition(".")[0]
    entry, inner = modules[outer], name[len(outer) :].lstrip(".").split(".")
    if entry["class"] == _CONVNET:
        return f"part of {_CONVNET}", "w8a8"
    if entry["class"] not in _ENCODERS:
        raise ValueError(f"{name} is in no module of the table")
    scheme = None
    if inner == ["pooler"]:
        scheme = entry["config"]["pooler"]
    elif len(inner) == 3 and inner[0] == "layers" and inner[2] in LINEARS:
        scheme = entry["config"]["layers"][int(inner[1])].get(inner[2])
    return f"part of {entry['class']}", scheme


def _stored_bytes(tensor: dict[str, Any]) -> int:
    dtype: torch.dtype = getattr(torch, tensor["dtype"])
    return int(math.prod(tensor["shape"])) * dtype.itemsize
