"""Sizes of tiles: a shipped table, by kernel, capability and number of rows. Nothing is searched for while running."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SHIPPED", "Tile", "configuration", "row_class"]


@dataclass(frozen=True)
class Tile:
    """What one program computes, and how: m rows and n outputs, k inputs at a time."""

    m: int
    n: int
    k: int
    warps: int
    stages: int


ROW_CLASSES = (16, 64, 256)
"""Up to so many rows the tiles of a class are for; more rows have the class 0."""

# Kernel, least capability: the tile of each class of rows. Those from 80 on fit into the 99 KiB of shared memory that
# 8.6 and 8.9 have, and none of them uses a stack.
SHIPPED: dict[str, dict[int, dict[int, Tile]]] = {
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
    "w4a16": {  # k is the group, or two of 32
        80: {
            16: Tile(16, 64, 0, 4, 4),
            64: Tile(32, 64, 0, 4, 4),
            256: Tile(64, 64, 0, 4, 3),
            0: Tile(64, 128, 0, 8, 3),
        },
        90: {
            16: Tile(16, 64, 0, 4, 4),
            64: Tile(64, 64, 0, 4, 4),
            256: Tile(64, 64, 0, 4, 3),
            0: Tile(64, 128, 0, 8, 3),
        },
    },
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


def row_class(m: int) -> int:
    """The class of a number of rows."""
    return next((most for most in ROW_CLASSES if m <= most), 0)


def configuration(kernel: str, m: int, n: int, k: int, capability: int) -> Tile:
    """The tile for a product of ``[m, k]`` and ``[n, k]``."""
    tables = SHIPPED[kernel]
    return tables[max(least for least in tables if least <= capability)][row_class(m)]
