"""Splits of pictures: every class in its shares, and pictures that belong together in one part."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from kdnative.data.types import DataError

__all__ = ["in_parts"]


def in_parts(groups: Sequence[str], classes: Sequence[int], shares: Sequence[float], names: Sequence[str]) -> list[int]:
    """The part of each picture.

    The smallest groups of a class, those of one size in the order of their hashes, fill the smaller parts; what does
    not fit there goes to the largest part. So a test has pictures that are as different as they can be, none of its
    figures hangs on one large group, and the parts never depend on the order of the pictures. A part that got none of a
    class takes the smallest group of the part with most groups.

    Args:
        groups: of each picture; pictures of one class and group are never parted.
        classes: of each picture.
        shares: of the parts, not negative, some above 0. names: of the parts, for messages.

    Raises:
        DataError: a class with fewer groups than parts.
        ValueError: shares that are none.
    """
    if min(shares) < 0 or not sum(shares) > 0 or len(shares) != len(names):
        raise ValueError(f"split={tuple(shares)}: give {len(names)} shares >= 0 that are not all 0")
    members: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, (group, number) in enumerate(zip(groups, classes, strict=True)):
        members[number][group].append(i)
    places = [0] * len(groups)
    for number, found in members.items():
        for part, inside in enumerate(_parts_of(found, number, shares, names)):
            for group in inside:
                for i in found[group]:
                    places[i] = part
    return places


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()


def _parts_of(
    found: dict[str, list[int]], number: int, shares: Sequence[float], names: Sequence[str]
) -> list[list[str]]:
    wanted = [part for part, share in enumerate(shares) if share]
    if len(found) < len(wanted):
        raise DataError(
            f"class {number} has {len(found)} groups of pictures, too few for {len(wanted)} parts "
            f"({', '.join(names[part] for part in wanted)})"
        )
    parts: list[list[str]] = [[] for _ in shares]
    total, largest = sum(map(len, found.values())), max(wanted, key=lambda part: shares[part])
    lacks = {part: total * shares[part] / sum(shares) for part in wanted}
    for group in sorted(found, key=lambda name: (len(found[name]), _hash(name))):
        fitting = [part for part in wanted if part != largest and lacks[part] >= len(found[group])]
        place = max(fitting, key=lambda part: lacks[part], default=largest)
        parts[place].append(group)
        lacks[place] -= len(found[group])
    for part in wanted:
        if not parts[part]:
            richest = max(wanted, key=lambda other: len(parts[other]))
            group = min(parts[richest], key=lambda name: len(found[name]))
            parts[richest].remove(group)
            parts[part].append(group)
    return parts
