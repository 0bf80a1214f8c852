"""``model.safetensors``: checked against the description, then read one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Set
from pathlib import Path

import torch
from torch import Tensor

from kdnative.files import sha256_of_open

from .manifest import BUFFER, MANIFEST, WEIGHTS, CheckpointError, reason_of, some

__all__ = ["Weights"]

_DTYPES = {  # the format's names, and torch's
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


class Weights:
    """The tensors of a checkpoint, open for reading; a context manager.

    What is packed comes from :meth:`read`, in memory of its own: the pages of a mapping would count as memory of the
    process beside what is made of them, until its last tensor is gone. The rest comes from :meth:`state`.

    Attributes:
        shapes: of the tensors of the state dict, shared ones under all their names.
        buffers: names of those beside the state dict.
        dtypes: of both, by their names in the model.

    Raises:
        CheckpointError: the file is missing, can't be read, is not the one that the description is of, or damaged.
    """

    def __init__(self, path: Path, manifest: dict) -> None:
        self._path, self._listed = path / WEIGHTS, manifest["weights"]["tensors"]
        self._aliases = manifest["weights"]["aliases"]
        try:
            self._file = open(self._path, "rb")  # closed by __exit__
        except FileNotFoundError:
            raise CheckpointError(f"{self._path}: there is no such file") from None
        except OSError as error:
            raise CheckpointError(f"{self._path}: can't be read: {reason_of(error)}") from error
        try:
            self._check(manifest["weights"])
            self._offsets = self._read_header()
        except OSError as error:
            self._file.close()
            raise CheckpointError(f"{self._path}: can't be read: {reason_of(error)}") from error
        except BaseException:
            self._file.close()
            raise
        self.shapes = {name: entry["shape"] for name, entry in self._listed.items() if not name.startswith(BUFFER)}
        self.buffers = {name.removeprefix(BUFFER) for name in self._listed if name.startswith(BUFFER)}
        for alias, name in self._aliases.items():
            if name not in self.shapes:
                self._file.close()
                raise CheckpointError(f"{path / MANIFEST}: {alias} stands for {name!r}, which is not there")
            self.shapes[alias] = self.shapes[name]
        listed = {name.removeprefix(BUFFER): name for name in self._listed} | self._aliases
        self.dtypes = {name: getattr(torch, self._listed[source]["dtype"]) for name, source in listed.items()}

    def __enter__(self) -> Weights:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def read(self, name: str, place: Tensor | None = None) -> Tensor:
        """A tensor of the state dict.

        Args:
            name: one of ``shapes``.
            place: memory on the CPU for it, contiguous; taken if it has the tensor's shape and dtype.

        Returns:
            ``place``, or a new tensor.
        """
        return self._read(self._aliases.get(name, name), place)

    def read_buffer(self, name: str) -> Tensor:
        """A tensor beside the state dict, one of ``buffers``."""
        return self._read(BUFFER + name, None)

    def state(self, without: Set[str] = frozenset(), mapped: bool = True) -> dict[str, Tensor]:
        """The state dict, except for some names; shared tensors are one.

        Args:
            without: names to leave out.
            mapped: from the file, for what is copied anyway. False: in memory of its own, for what a model keeps. In
                the file tensors begin anywhere, and torch computes some layers in another order where memory is not
                aligned: results would differ from those of the saved model in the last bits.
        """
        from safetensors import SafetensorError, safe_open

        sources = {name: self._aliases.get(name, name) for name in self.shapes if name not in without}
        if not mapped:
            found = {name: self._read(name, None) for name in dict.fromkeys(sources.values())}
            return {name: found[source] for name, source in sources.items()}
        try:
            with safe_open(str(self._path), framework="pt") as file:
                found = {name: file.get_tensor(name) for name in dict.fromkeys(sources.values())}
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self._path}: damaged: {error}") from error
        return {name: found[source] for name, source in sources.items()}

    def _read(self, name: str, place: Tensor | None) -> Tensor:
        shape, dtype = self._listed[name]["shape"], getattr(torch, self._listed[name]["dtype"])
        if place is None or place.dtype != dtype or list(place.shape) != shape:
            place = torch.empty(shape, dtype=dtype, device="cpu")
        raw = place.view(-1).view(torch.uint8).numpy()
        try:
            self._file.seek(self._offsets[name])
            size = self._file.readinto(raw)
        except OSError as error:
            raise CheckpointError(f"{self._path}: damaged: {error}") from error
        if size != raw.size:
            raise CheckpointError(f"{self._path}: truncated while it was read: {name} is not all there")
        return place

    def _check(self, expected: dict) -> None:
        """Whether this is the file that was saved."""
        size = self._path.stat().st_size
        if size != expected["bytes"]:
            what = "truncated" if size < expected["bytes"] else "changed"
            raise CheckpointError(f"{self._path}: {what}: {size} bytes, {MANIFEST} says {expected['bytes']}")
        if sha256_of_open(self._file) != expected["sha256"]:
            raise CheckpointError(f"{self._path}: changed since it was saved: its SHA-256 is not the one in {MANIFEST}")

    def _read_header(self) -> dict[str, int]:
        """Where each tensor begins in the file; its tensors are those listed."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(self._path), framework="np"):  # it checks the header, to the last byte of the file
                pass
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self._path}: damaged: {error}") from error
        self._file.seek(0)
        length = int.from_bytes(self._file.read(8), "little")
        header = json.loads(self._file.read(length))
        header.pop("__metadata__", None)
        found = {
            name: {"shape": entry["shape"], "dtype": _DTYPES.get(entry["dtype"], entry["dtype"])}
            for name, entry in header.items()
        }
        if found != self._listed:
            names = found.keys() | self._listed.keys()
            wrong = sorted(name for name in names if found.get(name) != self._listed.get(name))
            raise CheckpointError(f"{self._path}: these tensors are not as {MANIFEST} says: {some(wrong)}")
        return {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items()}
