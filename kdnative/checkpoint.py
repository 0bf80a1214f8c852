"""Checkpoints: a folder of plain tensors and a description of the model, the same on every machine.

::

    model.safetensors   the state dict: plain tensors, each stored once
    kdnative.json       format and library version, shapes and dtypes, SHA-256 of model.safetensors, the modules
    config.json         Hugging Face configuration, when the model is one of transformers; tokenizer files if given

Loading runs no code from a checkpoint: no pickle, and only classes of torch.nn, kdnative and transformers' models.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import kdnative
from kdnative import rebuild
from kdnative.files import replace_folder, sha256_of
from kdnative.nn.encoder_parts import LINEARS
from kdnative.scheme import Scheme

__all__ = ["FORMAT", "CheckpointError", "file_size", "inspect", "load", "save"]

FORMAT = 1
WEIGHTS = "model.safetensors"
MANIFEST = "kdnative.json"
_BUFFER = "buffer:"  # prefix of tensors that are not in the state dict but that the model needs


class CheckpointError(RuntimeError):
    """A checkpoint can't be written or read; the text names the file and says why."""


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
        CheckpointError: the folder can't be written, holds something else than a kdnative checkpoint, or the model has
            tensors without values or of a kind that can't be stored.
    """
    path = Path(path)
    old = _files_of(path)
    tensors, aliases = _plain_tensors(model)
    structure = rebuild.describe(model)
    tensors |= {_BUFFER + name: _storable(name, t) for name, t in rebuild.buffers_to_keep(model).items()}

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
                "tensors": {n: {"shape": list(t.shape), "dtype": _name(t.dtype)} for n, t in tensors.items()},
                "aliases": aliases,
            },
            **structure,
            "files": sorted([MANIFEST, *(entry.name for entry in folder.iterdir())]),
        }
        _write_json(folder / MANIFEST, manifest)
        shutil.copymode(folder / MANIFEST, folder / WEIGHTS)  # safetensors makes files that only the owner can read

    try:
        replace_folder(path, write, old)
    except CheckpointError:
        raise
    except Exception as error:  # safetensors and tokenizers raise errors of their own kinds
        raise CheckpointError(f"{path}: the checkpoint could not be written: {error}") from error
    return path


def load(path: str | os.PathLike, into: nn.Module | None = None) -> nn.Module:
    """Read a checkpoint.

    Args:
        path: the folder.
        into: a model of the original classes, float or converted, to be given the checkpoint's native modules, shapes
            and tensors in place. None rebuilds the model: transformers' models, and trees of ``nn.Sequential``,
            ``nn.ModuleList`` and ``nn.ModuleDict`` with layers of torch.nn and kdnative.

    Returns:
        The model, on the CPU and in eval mode; ``into`` itself where it is given, on its device and in its mode.

    Raises:
        CheckpointError: a file is missing, damaged, changed, or of another version; the tensors are not those of the
            model; or the model can't be rebuilt, and ``into`` is needed. ``into`` has its old modules then.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    state, buffers = _read_tensors(path, manifest)
    if into is not None:
        return _fill(path, manifest, state, into)
    if manifest["rebuild"] == "into":
        root = manifest["modules"][""]["class"]
        raise CheckpointError(
            f"{path}: a {root} can't be rebuilt from a file, because it is not made of torch.nn layers in containers, "
            "nor a transformers model; build it in your code and call load(path, into=model)"
        )
    try:
        model = rebuild.build(manifest)
    except ImportError:
        raise
    except Exception as error:  # whatever a damaged or foreign description makes a constructor raise
        raise CheckpointError(f"{path / MANIFEST}: the model can't be rebuilt: {error}") from error
    _check_shapes(path, model, state)
    filled = _fill_encoders(path, manifest, model, state)
    _load_state(path, model, state, assign=True, filled=filled)
    _restore_buffers(path, model, buffers)
    _tie(model, manifest["weights"]["aliases"])
    return model.eval()


def inspect(path: str | os.PathLike) -> dict:
    """What a checkpoint holds, from its description alone (no model is built, the weights are not read).

    Returns:
        ``{"path", "format", "kdnative", "model", "rebuild", "modules": [{"name", "kind", "scheme", "shape", "bytes"}],
        "totals": {"modules", "tensors", "bytes", "file_bytes"}}``; bytes are those stored. A fused encoder has a row
        for each of its parts.

    Raises:
        CheckpointError: there is no readable description.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    tensors = manifest["weights"]["tensors"]
    groups: dict[str, dict[str, dict]] = {}
    for name, tensor in tensors.items():
        if not name.startswith(_BUFFER):
            parent, _, own = name.rpartition(".")
            groups.setdefault(parent, {})[own] = tensor
    try:
        rows = [_row(name, group, manifest["modules"]) for name, group in groups.items()]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path / MANIFEST}: damaged: its modules and tensors do not agree: {error!r}") from error
    return {
        "path": str(path),
        "format": manifest["format"],
        "kdnative": manifest["kdnative"],
        "model": manifest["modules"][""]["class"],
        "rebuild": manifest["rebuild"],
        "modules": rows,
        "totals": {
            "modules": len(rows),
            "tensors": len(tensors),
            "bytes": sum(map(_stored_bytes, tensors.values())),
            "file_bytes": file_size(path),
        },
    }


def file_size(path: str | os.PathLike) -> int:
    """Bytes of the weights: of a file, or of all ``.safetensors`` files of a folder (kdnative or Hugging Face).

    Raises:
        CheckpointError: there is no such file.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{path}: there is no .safetensors file")
    return sum(file.stat().st_size for file in files)


# -- writing -----------------------------------------------------------------------------------------------------------


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
    except (ValueError, KeyError, TypeError):  # damaged: replacing it is a way to repair it
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


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# -- reading -----------------------------------------------------------------------------------------------------------

_FIELDS = {"kdnative": str, "weights": dict, "modules": dict, "attributes": dict, "rebuild": str}
_WEIGHT_FIELDS = {"bytes": int, "sha256": str, "tensors": dict, "aliases": dict}


def _read_manifest(path: Path) -> dict:
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file}: there is no such file; is {path} a kdnative checkpoint?") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: damaged or unreadable: {error}") from error
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        raise CheckpointError(
            f"{file}: format {version!r}; kdnative {kdnative.__version__} reads format {FORMAT}"
            + (f": it was written by kdnative {manifest.get('kdnative')}, upgrade to that" if newer else "")
        )
    _check_fields(file, manifest, _FIELDS)
    _check_fields(file, manifest["weights"], _WEIGHT_FIELDS)
    tensors, modules = manifest["weights"]["tensors"], manifest["modules"]
    sound = all(isinstance(m, dict) and isinstance(m.get("class"), str) for m in modules.values())
    if not sound or "" not in modules or not all(map(_is_tensor_entry, tensors.values())):
        raise CheckpointError(f"{file}: damaged: its tables of tensors and modules are not well-formed")
    return manifest


def _is_tensor_entry(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("shape"), list):
        return False
    dtype = getattr(torch, str(value.get("dtype")), None)
    return isinstance(dtype, torch.dtype) and all(type(size) is int and size >= 0 for size in value["shape"])


def _check_fields(file: Path, table: dict, fields: Mapping[str, type]) -> None:
    for name, kind in fields.items():
        if not isinstance(table.get(name), kind):
            raise CheckpointError(f"{file}: damaged: {name!r} is missing or not a {kind.__name__}")


def _read_tensors(path: Path, manifest: dict) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The state dict with shared tensors under all their names, and the buffers beside it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file, expected = path / WEIGHTS, manifest["weights"]
    if not file.is_file():
        raise CheckpointError(f"{file}: there is no such file")
    size = file.stat().st_size
    if size != expected["bytes"]:
        what = "truncated" if size < expected["bytes"] else "changed"
        raise CheckpointError(f"{file}: {what}: {size} bytes, {MANIFEST} says {expected['bytes']}")
    if sha256_of(file) != expected["sha256"]:
        raise CheckpointError(f"{file}: changed since it was saved: its SHA-256 is not the one in {MANIFEST}")
    try:
        tensors = load_file(str(file))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: damaged: {error}") from error
    found = {name: {"shape": list(t.shape), "dtype": _name(t.dtype)} for name, t in tensors.items()}
    if found != expected["tensors"]:
        listed = expected["tensors"]
        wrong = sorted(name for name in found.keys() | listed.keys() if found.get(name) != listed.get(name))
        raise CheckpointError(f"{file}: these tensors are not as {MANIFEST} says: {_some(wrong)}")
    state = {name: t for name, t in tensors.items() if not name.startswith(_BUFFER)}
    for alias, name in expected["aliases"].items():
        if name not in state:
            raise CheckpointError(f"{path / MANIFEST}: {alias} stands for {name!r}, which is not there")
        state[alias] = state[name]
    return state, {name.removeprefix(_BUFFER): t for name, t in tensors.items() if name.startswith(_BUFFER)}


def _fill(path: Path, manifest: dict, state: dict[str, Tensor], model: nn.Module) -> nn.Module:
    """Load into the caller's model; its old modules come back if that fails."""
    before = [(module, dict(module._modules)) for module in model.modules()]
    root = manifest["modules"][""]["class"]
    if root in rebuild.NATIVE and type(model) is not rebuild.NATIVE[root]:
        raise CheckpointError(f"{path}: it holds a {root}, which can't be loaded into a {type(model).__name__}")
    try:
        rebuild.fit(model, manifest["modules"])
        _check_shapes(path, model, state)
        _load_state(path, model, state, assign=False)
        rebuild.set_attributes(model, manifest["attributes"])
    except Exception as error:
        for module, children in before:
            module._modules = children
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: it does not fit into the given {type(model).__name__}: {error}") from error
    return model


def _check_shapes(path: Path, model: nn.Module, state: dict[str, Tensor]) -> None:
    """Before anything is copied: torch reports a wrong shape only after it has copied what was right."""
    for name, tensor in rebuild.float_tensors(model).items():
        if name not in state:
            raise CheckpointError(f"{path / WEIGHTS}: {name} is missing; the model needs it")
        if state[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path / WEIGHTS}: {name} has shape {list(state[name].shape)}, the model needs {list(tensor.shape)}"
            )


def _fill_encoders(path: Path, manifest: dict, model: nn.Module, state: dict[str, Tensor]) -> set[str]:
    """Give fused encoders their weights part by part, and take these out of the state.

    Each tensor is read from a mapping of its own, which is gone when the part is packed. A mapping of the whole file
    would stay in memory beside the packed weights.
    """
    from safetensors import safe_open

    aliases = manifest["weights"]["aliases"]
    filled: set[str] = set()
    for name, module in rebuild.walk(model):
        if not isinstance(module, rebuild.Encoder):
            continue
        prefix = f"{name}." if name else ""
        own = {prefix + key for key in module.plain_names()}
        if not own <= state.keys():
            continue  # load_state_dict says what is missing

        def read(key: str, prefix: str = prefix) -> Tensor:
            with safe_open(str(path / WEIGHTS), framework="pt") as file:
                return file.get_tensor(aliases.get(prefix + key, prefix + key))

        errors = module.fill(read)
        if errors:
            raise CheckpointError(f"{path / WEIGHTS}: the tensors are not those of the model: {'; '.join(errors)}")
        filled |= own
        for key in own:
            del state[key]
    return filled


def _load_state(
    path: Path, model: nn.Module, state: dict[str, Tensor], assign: bool, filled: Set[str] = frozenset()
) -> None:
    """``filled``: names that have their values already."""
    try:
        result = model.load_state_dict(state, strict=not filled, assign=assign)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path / WEIGHTS}: the tensors are not those of the model: {error}") from error
    wrong = sorted({*result.missing_keys, *result.unexpected_keys} - filled)
    if wrong:
        raise CheckpointError(f"{path / WEIGHTS}: these tensors are not those of the model: {_some(wrong)}")


def _restore_buffers(path: Path, model: nn.Module, buffers: dict[str, Tensor]) -> None:
    for name in rebuild.buffers_to_keep(model):
        if name not in buffers:
            raise CheckpointError(
                f"{path / WEIGHTS}: the buffer {name} is missing: this version of the model class has one that the "
                "saved model had not; build the model in your code and call load(path, into=model)"
            )
        parent, _, own = name.rpartition(".")
        model.get_submodule(parent)._buffers[own] = buffers[name]


def _tie(model: nn.Module, aliases: dict[str, str]) -> None:
    """Let shared parameters be one object again."""
    for alias, name in aliases.items():
        source, target = (model.get_submodule(n.rpartition(".")[0])._parameters for n in (name, alias))
        parameter = source.get(name.rpartition(".")[2])
        if parameter is not None and alias.rpartition(".")[2] in target:
            target[alias.rpartition(".")[2]] = parameter


# -- describing --------------------------------------------------------------------------------------------------------


def _row(name: str, tensors: dict[str, dict], modules: dict[str, dict]) -> dict:
    entry, codes = modules.get(name), tensors.get("qweight")
    if entry is not None:
        kind, scheme = entry["class"], entry.get("config", {}).get("scheme")
    else:
        kind, scheme = "part of kdnative.nn.Encoder", _scheme_in_encoder(name, modules)
    weight = codes or tensors.get("weight")
    shape = None if weight is None else list(weight["shape"])
    if codes is not None and scheme is None:
        scheme = "int8"  # embedding tables
    elif codes is not None and codes["dtype"] == "uint8":
        shape[-1] *= 8 // Scheme.parse(scheme).weight_bits
    return {
        "name": name,
        "kind": kind,
        "scheme": scheme,
        "shape": shape,
        "bytes": sum(map(_stored_bytes, tensors.values())),
    }


def _scheme_in_encoder(name: str, modules: dict[str, dict]) -> str | None:
    """The scheme of a linear inside a fused encoder; None for its other parts."""
    encoders = [(n, e) for n, e in modules.items() if e["class"] == "kdnative.nn.Encoder"]
    for outer, entry in encoders:
        inner = name.removeprefix(f"{outer}." if outer else "").split(".")
        if inner == ["pooler"]:
            return entry["config"]["pooler"]
        if len(inner) == 3 and inner[0] == "layers" and inner[2] in LINEARS:
            return entry["config"]["layers"][int(inner[1])].get(inner[2])
    return None


def _stored_bytes(tensor: dict) -> int:
    size = getattr(torch, tensor["dtype"]).itemsize
    for length in tensor["shape"]:
        size *= length
    return size


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
