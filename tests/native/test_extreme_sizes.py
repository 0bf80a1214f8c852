"""Sizes that nothing real has: no columns, strides of no rows, more than memory holds. Refused in words, or right."""

import pytest
import torch

from kdnative import ops
from kdnative.formats import dense
from kdnative.formats.scheme import Scheme
from kdnative.quantize import quantize_weight
from tests.nn.encoder_models import bert, native

IDS = torch.ones(1, 4, dtype=torch.long)


@pytest.fixture(scope="module")
def packed():
    """A BERT of 2 layers, 48 wide."""
    return native(bert()).packed


@pytest.mark.parametrize("layers", [1, 3, 2**31 - 1])
def test_layers_that_the_buffer_has_not(packed, layers):
    """Before anything is allocated for them."""
    with pytest.raises(RuntimeError, match=f"layers is {layers}, but the packed encoder has 2"):
        ops.encoder_hidden_states(packed, IDS, None, None, None, 48, layers)


@pytest.mark.parametrize("layers", [2**31, 2**63 - 1])
def test_layers_that_no_buffer_has(packed, layers):
    with pytest.raises(RuntimeError, match=f"layers is {layers}, but a packed encoder has at most 2147483647"):
        ops.encoder_hidden_states(packed, IDS, None, None, None, 48, layers)


def test_a_width_that_the_buffer_has_not(packed):
    for width in (47, 2**40, 2**62):
        with pytest.raises(RuntimeError, match=f"hidden_size is {width}, but the packed encoder is 48 wide"):
            ops.encoder(packed, IDS, None, None, None, width)


def test_more_tokens_than_memory(packed):
    """A few numbers again and again: an output of that shape can't be, and the mask is not copied before."""
    ids, mask = (torch.ones(1, 1, dtype=dtype).expand(2**25, 2**25) for dtype in (torch.long, torch.bool))
    with pytest.raises(RuntimeError, match=r"torch refused to allocate \d+ times \d bytes for .* on cpu"):
        ops.encoder(packed, ids, mask, None, None, 48)


def test_rows_without_columns(isa):
    for shape in [(3, 0), (0, 0), (2, 3, 0)]:
        q, scale = ops.quantize_per_token(torch.empty(shape))
        assert q.shape == shape and q.dtype == torch.int8
        assert scale.shape == shape[:-1] and not scale.any()


@pytest.mark.parametrize("strides", [(2**40, 2**40, 1), (2**62, 2**62, 2**62), (0, 0, 0)])
@pytest.mark.parametrize("sizes", [(0, 2**20, 64), (2**20, 0, 64), (4, 4, 0)])
def test_strides_of_no_numbers(sizes, strides):
    x = torch.empty(0).as_strided(sizes, strides)
    q, scale = ops.quantize_per_token(x)
    assert q.shape == sizes and scale.shape == sizes[:-1]
    if sizes[-1]:
        weight = dense.pack(quantize_weight(torch.randn(8, 64), Scheme.parse("w8a8")))
        assert ops.linear(x, weight, 8, 8).shape == (*sizes[:-1], 8)


def test_rows_beyond_64_bits():
    with pytest.raises(RuntimeError, match=r"shape \[\d+, 2, 0\], which is more rows than 64 bits count"):
        ops.quantize_per_token(torch.empty(0).as_strided((2**62, 2, 0), (0, 0, 0)))


def test_no_numbers_of_sizes_beyond_64_bits():
    x = torch.empty(0).as_strided((0, 2**40, 2**40), (0, 0, 0))
    with pytest.raises(RuntimeError, match="sizes whose product is beyond 64 bits"):
        ops.quantize_per_token(x)
