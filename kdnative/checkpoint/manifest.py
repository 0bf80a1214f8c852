"""``kdnative.json``: what a checkpoint says of itself, and the checks before anything else believes it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch

import kdnative
from kdnative.shown import printable, shown

__all__ = [
    "BUFFER",
    "DTYPES",
    "FORMAT",
    "MANIFEST",
    "MOST_BYTES",
    "CheckpointError",
    "digest_of",
    "dtype_name",
    "encode",
    "is_companion_name",
    "is_weights_name",
    "parse",
    "reason_of",
    "some",
    "weights_name",
]

FORMAT = 2
MANIFEST = "kdnative.json"
BUFFER = "buffer:"  # prefix of tensors that are not in the state dict but that the model needs
MOST_BYTES = 16 << 20
"""Of a description: some hundred thousand tensors. Whatever it says costs memory and time before it can be checked."""

DTYPES = {  # the names of safetensors, and torch's
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "BF16": "bfloat16",
    "BOOL": "bool",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
_TORCH_NAMES = frozenset(DTYPES.values())
_WEIGHTS = re.compile(r"kdnative-[0-9a-f]{16}\.safetensors")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class CheckpointError(RuntimeError):
    """A checkpoint can't be written or read; the text names the file and says why."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))  # names from a file can hold anything, and end up on a terminal


def weights_name(sha256: str) -> str:
    """The name of a file of tensors: by its content, so that another content never takes its place."""
    return f"kdnative-{sha256[:16]}.safetensors"


def is_weights_name(name: str) -> bool:
    return _WEIGHTS.fullmatch(name) is not None


def encode(manifest: Mapping[str, Any]) -> bytes:
    """A description as its file holds it, with its SHA-256.

    Raises:
        CheckpointError: it is so large that `parse` would refuse it.
    """
    data = (json.dumps({**manifest, "sha256": digest_of(manifest)}, indent=1) + "\n").encode()
    if len(data) > MOST_BYTES:
        raise CheckpointError(
            f"the model has so many modules and tensors that their description takes {len(data):,} bytes; "
            f"{MOST_BYTES:,} are allowed: save its parts in folders of their own"
        )
    return data


def parse(data: bytes, file: Path) -> dict[str, Any]:
    """The description in the bytes of ``file``; everything in it has the type that it must have.

    Raises:
        CheckpointError: it is damaged, changed, or of another format.
    """
    try:
        manifest = json.loads(data.decode("utf-8"))
        version = manifest.get("format") if isinstance(manifest, dict) else None
        if type(version) is not int or version != FORMAT:
            raise CheckpointError(f"{file}: {_other_format(manifest, version)}")
        _check_count(file, manifest)
        if manifest.get("sha256") != _digest_of_plain(manifest):
            raise CheckpointError(f"{file}: changed since it was saved: its SHA-256 is not the one that it states")
    except (RecursionError, ValueError) as error:
        raise CheckpointError(f"{file}: damaged: {str(error) or type(error).__name__}") from error
    _check(file, manifest)
    return cast(dict[str, Any], manifest)  # a version was found in it


def _other_format(manifest: Any, version: Any) -> str:
    text = f"format {shown(version)}; kdnative {kdnative.__version__} reads format {FORMAT}"
    if type(version) is int and version > FORMAT:
        return f"{text}: it was written by kdnative {shown(manifest.get('kdnative'))}, upgrade to that"
    return f"{text}: save the model again with this version" if version is not None else text


def digest_of(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a description's content without its own entry ``sha256``, hexadecimal."""
    return _digest_of_plain(json.loads(json.dumps(manifest)))  # keys that are numbers become text, and sort as text


def _digest_of_plain(manifest: Mapping[str, Any]) -> str:
    """The same of a description as it is read."""
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# -- the fields --------------------------------------------------------------------------------------------------------


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _is_tensor(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"shape", "dtype"}:
        return False
    shape, dtype = value["shape"], value["dtype"]
    return isinstance(shape, list) and all(map(_is_size, shape)) and isinstance(dtype, str) and dtype in _TORCH_NAMES


def _is_tensors(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_tensor, value.values()))


def _is_module(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("class"), str)
        and isinstance(value.get("config", {}), dict)
        and _is_size(value.get("length", None if value["class"] == "torch.nn.ModuleList" else 0))
    )


def _is_modules(value: Any) -> bool:
    """A tree: its root has the name "", and every other module is inside of one that is there."""
    if not isinstance(value, dict) or "" not in value or not all(map(_is_module, value.values())):
        return False
    return all(name.rpartition(".")[0] in value for name in value)


def _is_attributes(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_table, value.values()))


def _is_transformers(value: Any) -> bool:
    if value is None:
        return True
    fields = isinstance(value, dict) and value.keys() == {"class", "config", "attention"}
    return fields and isinstance(value["class"], str) and isinstance(value["config"], dict)


def _is_generation(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_table, value.values()))


def _is_image_input(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def is_companion_name(name: str) -> bool:
    """A place inside of the checkpoint's folder, and not that of a file that has a meaning of its own."""
    parts = name.split("/")
    inside = all(part not in ("", ".", "..") for part in parts) and "\\" not in name and "\0" not in name
    return inside and name != MANIFEST and not is_weights_name(name)


def _is_files(value: Any) -> bool:
    return isinstance(value, dict) and all(is_companion_name(k) and _is_digest(v) for k, v in value.items())


_Fields = Mapping[str, tuple[Callable[[Any], bool], str]]
_FIELDS: _Fields = {
    "kdnative": (_is_text, "a text"),
    "weights": (_is_table, "a table"),
    "modules": (_is_modules, "a table of modules, each inside of another one, with a class each"),
    "attributes": (_is_attributes, "a table of tables"),
    "transformers": (_is_transformers, "null, or a table of class, config and attention"),
    "rebuild": (lambda value: value in ("transformers", "modules", "into"), "'transformers', 'modules' or 'into'"),
    "generation": (_is_generation, "a table of tables"),
    "image_input": (_is_image_input, "null or a table"),
    "frozen": (lambda value: value == "all" or _is_names(value), "'all' or a list of names"),
    "plain": (_is_names, "a list of names"),
    "why": (_is_text, "a text"),
    "files": (_is_files, "a table of file names, with a SHA-256 each"),
}
_WEIGHT_FIELDS: _Fields = {
    "file": (_is_text, "a text"),
    "bytes": (_is_size, "a size"),
    "sha256": (_is_digest, "a SHA-256"),
    "tensors": (_is_tensors, "a table of tensors, with a shape and a dtype each"),
    "aliases": (_is_table, "a table"),
}


def _check(file: Path, manifest: dict[str, Any]) -> None:
    _check_fields(file, manifest, _FIELDS)
    weights = manifest["weights"]
    _check_fields(file, weights, _WEIGHT_FIELDS)
    if weights["file"] != weights_name(weights["sha256"]):
        raise CheckpointError(
            f"{file}: damaged: the file of tensors must be named {weights_name(weights['sha256'])} after its content, "
            f"not {shown(weights['file'])}"
        )
    _check_aliases(file, weights["tensors"], weights["aliases"])


def _check_count(file: Path, manifest: dict[str, Any]) -> None:
    """No model has many more modules than tensors: most of its modules hold one, or stand beside one that does."""
    weights = manifest.get("weights")
    parts = [weights.get(part) for part in ("tensors", "aliases")] if isinstance(weights, dict) else []
    modules, *tensors = (len(table) if isinstance(table, dict) else 0 for table in (manifest.get("modules"), *parts))
    if modules > 1000 + 16 * sum(tensors):
        raise CheckpointError(f"{file}: damaged: {modules} modules for {sum(tensors)} tensors")


def _check_fields(file: Path, table: dict[str, Any], fields: _Fields) -> None:
    for name, (fits, words) in fields.items():
        if name not in table or not fits(table[name]):
            raise CheckpointError(f"{file}: damaged: {name!r} is missing or not {words}")


def _check_aliases(file: Path, tensors: dict[str, Any], aliases: dict[str, Any]) -> None:
    for alias, name in aliases.items():
        if not isinstance(name, str) or name not in tensors or name.startswith(BUFFER):
            raise CheckpointError(f"{file}: damaged: {alias!r} stands for {shown(name)}, which is not there")
        if alias in tensors or alias.startswith(BUFFER):
            raise CheckpointError(f"{file}: damaged: {alias!r} is a tensor of its own and stands for {name!r}")


# -- words -------------------------------------------------------------------------------------------------------------


def reason_of(error: OSError) -> str:
    """Why the system refused a file, in words, and what can be done where that is known."""
    if isinstance(error, PermissionError):
        return "this user has no permission; ask its owner for it (chmod +r), or copy it as a user who has"
    return error.strerror or str(error)


def dtype_name(dtype: torch.dtype) -> str:
    """As the description has it: ``float32``."""
    return str(dtype).removeprefix("torch.")


def some(names: list[str]) -> str:
    """The first ten, and how many more there are."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
