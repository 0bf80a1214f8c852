"""Layers that a calibration has finished, in a folder, so that one that was killed goes on where it was."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kdnative.files import remove_leftovers
from kdnative.quantize.calibration_file import Layers, read_layers, write_layers
from kdnative.quantize.inputs import InputBatches, bytes_of

__all__ = ["CalibrationState"]


class CalibrationState:
    """A folder with a file for each group of layers that is done.

    Args:
        folder: made where there is none.
        origin: what the layers follow from, see `origin`; every file says it.
    """

    def __init__(self, folder: Path, origin: Mapping[str, str]) -> None:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"state_path={str(folder)!r} is a file; give a folder, which is created if needed")
        self.folder, self.origin = folder, dict(origin)

    @staticmethod
    def origin_of(model: nn.Module, batches: InputBatches | None, settings: Any) -> dict[str, str]:
        """Hashes of the model's values, the data and the settings."""
        values = hashlib.sha256()
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            values.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode() + bytes_of(tensor))
        return {
            "model": values.hexdigest(),
            "calibration data": "" if batches is None else batches.digest(),
            "settings (schemes, methods, sequential)": hashlib.sha256(repr(settings).encode()).hexdigest(),
        }

    def read(self) -> Layers:
        """The layers that are done.

        Raises:
            ValueError: they follow from something else; or a file is damaged.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        found: Layers = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            layers, origin = read_layers(path)
            if not isinstance(origin, dict) or origin != self.origin:
                other = [
                    what
                    for what, value in self.origin.items()
                    if not isinstance(origin, dict) or origin.get(what) != value
                ]
                raise ValueError(
                    f"{path} belongs to another calibration with different {' and '.join(other) or 'origin'}: "
                    "give another state_path, or delete this folder to start again"
                )
            found |= layers
        return found

    def write(self, layers: Layers) -> None:
        """Adds layers, in one step."""
        name = hashlib.sha256("\n".join(layers).encode()).hexdigest()[:16]
        write_layers(self.folder / f"{name}.safetensors", layers, self.origin)
