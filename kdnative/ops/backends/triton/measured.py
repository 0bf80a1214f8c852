"""Which tile a product gets: what was measured on its device, else what is shipped.

Nothing is searched for while a model runs: :mod:`kdnative.ops.backends.triton.tuning` is a command of its own, whose
results lie in the user's cache, one file a device, by kernel, its version, and classes of shapes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import warnings
from dataclasses import astuple
from pathlib import Path

import triton

from kdnative.files import cache_dir, replace_text
from kdnative.ops.backends.triton.configurations import SHIPPED, Tile, candidates, row_class, shipped

__all__ = ["configuration", "file_of", "load", "save", "shape_class"]


def configuration(kernel: str, m: int, n: int, k: int, capability: int, device: str) -> Tile:
    """The tile for a product of ``[m, k]`` and ``[n, k]``.

    Args:
        kernel: one of :data:`SHIPPED`.
        device: the name of the device, as its driver says it.
    """
    measured = load(device, capability).get((kernel, shape_class(m, n, k)))
    return measured or shipped(kernel, m, capability)


def shape_class(m: int, n: int, k: int) -> str:
    """Shapes with one measured tile: a class of rows, outputs and inputs up to the next power of two."""
    return f"{row_class(m)} rows, {triton.next_power_of_2(n)} outputs, {triton.next_power_of_2(k)} inputs"


def version(kernel: str) -> str:
    """Of a kernel: another one when its source, what it shares with others, or Triton is another."""
    folder = Path(__file__).parent
    digest = hashlib.sha256(triton.__version__.encode())
    for name in (kernel.partition("-")[0], "epilogue", "activations", "rounding"):
        digest.update((folder / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]


def file_of(device: str) -> Path:
    """Where the measured tiles of a device lie."""
    return cache_dir() / "triton" / f"{re.sub(r'[^A-Za-z0-9]+', '-', device).strip('-').lower()}.json"


@functools.cache
def load(device: str, capability: int) -> dict[tuple[str, str], Tile]:
    """The measured tiles of a device by kernel and class of shapes: read once. What was measured with other versions is
    left out; a damaged file is too, with a warning."""
    path = file_of(device)
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        found: dict[tuple[str, str], Tile] = {}
        for kernel, entry in stored.items():
            if kernel not in SHIPPED or entry["version"] != version(kernel):
                continue
            allowed = {astuple(tile): tile for tile in candidates(kernel, capability)}
            found |= {(kernel, shapes): allowed[tuple(sizes)] for shapes, sizes in entry["tiles"].items()}
        return found
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        warnings.warn(
            f"{path} is no file of measured tiles ({type(error).__name__}: {error}); the shipped ones are used. Delete "
            "it, or measure again with python -m kdnative.ops.backends.triton.tuning",
            stacklevel=2,
        )
        return {}


def save(device: str, capability: int, measured: dict[tuple[str, str], Tile]) -> Path:
    """Adds measured tiles to the file of a device, which is replaced in one step; returns its path."""
    tiles = load(device, capability) | measured
    kernels = sorted({kernel for kernel, _ in tiles})
    stored = {
        kernel: {
            "version": version(kernel),
            "tiles": {
                shapes: astuple(tile)
                for (name, shapes), tile in sorted(tiles.items(), key=lambda item: item[0])
                if name == kernel
            },
        }
        for kernel in kernels
    }
    path = file_of(device)
    replace_text(path, json.dumps(stored, indent=1) + "\n")
    load.cache_clear()
    return path
