"""The integer arithmetic in plain torch against exact integers, rationals and Python's own rounding."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from kdnative.formats import arithmetic


def round_to_fp32(value: Fraction) -> float:
    """The fp32 number nearest to an exact rational, halves to even, found by trying the neighbours."""
    guess = np.float32(float(value))
    candidates = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    even = {c: int(np.float32(c).view(np.int32)) & 1 for c in candidates}
    return float(min(candidates, key=lambda c: (abs(Fraction(float(c)) - value), even[c])))


def test_quantize_rows_against_python():
    x = torch.randn(9, 37) * torch.logspace(-20, 20, 9)[:, None]
    x[4, :2] = torch.tensor([3.1875, -1.59375])  # -63.499996 with the quotient 127 / 3.1875, a tie with a reciprocal
    x[4].clamp_(-3.1875, 3.1875)
    codes, scale = arithmetic.quantize_rows(x)
    for row in range(9):
        values = x[row].numpy()
        amax = np.abs(values).max()
        inverse = np.float32(127) / amax
        assert codes[row].tolist() == [float(np.rint(v * inverse)) for v in values]
        assert scale[row] == amax / np.float32(127)
    assert codes.abs().max() == 127


def test_quantize_rows_special_rows():
    x = torch.tensor([[0.0, 0.0], [1e-31, -1e-31], [torch.nan, 1.0], [torch.inf, 1.0], [-1.0, 0.5]])
    codes, scale = arithmetic.quantize_rows(x)
    assert codes.tolist() == [[0, 0], [0, 0], [0, 0], [0, 0], [-127, 64]]  # 63.5 rounds to the even 64
    assert scale[0] == 0 and scale[1] == torch.tensor(1e-31) / 127 and scale[2:4].isnan().all()
    empty, none = arithmetic.quantize_rows(torch.empty(3, 0))
    assert empty.shape == (3, 0) and none.tolist() == [0, 0, 0]


@pytest.mark.parametrize("k", [1, 3, 64, arithmetic.EXACT_FP32_INPUTS, arithmetic.EXACT_FP32_INPUTS + 1, 3072, 20000])
def test_integer_matmul_is_exact(k):
    a = torch.randint(-127, 128, (5, k)).float()
    b = torch.randint(-127, 128, (9, k)).float()
    a[0], b[0] = 127, 127  # the largest sum there is
    a[1], b[1] = 127, -127
    a[1, 0] = 126  # and one whose rounding to fp32 is a tie or not, depending on k
    expected = (a.long() @ b.long().t()).numpy().astype(np.int32).astype(np.float32)
    assert np.array_equal(arithmetic.integer_matmul(a, b).numpy(), expected)


def test_integer_matmul_without_rows():
    assert arithmetic.integer_matmul(torch.empty(0, 8), torch.ones(3, 8)).shape == (0, 3)


def test_fused_multiply_add_rounds_once():
    x = torch.randint(-240000, 240000, (400,)).float()
    y, z = torch.rand(400) * 1e-2, torch.randn(400) * torch.logspace(-6, 6, 400)
    mine = arithmetic.fused_multiply_add(x, y, z)
    for a, b, c, d in zip(x.tolist(), y.tolist(), z.tolist(), mine.tolist(), strict=True):
        assert d == round_to_fp32(Fraction(a) * Fraction(b) + Fraction(c))


# 2^30 - 1 and 2^30 + 1 as products: scaled by 2^-54 they are 2^-24, half of fp32's last place at 1, and a tail of 2^-54
# that float64 cannot hold beside 1.
@pytest.mark.parametrize(("p", "q", "z"), [(2**15 + 1, 2**15 - 1, 1 + 2.0**-23), (62525, 17173, 1.0)])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_fused_multiply_add_where_rounding_twice_is_wrong(p, q, z, sign):
    x, y, z = torch.tensor([sign * p * 2.0**-27]), torch.tensor([q * 2.0**-27]), torch.tensor([sign * z])
    right = round_to_fp32(Fraction(x.item()) * Fraction(y.item()) + Fraction(z.item()))
    twice = (x.double() * y.double() + z.double()).float().item()
    assert twice != right
    assert arithmetic.fused_multiply_add(x, y, z).item() == right


def test_fused_multiply_add_at_a_true_tie():
    for z in (1.0, 1 + 2.0**-23):
        x, y = torch.tensor([2.0**-12]), torch.tensor([2.0**-12])
        right = round_to_fp32(Fraction(1, 2**24) + Fraction(z))
        assert arithmetic.fused_multiply_add(x, y, torch.tensor([z])).item() == right
