"""Changes of a checkpoint's tensors: values, shapes, dtypes, names, and the header of their file."""

from __future__ import annotations

import random
import struct
from typing import Any

from .checkpoint_files import Checkpoint, WeightsFile
from .mutate import change_tree
from .words import KEYS

__all__ = ["change_weights"]

_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-38, 1e38, 3.4e38, float("nan"), float("inf"), float("-inf"))
_FORMATS = {"F32": "f", "F64": "d", "F16": "e"}
_WIDTHS = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL"), 1),
}

Tensors = dict[str, tuple[dict[str, Any], bytes]]


def change_weights(rng: random.Random, checkpoint: Checkpoint, other: Checkpoint) -> None:
    """One change, in place; mostly the manifest's table of tensors says the same as the file then.

    Args:
        other: where tensors are taken from.
    """
    try:
        file = WeightsFile.parse(checkpoint.weights)
        tensors = file.tensors()
    except (KeyError, TypeError, ValueError):  # changed before
        return
    if not tensors:
        return
    if rng.random() < 0.2:
        change_tree(rng, file.header)
    else:
        _change(rng, tensors, checkpoint, WeightsFile.parse(other.weights).tensors())
        file = WeightsFile.of(tensors)
    checkpoint.weights = file.serialize()
    if rng.random() < 0.8:
        checkpoint.list_tensors(file.header)


def _change(rng: random.Random, tensors: Tensors, checkpoint: Checkpoint, others: Tensors) -> None:
    name, second = rng.choice(list(tensors)), rng.choice(list(tensors))
    entry, raw = tensors[name]
    what = rng.choices(("values", "shape", "dtype", "table"), (45, 20, 15, 20))[0]
    if what == "values":
        tensors[name] = entry, _values(rng, entry["dtype"], raw)
    elif what == "shape":
        tensors[name] = _shape(rng, entry, raw)
    elif what == "dtype":
        tensors[name] = _dtype(rng, entry, raw)
    else:
        part = rng.randrange(6)
        if part == 0:
            del tensors[name]
        elif part == 1:
            tensors[name], tensors[second] = tensors[second], tensors[name]
        elif part == 2:
            tensors[name] = rng.choice(list(others.values()))
        elif part == 3:
            tensors[rng.choice((name + "x", name[:-1], "buffer:" + name, *KEYS))] = tensors.pop(name)
        elif part == 4:
            tensors[rng.choice((f"{name}.weight", f"x.{name}", *others))] = tensors[name]
        else:
            _alias(rng, tensors, checkpoint, name, second)


def _values(rng: random.Random, dtype: str, raw: bytes) -> bytes:
    """One value, a few, or all of them."""
    width = _WIDTHS.get(dtype, 1)
    count = len(raw) // width
    if count == 0:
        return raw
    if dtype in _FORMATS:
        try:
            value = struct.pack("<" + _FORMATS[dtype], rng.choice(_FLOATS))
        except OverflowError:
            value = struct.pack("<" + _FORMATS[dtype], float("inf"))
    else:
        value = rng.choice((b"\0", b"\x80", b"\x7f", b"\xff", b"\x01", rng.randbytes(1))) * width
    places = rng.choice(([rng.randrange(count)], [rng.randrange(count) for _ in range(5)], range(count)))
    changed = bytearray(raw)
    for place in places:
        changed[place * width : (place + 1) * width] = value
    return bytes(changed)


def _shape(rng: random.Random, entry: dict[str, Any], raw: bytes) -> tuple[dict[str, Any], bytes]:
    """Another shape of the same values, or of more or fewer."""
    shape = list(entry["shape"])
    count, width = max(1, len(raw)), 1
    for size in shape:
        count //= max(1, size)
    width = max(1, count)
    what = rng.randrange(6)
    if what == 0:
        shape.reverse()
    elif what == 1:
        shape.insert(rng.randrange(len(shape) + 1), 1)
    elif what == 2:
        numbers = 1
        for size in shape:
            numbers *= size
        shape = [numbers]
    elif shape:
        at = rng.randrange(len(shape))
        shape[at] = rng.choice((0, 1, shape[at] - 1, shape[at] + 1, 2 * shape[at], shape[at] // 2, 64, 1000))
        shape[at] = max(0, shape[at])
    size = width
    for each in shape:
        size *= each
    size = min(size, 2**20)
    return {**entry, "shape": shape}, (raw * (size // max(1, len(raw)) + 1))[:size]


def _dtype(rng: random.Random, entry: dict[str, Any], raw: bytes) -> tuple[dict[str, Any], bytes]:
    """Another dtype: the same bytes where it is as wide, otherwise so many that they fit."""
    dtype = rng.choice(list(_WIDTHS))
    old, new = _WIDTHS.get(entry["dtype"], 1), _WIDTHS[dtype]
    size = len(raw) // old * new
    return {**entry, "dtype": dtype}, (raw * (new // old + 1))[:size]


def _alias(rng: random.Random, tensors: Tensors, checkpoint: Checkpoint, name: str, second: str) -> None:
    """A tensor that is another one, or itself, or nothing."""
    weights = checkpoint.manifest.get("weights")
    if isinstance(weights, dict):
        aliases = weights.get("aliases")
        aliases = aliases if isinstance(aliases, dict) else {}
        aliases[rng.choice((name, f"{name}x", second))] = rng.choice((second, name, "nothing", ["x"], 3))
        weights["aliases"] = aliases
        if rng.random() < 0.5:
            tensors.pop(name, None)
