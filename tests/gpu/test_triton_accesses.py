"""What accesses of the Triton kernels cost on aligned shapes: no more sectors and bank cycles than there must be."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (the extra triton)")

from kdnative.ops.backends.triton.configurations import SHIPPED  # noqa: E402
from kdnative.ops.backends.triton.quantize import quantize_rows  # noqa: E402
from kdnative.ops.backends.triton.w4a16 import linear_w4a16  # noqa: E402
from kdnative.ops.backends.triton.w8a8 import linear_w8a8  # noqa: E402


def _tiles(kernel, capability, long_grid):
    """Shipped tiles: of all classes of rows, or of the fewest and the most."""
    table = SHIPPED[kernel][capability]
    return list(dict.fromkeys(table.values() if long_grid else (table[16], table[0])))


def _is_ideal(driver):
    stats = driver.launches[-1].stats
    assert stats.sector_ratio == 1.0, (stats.loads, stats.stores)
    assert stats.bank_ratio == 1.0, stats.shared


def test_quantized_rows(triton_driver):
    for k in (512, 4096):
        quantize_rows(torch.randn(1, k, dtype=torch.bfloat16))
        _is_ideal(triton_driver)


def test_int8_products(triton_driver, long_grid):
    """Besides, each input and each weight of a tile is read once, beside scales of 4 bytes."""
    for tile in _tiles("w8a8", triton_driver.capability, long_grid):
        m, n, k = tile.m, tile.n, 2 * tile.k
        linear_w8a8(torch.randn(m, k).bfloat16(), torch.ones(n, k, dtype=torch.int8), torch.ones(n), tile=tile)
        _is_ideal(triton_driver)
        assert m * k + n * k < triton_driver.launches[-1].stats.bytes_loaded <= 1.1 * (m + n) * (k + 4)


@pytest.mark.parametrize("group", [32, 64, 128])
def test_products_with_4_bit_weights(triton_driver, long_grid, group):
    for tile in _tiles(f"w4a16-g{group}", triton_driver.capability, long_grid):
        codes, scale = torch.ones(tile.n, 64, dtype=torch.uint8), torch.ones(128 // group, tile.n)
        linear_w4a16(torch.randn(tile.m, 128).bfloat16(), codes, scale, tile=tile)
        _is_ideal(triton_driver)
