"""A checkpoint in memory: everything that the fuzzers know of its format is here."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdnative.checkpoint.manifest import MANIFEST, digest_of

__all__ = ["MANIFEST", "Checkpoint", "WeightsFile"]

_DTYPES = {"F": "float", "I": "int", "U": "uint", "BF": "bfloat", "C": "complex"}


@dataclass
class Checkpoint:
    """The two files of a checkpoint, and what else lies in the folder.

    Attributes:
        manifest: as JSON gives it.
        text: the manifest's file where it is not ``manifest`` any more, else None.
        weights: the content of the weights' file, called ``file``.
        extra: other files, by their names.
    """

    manifest: dict[str, Any]
    weights: bytes
    file: str
    text: bytes | None = None
    extra: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        file = manifest["weights"]["file"]
        extra = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.name not in (MANIFEST, file)}
        return cls(manifest, (folder / file).read_bytes(), file, extra=extra)

    def copy(self) -> Checkpoint:
        return Checkpoint(json.loads(json.dumps(self.manifest)), self.weights, self.file, self.text, dict(self.extra))

    def write(self, folder: Path) -> None:
        """Into a new folder."""
        folder.mkdir()
        for name, data in {**self.extra, self.file: self.weights, MANIFEST: self.description()}.items():
            (folder / name).write_bytes(data)

    def description(self) -> bytes:
        return json.dumps(self.manifest).encode() if self.text is None else self.text

    def content(self) -> tuple[str, bytes]:
        """What it says, whatever the spaces and the order; damaged JSON says what its bytes are."""
        try:
            return json.dumps(json.loads(self.description()), sort_keys=True), self.weights
        except (RecursionError, ValueError):
            return repr(self.description()), self.weights

    def is_vouched_for(self) -> bool:
        """Whether the sums of both files are those that the manifest states."""
        try:
            manifest = json.loads(self.description())
            weights = manifest["weights"]["sha256"] == hashlib.sha256(self.weights).hexdigest()
            return weights and manifest["sha256"] == digest_of(manifest)
        except (KeyError, RecursionError, TypeError, ValueError):
            return False

    def vouch_for_weights(self, name: bool = True) -> None:
        """Size, sum and name of the weights' file, where the manifest has a place for them.

        Args:
            name: rename the file, where files of weights are named by their sums.
        """
        entry, digest = self.manifest.get("weights"), hashlib.sha256(self.weights).hexdigest()
        if not isinstance(entry, dict):
            return
        entry["bytes"], entry["sha256"] = len(self.weights), digest
        if name:
            self.file = re.sub(r"[0-9a-f]{16}(?=\.safetensors$)", digest[:16], self.file)
            entry["file"] = self.file

    def vouch(self) -> None:
        """The sum of the manifest itself; where it has none that could be computed, it keeps the old one."""
        try:
            self.manifest["sha256"] = digest_of(self.manifest)
        except (RecursionError, ValueError):
            pass

    def list_tensors(self, header: dict[str, Any]) -> None:
        """Let the manifest's table say what a header of the weights' file says."""
        entry = self.manifest.get("weights")
        if isinstance(entry, dict):
            tensors = {name: e for name, e in header.items() if isinstance(e, dict) and "dtype" in e}
            entry["tensors"] = {
                name: {"shape": e.get("shape"), "dtype": _dtype_name(e["dtype"])} for name, e in tensors.items()
            }


@dataclass
class WeightsFile:
    """A file of safetensors: its header as JSON gives it, and the bytes of its tensors."""

    header: dict[str, Any]
    data: bytes

    @classmethod
    def parse(cls, raw: bytes) -> WeightsFile:
        size = int.from_bytes(raw[:8], "little")
        return cls(json.loads(raw[8 : 8 + size]), raw[8 + size :])

    @classmethod
    def of(cls, tensors: dict[str, tuple[dict[str, Any], bytes]]) -> WeightsFile:
        """From ``{name: (entry, bytes)}``, one after the other."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        data = b""
        for name, (entry, raw) in tensors.items():
            header[name] = {**entry, "data_offsets": [len(data), len(data) + len(raw)]}
            data += raw
        return cls(header, data)

    def tensors(self) -> dict[str, tuple[dict[str, Any], bytes]]:
        """Each tensor's entry and bytes, by name."""
        found = {}
        for name, entry in self.header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                found[name] = (dict(entry), self.data[begin:end])
        return found

    def serialize(self) -> bytes:
        header = json.dumps(self.header).encode()
        return len(header).to_bytes(8, "little") + header + self.data


def _dtype_name(name: Any) -> Any:
    """``float32`` for ``F32``."""
    match = re.fullmatch(r"([A-Z]+)(\d+)", str(name))
    return "bool" if name == "BOOL" else f"{_DTYPES.get(match[1], match[1])}{match[2]}" if match else name
