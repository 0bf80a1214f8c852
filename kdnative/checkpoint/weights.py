"""The file of tensors: checked against the description, then read one tensor at a time."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdnative.checkpoint.folder import Folder
from kdnative.checkpoint.manifest import BUFFER, DTYPES, MANIFEST, MOST_BYTES, CheckpointError, parse, reason_of, some
from kdnative.files import sha256_of_open

__all__ = ["Weights", "open_checkpoint"]

_PATIENCE = 5.0  # seconds for a saver that is at work in the folder


def open_checkpoint(path: Path) -> tuple[dict[str, Any], Weights]:
    """A checked description, and the tensors that it is of, open for reading.

    A saver that replaces the checkpoint meanwhile is waited for: the result is the old checkpoint or the new one.

    Raises:
        CheckpointError: a file is missing, can't be read, is damaged, changed, or of another version.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        data = None
        try:
            with Folder(path) as folder:
                data = folder.description()
                manifest = parse(data, path / MANIFEST)
                return manifest, Weights(folder, manifest)
        except CheckpointError:
            if data is None or time.monotonic() > deadline or not _was_replaced(path, data):
                raise


def _was_replaced(path: Path, data: bytes) -> bool:
    """Whether the folder has another description than it had."""
    try:
        with Folder(path) as folder:
            return folder.description() != data
    except CheckpointError:
        return False


class Weights:
    """The tensors of a checkpoint, open for reading; a context manager.

    Every tensor comes from the very file whose SHA-256 was checked, whatever happens to its name. It is read into
    memory of its own: pages of a mapping would count as memory of the process beside what is made of them, and in a
    file tensors begin anywhere, while torch computes some layers in another order where memory is not aligned.

    Attributes:
        file: its path, for messages.
        bytes: its size.
        shapes: of the tensors of the state dict, shared ones under all their names.
        buffers: names of those beside the state dict.
        dtypes: of both, by their names in the model.

    Raises:
        CheckpointError: the file is missing, can't be read, is not the one that the description is of, or damaged.
    """

    def __init__(self, folder: Folder, manifest: dict[str, Any]) -> None:
        stated = manifest["weights"]
        self.file, self.bytes = folder.path / stated["file"], stated["bytes"]
        self._listed, self._aliases = stated["tensors"], stated["aliases"]
        try:
            self._file = folder.open(stated["file"])  # closed by __exit__
        except FileNotFoundError:
            raise CheckpointError(f"{self.file}: there is no such file") from None
        try:
            self._check(stated)
            self._offsets = self._read_header()
        except OSError as error:
            self._file.close()
            raise CheckpointError(f"{self.file}: can't be read: {reason_of(error)}") from error
        except BaseException:
            self._file.close()
            raise
        self.shapes = {name: entry["shape"] for name, entry in self._listed.items() if not name.startswith(BUFFER)}
        self.shapes |= {alias: self.shapes[name] for alias, name in self._aliases.items()}
        self.buffers = {name.removeprefix(BUFFER) for name in self._listed if name.startswith(BUFFER)}
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

    def state(self, without: Set[str] = frozenset()) -> dict[str, Tensor]:
        """The state dict, except for the names ``without``; shared tensors are one."""
        sources = {name: self._aliases.get(name, name) for name in self.shapes if name not in without}
        found = {name: self._read(name, None) for name in dict.fromkeys(sources.values())}
        return {name: found[source] for name, source in sources.items()}

    def _read(self, name: str, place: Tensor | None) -> Tensor:
        shape, dtype = self._listed[name]["shape"], getattr(torch, self._listed[name]["dtype"])
        if place is None or place.dtype != dtype or list(place.shape) != shape:
            place = torch.empty(shape, dtype=dtype, device="cpu")
        raw = place.view(-1).view(torch.uint8).numpy()
        try:
            self._file.seek(self._offsets[name])
            size = self._file.readinto(raw.data)
        except OSError as error:
            raise CheckpointError(f"{self.file}: can't be read: {reason_of(error)}") from error
        if size != raw.size:
            raise CheckpointError(f"{self.file}: truncated while it was read: {name} is not all there")
        return place

    def _check(self, stated: dict[str, Any]) -> None:
        """Whether this is the file that was saved."""
        size = os.fstat(self._file.fileno()).st_size
        if size != stated["bytes"]:
            what = "truncated" if size < stated["bytes"] else "changed"
            raise CheckpointError(f"{self.file}: {what}: {size} bytes, {MANIFEST} says {stated['bytes']}")
        if sha256_of_open(self._file) != stated["sha256"]:
            raise CheckpointError(f"{self.file}: changed since it was saved: its SHA-256 is not the one in {MANIFEST}")

    def _read_header(self) -> dict[str, int]:
        """Where each tensor begins in the file (format of safetensors); its tensors are those listed."""
        self._file.seek(0)
        length = int.from_bytes(self._file.read(8), "little")
        if length > min(self.bytes - 8, MOST_BYTES):
            raise CheckpointError(f"{self.file}: damaged: its header would have {length:,} bytes")
        try:
            header = json.loads(self._file.read(length))
            header.pop("__metadata__", None)
            if len(header) != len(self._listed):
                raise CheckpointError(
                    f"{self.file}: it holds {len(header)} tensors, and {MANIFEST} says {len(self._listed)}"
                )
            places = {name: _place(entry) for name, entry in header.items()}
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self.file}: damaged: its header is not one of a safetensors file") from error
        found = {name: {"shape": shape, "dtype": dtype} for name, (shape, dtype, _, _) in places.items()}
        if found != self._listed:
            names = found.keys() | self._listed.keys()
            wrong = sorted(name for name in names if found.get(name) != self._listed.get(name))
            raise CheckpointError(f"{self.file}: these tensors are not as {MANIFEST} says: {some(wrong)}")
        end = 0  # tensors fill the file, one behind the other
        for name, (shape, dtype, begin, stop) in sorted(places.items(), key=lambda item: item[1][2:]):
            if begin != end or stop - begin != math.prod(shape) * getattr(torch, dtype).itemsize:
                raise CheckpointError(f"{self.file}: damaged: {name} is not where its header says")
            end = stop
        if end != self.bytes - 8 - length:
            raise CheckpointError(f"{self.file}: damaged: its tensors do not fill it")
        return {name: 8 + length + begin for name, (_, _, begin, _) in places.items()}


def _place(entry: Any) -> tuple[list[int], str, int, int]:
    """Shape, dtype, begin and end of a tensor in a header; ValueError, TypeError or KeyError where it is none."""
    begin, end = entry["data_offsets"]
    if type(begin) is not int or type(end) is not int or begin < 0:
        raise ValueError("offsets must be sizes")
    return entry["shape"], DTYPES[entry["dtype"]], begin, end
