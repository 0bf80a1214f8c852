"""norm_quantize against float64: LayerNorm and RMSNorm in front of int8 rows."""

import pytest
import torch

from kdnative import ops
from tests.ops.norm_cases import BAD, assert_codes_of, exact

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 2), (3, 7), (2, 116), (40, 24), (3, 2, 131), (1, 1031)])
def test_normalized_rows(isa, dtype, shape, rms):
    k = shape[-1]
    x = (torch.randn(shape) * 3 + 1).to(dtype)
    x[..., -1, :] *= 1e-3  # eps counts
    gamma, beta, factors = torch.rand(k) + 0.5, torch.randn(k), torch.rand(k) + 0.5
    for given in ((beta, factors), (None, None)):
        found = ops.norm_quantize(x, gamma, given[0], 1e-5, given[1], rms)
        assert_codes_of(found, exact(x, gamma, given[0], 1e-5, given[1], rms))


@pytest.mark.parametrize("rms", [False, True])
def test_rows_of_any_strides_and_threads(rms):
    """Columns that are not dense, rows that overlap; and enough of them that threads share them."""
    wide, gamma = torch.randn(300, 1200), torch.rand(600) + 0.5
    torch.set_num_threads(2)
    for x in (wide[:, ::2], wide[::3, 7:607], wide[:1, :600].expand(5, 600), wide[:6].view(2, 3, 1200)[..., 600:]):
        codes, scale = ops.norm_quantize(x, gamma, rms=rms)
        assert_codes_of((codes, scale), exact(x, gamma, None, 1e-5, None, rms))
        again = ops.norm_quantize(x.contiguous(), gamma, rms=rms)
        assert torch.equal(again[0], codes) and torch.equal(again[1], scale)


@pytest.mark.parametrize("rms", [False, True])
def test_rows_that_are_not_numbers(isa, rms):
    x = torch.randn(4, 20)
    x[0, 3], x[1, 19], x[2] = float("nan"), float("inf"), 0
    codes, scale = ops.norm_quantize(x, torch.ones(20), rms=rms)
    assert scale.isnan().tolist() == [True, True, False, False]
    assert not codes[:3].any() and scale[2] == 0 and codes[3].any()


def test_no_rows():
    codes, scale = ops.norm_quantize(torch.empty(0, 5, 8), torch.ones(8))
    assert (codes.shape, scale.shape) == ((0, 5, 8), (0, 5))


def test_it_can_be_traced():
    x, gamma = torch.randn(3, 2, 9), torch.rand(9)
    operator = torch.ops.kdnative.norm_quantize.default
    torch.library.opcheck(operator, (x, gamma, None, 1e-5))
    torch.library.opcheck(operator, (x.half(), gamma, torch.rand(9), 0.1, torch.rand(9), 1))


@pytest.mark.parametrize(("change", "words"), BAD)
def test_bad_arguments(change, words):
    given = {"x": torch.zeros(2, 8), "gamma": torch.ones(8)} | change
    with pytest.raises(RuntimeError, match=f"norm_quantize.*{words}"):
        ops.norm_quantize(**given)
