"""What the vision suite asks of an engine, and the folder that its processes share.

An engine makes a file of a network once, in a process of its own. Another process loads the file and runs it, so its
memory is that of somebody who serves the network. The folder has ``model.pt`` (float32), ``calibration.pt`` and
``pictures.pt``, and what the engines write.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.bench.vision_models import Network

CALIBRATION_BATCH = 8


@dataclass(frozen=True)
class Run:
    """A network ready to run on pictures of one shape.

    Attributes:
        call: takes pictures ``[N, 3, H, W]`` float32, contiguous; what it returns stays in the engine's own form.
        decode: makes logits ``[N, classes]`` of that. Not timed.
    """

    call: Callable[[Tensor], Any]
    decode: Callable[[Any], Tensor]


Save = Callable[["Shared"], None]
Load = Callable[["Shared", int], Callable[[Tensor], Run]]


@dataclass(frozen=True)
class Engine:
    """One way of running a network.

    Attributes:
        name: shown in tables.
        kind: ``"int8"`` or ``"float"``.
        load: takes the shared folder and the number of threads, and returns what makes a `Run` for pictures like those
            that it is given.
        save: writes the engine's file; None for those that need none, or make the network where they run it.
        file: its name; engines with the same file share it.
        packages: names to import.
        imports: modules that the engine can't do without when it runs, loaded before memory is measured.
        holds: whether variables can hold it to an instruction set, see `vision.held`.
        served: it loads a file and runs it, so its memory can be compared.
        compiled: it is run by torch.compile, which takes minutes.
    """

    name: str
    kind: str
    load: Load
    save: Save | None = None
    file: str = ""
    packages: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    holds: bool = False
    served: bool = True
    compiled: bool = False

    @property
    def ours(self) -> bool:
        return self.name.startswith("kdnative")


@dataclass(frozen=True)
class Shared:
    """The folder of one network."""

    folder: Path

    @staticmethod
    def write(folder: Path, network: Network) -> Shared:
        """Puts a network into a new folder."""
        torch.save(network.model, folder / "model.pt")
        torch.save(network.pictures, folder / "pictures.pt")
        torch.save(network.calibration, folder / "calibration.pt")
        return Shared(folder)

    def model(self) -> nn.Module:
        """The float model; a pickle, which this suite itself wrote."""
        return torch.load(self.folder / "model.pt", weights_only=False)

    def pictures(self) -> Tensor:
        """What is run, ``[N, 3, H, W]``."""
        return torch.load(self.folder / "pictures.pt", weights_only=True)

    def calibration(self) -> list[Tensor]:
        """Batches to find ranges with."""
        return list(torch.load(self.folder / "calibration.pt", weights_only=True).split(CALIBRATION_BATCH))

    def path(self, name: str) -> Path:
        """Where an engine's file is."""
        return self.folder / name
