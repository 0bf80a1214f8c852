"""Mistakes in the product of Triton with blocks, and in its packed weight."""

PRODUCT = "kdnative/ops/backends/triton/blocks.py"
FORMAT = "kdnative/formats/gpu/triton_blocks.py"

TESTS = ["tests/gpu/test_triton_blocks.py"]

MUTANTS = [
    (PRODUCT, "tl.load(starts + tile_n + 1)", "tl.load(starts + tile_n + 1) - 1"),
    (PRODUCT, "there = mine < last", "there = mine <= last"),
    (PRODUCT, "range(first, last, BK // SIZE)", "range(first, last - BK // SIZE + 1, BK // SIZE)"),
    (PRODUCT, "mine = block + inputs // SIZE", "mine = block + inputs % 1"),
    (PRODUCT, "place * SIZE + inputs % SIZE", "place + inputs % SIZE"),
    (PRODUCT, "* (SIZE * SIZE) + inputs % SIZE", "* SIZE + inputs % SIZE"),
    (PRODUCT, "tl.arange(0, SIZE)[:, None] * SIZE + element", "tl.arange(0, SIZE)[:, None] + element"),
    (PRODUCT, "mask=(rows < m)[:, None] & there[None, :]", "mask=there[None, :]"),
    (PRODUCT, "elif k % size:", "elif k < 0:"),
    (PRODUCT, "y *= scale_m[:, None] * tl.load", "y = y * scale_m[:, None] * tl.load"),
    (
        FORMAT,
        "round_up(n, side) // side, round_up(k, side) // side\n    tiles = pad",
        "n // side, k // side\n    tiles = pad",
    ),
    (FORMAT, "// (side * side + 4)", "// (side * side)"),
    (FORMAT, "places >= width", "places > 2 * width"),
]
