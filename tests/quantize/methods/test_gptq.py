import subprocess
import sys

import pytest
import torch

from kdnative import Scheme
from kdnative.quantize import quantize_weight, search_clip
from kdnative.quantize.methods import GPTQ
from kdnative.quantize.methods.compensation import inverse_factor
from kdnative.quantize.methods.gptq import usual_damping
from tests.quantize.methods.correlated import inputs, statistics, weights

SCHEMES = ["w8a8", "w4a8-g32", "w4a8-g32-asym", "w4a8-g32-int", "w2a8-g32"]


def textbook(weight, second_moment, quantized, damping, order):
    """GPTQ's loop in float64 with an explicit inverse at every column, on the ranges of ``quantized``; values."""
    n, k = weight.shape
    h = second_moment.double() + damping * second_moment.double().diagonal().mean() * torch.eye(k).double()
    w, size = weight.double().clone(), quantized.group_size or k
    scale = quantized.scale.double().view(n, -1)
    if quantized.group_scale is not None:
        scale = scale * quantized.group_scale
    zero = torch.zeros_like(scale) if quantized.zero is None else quantized.zero.double().view(n, -1)
    low = -127 if quantized.bits == 8 else -(2 ** (quantized.bits - 1))
    high = 127 if quantized.bits == 8 else 2 ** (quantized.bits - 1) - 1
    for i, j in enumerate(order):
        g, left = j // size, order[i:]
        lowest, highest = low - zero[:, g], high - zero[:, g]
        if quantized.group_scale is not None:  # (code - zero) * group_scale has to be int8
            reach = 127 // quantized.group_scale[:, g].double()
            lowest, highest = torch.maximum(lowest, -reach), torch.minimum(highest, reach)
        steps = torch.minimum(torch.maximum((w[:, j] / scale[:, g]).round(), lowest), highest)
        inverse = torch.linalg.inv(h[left][:, left])
        error = (w[:, j] - steps * scale[:, g]) / inverse[0, 0]
        w[:, left] -= error[:, None] * inverse[0]
        w[:, j] = steps * scale[:, g]
    return w


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("act_order", "block"), [(False, 128), (False, 7), (True, 40)])
def test_against_the_textbook(scheme, act_order, block):
    weight, moment = weights(5, 96), statistics(inputs(300, 96)).second_moment
    method = GPTQ(damping=0.02, act_order=act_order, block=block)
    (quantized,) = method.quantize([weight], scheme, statistics(inputs(300, 96)))
    order = moment.diagonal().argsort(descending=True).tolist() if act_order else list(range(96))
    right = textbook(weight, moment, quantized, 0.02, order)
    assert torch.allclose(quantized.dequantize().double(), right, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_ranges_are_searched_by_what_an_error_will_cost(scheme):
    """A column counts as 1 / [H_j^-1]_11, H_j the damped second moment of the inputs from j on."""
    weight, known = weights(5, 64), statistics(inputs(300, 64))
    h = known.second_moment.double()
    h = h + 0.05 * h.diagonal().mean() * torch.eye(64)
    cost = torch.stack([1 / torch.linalg.inv(h[j:, j:])[0, 0] for j in range(64)]).float()
    (quantized,) = GPTQ(damping=0.05).quantize([weight], scheme, known)
    clip = search_clip(weight, scheme, importance=cost)
    expected = quantize_weight(weight, scheme, clip=clip)
    assert torch.allclose(quantized.scale, expected.scale, rtol=1e-6)
    if not Scheme.parse(scheme).integer_scales and expected.zero is not None:
        assert torch.equal(quantized.zero, expected.zero)


def test_independent_inputs_are_rounded_to_the_nearest():
    weight = weights(4, 64)
    known = statistics(torch.eye(64) * 3)
    (quantized,) = GPTQ().quantize([weight], "w4a8-g32", known)
    expected = quantize_weight(weight, "w4a8-g32", clip_search=True)
    assert torch.equal(quantized.qweight, expected.qweight) and torch.equal(quantized.scale, expected.scale)


def test_zeros_of_sparse_schemes_stay():
    weight, x = weights(8, 64), inputs(300, 64)
    weight.view(2, 4, 64)[:, :, ::2] = 0
    (sparse,) = GPTQ().quantize([weight], "w8a8+4x1", statistics(x))
    (full,) = GPTQ().quantize([weight], "w8a8", statistics(x))
    assert (sparse.qweight[weight == 0] == 0).all()
    assert (full.qweight[weight == 0] != 0).any()  # else the test shows nothing


@pytest.mark.parametrize("k", [1, 5, 64])
def test_inverse_factor(k):
    h = statistics(inputs(200, k)).second_moment
    factor = inverse_factor(h, 0.03).double()
    damped = h.double() + 0.03 * h.double().diagonal().mean() * torch.eye(k)
    assert torch.equal(factor, factor.triu())
    assert torch.allclose(
        factor.t() @ factor, torch.linalg.inv(damped), rtol=1e-4, atol=1e-6 / float(h.diagonal().mean())
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_the_factor():
    """Of the process, in a fresh one: a peak is never taken back."""
    script = """
import re, torch
from pathlib import Path
from kdnative.quantize.methods.compensation import bytes_of, inverse_factor

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

x = torch.randn(2000, 1536)
moment = x.t() @ x
inverse_factor(moment[:32, :32])
before = peak()
inverse_factor(moment)
grown = peak() - before
assert 0 < grown <= bytes_of(1536), grown / 1536**2
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_dead_inputs_are_of_mean_size_and_independent():
    h = torch.tensor([[4.0, 0.0, 2.0], [0.0, 0.0, 0.0], [2.0, 0.0, 8.0]])
    factor = inverse_factor(h, 0.01)
    assert factor[1].tolist() == [0, pytest.approx(1 / 2), 0] and factor[0, 1] == 0  # the mean diagonal is 4


def test_a_matrix_that_is_not_positive_definite_is_damped_more():
    h = torch.eye(4)
    h[0, 1] = h[1, 0] = 1.2  # eigenvalues 2.2 and -0.2
    assert torch.isfinite(inverse_factor(h, 0.01)).all()
    h[0, 1] = h[1, 0] = 3.0
    with pytest.raises(ValueError, match=r"not positive definite.*calibrate again"):
        inverse_factor(h, 0.01)


@pytest.mark.parametrize("damping", [0.0, -0.1, 1.5, float("nan")])
def test_a_damping_that_is_none(damping):
    with pytest.raises(ValueError, match=r"within \(0, 1\]"):
        inverse_factor(torch.eye(4), damping)


def test_scale_of_the_inputs_does_not_matter():
    x = inputs(200, 64)
    found = [GPTQ().quantize([weights(4, 64)], "w4a8-g32", statistics(x * size))[0] for size in (1.0, 1e-12, 1e12)]
    assert all((other.qweight != found[0].qweight).float().mean() < 0.01 for other in found[1:])


def test_the_usual_damping_follows_from_the_rows():
    assert [usual_damping(64, rows) for rows in (1, 64, 160, 10**6)] == [1.0, 0.25, 0.1, 0.01]
    known = statistics(inputs(160, 64))
    usual, same, other = (
        method.quantize([weights(4, 64)], "w4a8-g32", known)[0]
        for method in (GPTQ(), GPTQ(damping=0.1), GPTQ(damping=0.01))
    )
    assert torch.equal(usual.qweight, same.qweight) and not torch.equal(usual.qweight, other.qweight)
