"""Sizes of tiles that are shipped, by kernel, capability and number of rows."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SHIPPED", "Tile", "candidates", "row_class", "shipped"]


@dataclass(frozen=True)
class Tile:
    """What one program computes, and how: m rows and n outputs, k inputs at a time; 0: what the weight's form says."""

    m: int
    n: int
    k: int
    warps: int
    stages: int


ROW_CLASSES = (16, 64, 256)
"""Up to so many rows the tiles of a class are for; more rows have the class 0."""

_Tables = dict[int, dict[int, Tile]]

_W4A16: _Tables = {
    80: {
        16: Tile(16, 64, 0, 4, 4),
        64: Tile(32, 64, 0, 4, 4),
        256: Tile(64, 64, 0, 8, 3),
        0: Tile(64, 128, 0, 8, 3),
    },
    90: {
        16: Tile(16, 64, 0, 4, 4),
        64: Tile(64, 64, 0, 8, 4),
        256: Tile(64, 64, 0, 8, 3),
        0: Tile(64, 128, 0, 8, 3),
    },
}

# Kernel, least capability: the tile of each class of rows. Those from 80 on fit into the 99 KiB of shared memory that
# 8.6 and 8.9 have, and none of them uses a stack.
SHIPPED: dict[str, _Tables] = {
    "w8a8": {
        80: {
            16: Tile(16, 64, 128, 4, 4),
            64: Tile(64, 64, 128, 4, 4),
            256: Tile(64, 128, 128, 4, 3),
            0: Tile(128, 128, 64, 8, 4),
        },
        90: {
            16: Tile(16, 64, 128, 4, 4),
            64: Tile(64, 64, 128, 4, 4),
            256: Tile(64, 128, 128, 4, 4),
            0: Tile(128, 128, 128, 8, 4),
        },
    },
    **{f"w4a16-g{group}": _W4A16 for group in (32, 64, 128)},  # k is the group, or two of 32
    "blocks-int8": {  # n is the block, k a block or several
        80: {
            16: Tile(16, 0, 64, 4, 4),
            64: Tile(64, 0, 64, 4, 4),
            256: Tile(64, 0, 64, 4, 4),
            0: Tile(128, 0, 64, 4, 4),
        },
    },
    "blocks-float": {
        80: {
            16: Tile(16, 0, 64, 4, 3),
            64: Tile(64, 0, 64, 4, 3),
            256: Tile(64, 0, 64, 4, 3),
            0: Tile(128, 0, 64, 8, 3),
        },
    },
}


_MORE = {
    "w8a8": (Tile(16, 128, 128, 4, 3), Tile(32, 64, 128, 4, 4), Tile(128, 64, 64, 4, 4)),
    **{
        # With groups of 32, the last one needs a stack on 9.0.
        f"w4a16-g{group}": (Tile(16, 32, 0, 4, 4), Tile(16, 128, 0, 4, 3), Tile(32, 128, 0, 8, 3))[: 2 + (group > 32)]
        for group in (32, 64, 128)
    },
}
"""Tiles that are in no table, and that measuring may find better."""


def candidates(kernel: str, capability: int) -> list[Tile]:
    """The tiles that may be measured, and read from a file."""
    tiles = [tile for least, table in SHIPPED[kernel].items() if least <= capability for tile in table.values()]
    return list(dict.fromkeys([*tiles, *_MORE.get(kernel, ())]))


def row_class(m: int) -> int:
    """The class of a number of rows."""
    return next((most for most in ROW_CLASSES if m <= most), 0)


def shipped(kernel: str, m: int, capability: int) -> Tile:
    """The tile of a number of rows for a device."""
    tables = SHIPPED[kernel]
    return tables[max(least for least in tables if least <= capability)][row_class(m)]
