"""quantize_per_token against exact rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from kdnative import ops
from kdnative.ops import reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def exact(row: list[float]) -> tuple[list[int], np.float32]:
    """One row by the definition, in float32 steps done through exact fractions (independent of torch)."""
    amax = max(abs(v) for v in row)
    if amax < 1e-30:
        return [0] * len(row), np.float32(Fraction(amax) / 127)
    inverse = np.float32(np.float32(127.0) / np.float32(amax))
    q = []
    for v in row:
        product = float(np.float32(Fraction(v) * Fraction(float(inverse))))
        q.append(round(product))  # Python rounds half to even
    return q, np.float32(np.float32(amax) / np.float32(127.0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 64), (2, 129), (4, 2, 33), (1, 1000)])
def test_rows_are_quantized_exactly(isa, dtype, shape):
    x = (torch.randn(shape) * torch.logspace(-6, 3, shape[-1])).to(dtype)
    q, scale = ops.quantize_per_token(x)
    assert q.shape == x.shape and q.dtype == torch.int8
    assert scale.shape == x.shape[:-1] and scale.dtype == torch.float32
    for row, got, s in zip(x.float().view(-1, shape[-1]), q.view(-1, shape[-1]), scale.view(-1), strict=True):
        want, want_scale = exact(row.tolist())
        assert got.tolist() == want
        assert s.item() == want_scale


def test_halves_round_to_even(isa):
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5]])
    q, scale = ops.quantize_per_token(x)
    assert q.tolist() == [[127, 0, 2, 2, 0, -2, -2, 126]]
    assert scale.tolist() == [1.0]


@pytest.mark.parametrize("columns", [1, 15, 16, 17, 64, 100])
def test_extremes(isa, columns):
    big = torch.finfo(torch.float32).max
    rows = torch.zeros(7, columns)
    rows[1, -1] = 1e-42  # denormal: far below the threshold
    rows[2, 0] = -big
    rows[3, -1] = float("inf")
    rows[4, 0] = float("nan")
    rows[5, 0] = -float("inf")
    rows[6] = -3.0
    q, scale = ops.quantize_per_token(rows)
    assert q[0].eq(0).all() and scale[0] == 0
    assert q[1].eq(0).all() and scale[1] >= 0
    assert q[2, 0] == -127 and torch.isfinite(scale[2])
    for bad in (3, 4, 5):
        assert q[bad].eq(0).all() and torch.isnan(scale[bad])
    assert q[6].eq(-127).all()


def test_any_strides(isa):
    base = torch.randn(6, 10, 40)
    views = [
        base.transpose(0, 1),
        base.transpose(1, 2),
        base[::2, 1:9:3, 5:30],
        base[:, :, ::3],
        base.expand(2, 6, 10, 40),
    ]
    for x in views:
        q, scale = ops.quantize_per_token(x)
        want, want_scale = ops.quantize_per_token(x.contiguous())
        assert torch.equal(q, want) and torch.equal(scale, want_scale)


@pytest.mark.parametrize("shape", [(0, 8), (3, 0, 8), (8,)])
def test_empty_and_single_rows(isa, shape):
    q, scale = ops.quantize_per_token(torch.randn(shape))
    assert q.shape == shape and scale.shape == shape[:-1]


def test_threads_do_not_change_the_result(isa):
    x = torch.randn(700, 512)
    torch.set_num_threads(1)
    want = ops.quantize_per_token(x)
    for threads in (2, 3, 5):
        torch.set_num_threads(threads)
        got = ops.quantize_per_token(x)
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


def test_the_torch_reference_agrees(isa):
    x = torch.randn(50, 77) * torch.logspace(-20, 20, 50).unsqueeze(1)
    for got, want in zip(ops.quantize_per_token(x), reference.quantize_per_token(x), strict=True):
        assert torch.equal(got, want)


def test_bad_input_is_named():
    for dtype, given in [(torch.float64, "float64"), (torch.int64, "int64"), (torch.int16, r"torch dtype code \d+")]:
        wanted = rf"quantize_per_token: the input must be float32, bfloat16 or float16 \(got {given}\)"
        with pytest.raises(RuntimeError, match=wanted):
            ops.quantize_per_token(torch.zeros(2, 3, dtype=dtype))
    with pytest.raises(RuntimeError, match="at least one dimension"):
        ops.quantize_per_token(torch.tensor(1.0))


def test_opcheck():
    torch.library.opcheck(torch.ops.kdnative.quantize_per_token.default, (torch.randn(3, 40),))
