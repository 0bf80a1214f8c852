"""Changes of JSON trees, texts and bytes. What is changed, and how, follows from the random numbers alone."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from tests.fuzz.words import KEYS, NUMBERS, TEXTS

__all__ = ["change_bytes", "change_text", "change_tree", "few", "nested", "values_by_key"]

_INTEGERS = [number for number in NUMBERS if type(number) is int and abs(number) < 2**63]


def few(rng: random.Random) -> int:
    """How many changes: mostly one, so that what comes after the first check is reached too."""
    return rng.choices((1, 2, 3, 5, 8), (60, 20, 10, 6, 4))[0]


def nested(depth: int, mapping: bool = False) -> Any:
    """A list in a list in a list, or mappings."""
    value: Any = 0
    for _ in range(depth):
        value = {"a": value} if mapping else [value]
    return value


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value))  # copy.deepcopy gives up at a third of the depth


Pool = Mapping[str, Sequence[Any]]
"""Values of other trees by the keys that they have there."""


def values_by_key(trees: Iterable[Any]) -> dict[str, list[Any]]:
    """Every value in some trees that has a key."""
    pool: dict[str, list[Any]] = {}
    left = list(trees)
    while left:
        tree = left.pop()
        for key, value in tree.items() if isinstance(tree, dict) else ():
            pool.setdefault(str(key), []).append(value)
        if isinstance(tree, dict | list):
            left.extend(tree.values() if isinstance(tree, dict) else tree)
    return pool


def change_tree(rng: random.Random, tree: Any, pool: Pool, shares: Mapping[str, int] = MappingProxyType({})) -> None:
    """One change, in place, somewhere in a tree of dicts and lists that is not empty.

    Args:
        shares: how often to look below which keys of the outermost dict; without any, all of them equally.
    """
    holder, key = _place(rng, tree, {name: share for name, share in shares.items() if name in tree})
    if rng.random() < 0.25:
        _change_structure(rng, holder, key, pool)
    else:
        holder[key] = _another(rng, key, holder[key], pool)


def _place(rng: random.Random, tree: Any, shares: Mapping[str, int]) -> tuple[Any, Any]:
    """Where to change something: mostly deep, but every entry of a level is as likely as the others."""
    holder, key, node = None, None, tree
    while isinstance(node, dict | list) and node and (holder is None or rng.random() < 0.88):
        if holder is None and shares and rng.random() < 0.9:
            (key,) = rng.choices(list(shares), list(shares.values()))
        else:
            key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        holder, node = node, node[key]
    return holder, key


def _change_structure(rng: random.Random, holder: Any, key: Any, pool: Pool) -> None:
    """Entries come, go, or change places."""
    what = rng.randrange(5)
    other = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    if what == 0:
        del holder[key]
    elif what == 1:
        holder[key], holder[other] = holder[other], holder[key]
    elif isinstance(holder, list):
        if what == 2:
            holder.insert(rng.randrange(len(holder) + 1), _copy(holder[other]))
        elif what == 3:
            holder[:] = holder * rng.choice((0, 2, 3, 50))
        else:
            rng.shuffle(holder)
    elif what == 2:
        holder[_key(rng, key)] = holder.pop(key)
    elif what == 3:
        holder[_key(rng, key)] = _copy(holder[key])
    else:
        new = rng.choice(list(pool)) if pool and rng.random() < 0.5 else _key(rng, key)
        holder[new] = _copy(rng.choice(pool[new])) if new in pool and rng.random() < 0.5 else _fresh(rng)


def _key(rng: random.Random, key: str) -> str:
    """A name near a given one, or any other."""
    return rng.choice((key + "x", key[:-1], key.upper(), f"{key}.0", f".{key}", "", *rng.sample(KEYS, 6)))


def _another(rng: random.Random, key: Any, value: Any, pool: Pool) -> Any:
    what = rng.random()
    if what < 0.2 and key in pool:  # what stands in this place elsewhere
        return _copy(rng.choice(pool[key]))
    if what < 0.6:
        return _of_the_same_type(rng, value)
    if what < 0.75:
        return _fresh(rng)
    if what < 0.85 and pool:
        return _copy(rng.choice(pool[rng.choice(list(pool))]))
    if what < 0.9:
        return nested(rng.choice((3, 30, 300, 900)), mapping=rng.random() < 0.5)
    turned: tuple[Callable[[], Any], ...] = (
        lambda: [value],
        lambda: {"a": value},
        lambda: str(value),
        lambda: (
            [list(item) for item in value.items()]
            if isinstance(value, dict)
            else {str(i): v for i, v in enumerate([value])}
        ),
    )
    return rng.choice(turned)()


def _of_the_same_type(rng: random.Random, value: Any) -> Any:
    if isinstance(value, str):
        return rng.choice(TEXTS) if rng.random() < 0.7 else change_text(rng, value)
    if isinstance(value, dict | list):
        return type(value)()
    if isinstance(value, bool) or value is None:
        return _fresh(rng)
    near = (value + 1, value - 1, value * 2, value * 1000, -value, value + 0.5, float(value), not value)
    return rng.choice(NUMBERS if rng.random() < 0.5 else near)


def _fresh(rng: random.Random) -> Any:
    return rng.choice((None, True, False, [], {}, rng.choice(NUMBERS), rng.choice(NUMBERS), rng.choice(TEXTS)))


def change_text(rng: random.Random, text: str, pieces: Sequence[str] = TEXTS) -> str:
    """One change of a text.

    Args:
        pieces: what is put in.
    """
    piece = str(rng.choice(pieces))
    at = rng.randrange(len(text) + 1)
    end = min(len(text), at + rng.choice((1, 1, 2, 5, 20, 200)))
    lines = text.split("\n")
    line, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    what = rng.randrange(10)
    if what == 0:
        return text[:at] + piece + text[at:]
    if what == 1:
        return text[:at] + piece + text[end:]
    if what == 2:
        return text[:at] + text[end:]
    if what == 3:
        return text[:end] + text[at:]
    if what == 4:
        return text[:at]
    if what == 5:
        numbers = list(re.finditer(r"\d+(\.\d+)?", text))
        if numbers:
            match = rng.choice(numbers)
            return text[: match.start()] + rng.choice((str(rng.choice(NUMBERS)), "9" * 5000)) + text[match.end() :]
    if what == 6:
        lines[line], lines[other] = lines[other], lines[line]
    elif what == 7:
        lines.insert(line, lines[other])
    elif what == 8:
        lines[line] = rng.choice((" ", "  ", "\t", "- ")) + lines[line]
    else:
        lines[line] = rng.choice((piece, lines[line].replace(":", f": {piece}", 1), lines[line] + piece, ""))
    return "\n".join(lines)


def change_bytes(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """One change of some bytes.

    Args:
        others: what parts are taken from.
    """
    at = rng.randrange(len(data) + 1)
    size = rng.choice((1, 1, 2, 4, 8, 64, 1000))
    what = rng.randrange(7)
    if what == 0 and data:
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 4, 64))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if what == 1:
        return data[:at]
    if what == 2:
        return data[:at] + rng.randbytes(size) + data[at + size :]
    if what == 3:
        return data[:at] + rng.choice((b"\0", b"\xff")) * size + data[at + size :]
    if what == 4:
        return data[:at] + data[at + size :]
    if what == 5:
        width = rng.choice((4, 8))
        number = rng.choice(_INTEGERS) % (1 << 8 * width)
        return data[:at] + number.to_bytes(width, "little") + data[at + width :]
    other = rng.choice((*others, data))
    start = rng.randrange(len(other) + 1)
    return data[:at] + other[start : start + size] + data[at + rng.choice((0, size)) :]
