"""Changes of a checkpoint's tensors: values, shapes, dtypes, names, and the header of their file."""

from __future__ import annotations

import math
import random
import struct
from typing import Any

from tests.fuzz.checkpoint_files import Checkpoint, WeightsFile
from tests.fuzz.mutate import change_tree
from tests.fuzz.words import KEYS

__all__ = ["change_size", "change_weights"]

_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-38, 1e38, 3.4e38, float("nan"), float("inf"), float("-inf"))
_FORMATS = {"F32": "f", "F64": "d", "F16": "e"}
_WIDTHS = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL"), 1),
}

Tensors = dict[str, tuple[dict[str, Any], bytes]]


def _tensors(checkpoint: Checkpoint) -> Tensors:
    """Nothing where an earlier change has left no header to be read."""
    try:
        tensors = WeightsFile.parse(checkpoint.weights).tensors()
        sound = all(e["dtype"] in _WIDTHS and all(type(n) is int for n in e["shape"]) for e, _ in tensors.values())
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}
    return tensors if sound else {}


def change_weights(rng: random.Random, checkpoint: Checkpoint, other: Checkpoint) -> None:
    """One change, in place; mostly the manifest's table of tensors says the same as the file then.

    Args:
        other: where tensors are taken from.
    """
    tensors = _tensors(checkpoint)
    if not tensors:
        return
    file = WeightsFile.parse(checkpoint.weights)
    if rng.random() < 0.2:
        change_tree(rng, file.header, {})
    else:
        _change(rng, tensors, checkpoint, WeightsFile.parse(other.weights).tensors())
        file = WeightsFile.of(tensors)
    checkpoint.weights = file.serialize()
    if rng.random() < 0.8:
        checkpoint.list_tensors(file.header)


def change_size(rng: random.Random, checkpoint: Checkpoint) -> None:
    """A size that occurs in shapes becomes another one wherever it occurs: a checkpoint that mostly fits together."""
    tensors = _tensors(checkpoint)
    sizes = [size for entry, _ in tensors.values() for size in entry["shape"] if size > 1]
    if not sizes:
        return
    old = rng.choice(sizes)
    new = max(0, rng.choice((old + 1, old - 1, old * 2, old // 2, 1, 0, 33, 64, 128)))
    for name, (entry, raw) in tensors.items():
        shape = [new if size == old else size for size in entry["shape"]]
        tensors[name] = _filled({**entry, "shape": shape}, raw)
    checkpoint.weights = WeightsFile.of(tensors).serialize()
    _replace(rng, checkpoint.manifest, old, new, rng.choice((1.0, 1.0, 0.8)))


def _replace(rng: random.Random, tree: Any, old: int, new: int, share: float) -> None:
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(entries):
        if isinstance(value, dict | list):
            _replace(rng, value, old, new, share)
        elif type(value) is int and value == old and rng.random() < share:
            tree[key] = new


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
    what = rng.randrange(6)
    if what == 0:
        shape.reverse()
    elif what == 1:
        shape.insert(rng.randrange(len(shape) + 1), 1)
    elif what == 2:
        shape = [math.prod(shape)]
    elif shape:
        at = rng.randrange(len(shape))
        shape[at] = rng.choice((0, 1, shape[at] - 1, shape[at] + 1, 2 * shape[at], shape[at] // 2, 64, 1000))
        shape[at] = max(0, shape[at])
    return _filled({**entry, "shape": shape}, raw)


def _filled(entry: dict[str, Any], raw: bytes) -> tuple[dict[str, Any], bytes]:
    """With as many of the bytes as its shape and dtype take, again and again, up to a megabyte."""
    size = min(math.prod(entry["shape"]) * _WIDTHS.get(entry["dtype"], 1), 2**20)
    return entry, (raw * (size // max(1, len(raw)) + 1))[:size]


def _dtype(rng: random.Random, entry: dict[str, Any], raw: bytes) -> tuple[dict[str, Any], bytes]:
    """Another dtype: the same bytes where it is as wide, otherwise so many that they fit."""
    dtype = rng.choice(list(_WIDTHS))
    return _filled({**entry, "dtype": dtype}, raw)


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
