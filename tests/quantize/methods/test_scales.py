"""SmoothQuant and AWQ: input scales."""

import numpy as np
import pytest
import torch

from kdnative.formats import arithmetic
from kdnative.quantize import quantize_weight
from kdnative.quantize.methods import AWQ, GPTQ, METHODS, SmoothQuant
from kdnative.quantize.methods.scaling import normalized
from kdnative.quantize.statistics import Statistics
from tests.quantize.methods.correlated import inputs, output_error, statistics, weights

K = 128


def test_smoothquant_by_hand():
    """max|x| = (16, 1), max|w| = (1, 1) over both linears: s = sqrt(x / w) = (4, 1), with geometric mean 1 (2, 1/2)."""
    known = Statistics(9, largest=torch.tensor([16.0, 1.0]))
    both = [torch.tensor([[0.5, 1.0]]), torch.tensor([[-1.0, 0.25]])]
    first, second = SmoothQuant(alpha=0.5).quantize(both, "w8a8", known)
    assert first.input_scale.tolist() == second.input_scale.tolist() == [0.5, 2.0]
    assert first.scale.tolist() == pytest.approx([1 / 127])  # of (0.5 * 2, 1 * 1/2)
    assert first.qweight.tolist() == [[127, 64]] and second.qweight.tolist() == [[-127, 8]]
    assert first.dequantize()[0].tolist() == pytest.approx([0.5, 64 / 127 * 2])


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_smoothquant_against_its_formula(alpha):
    x, weight = inputs(300, K), weights(7, K)
    (quantized,) = SmoothQuant(alpha=alpha).quantize([weight], "w8a8", statistics(x))
    s = x.abs().amax(0).double().numpy() ** alpha / weight.abs().amax(0).double().numpy() ** (1 - alpha)
    s /= np.exp(np.log(s).mean())
    assert np.allclose(quantized.input_scale.double().numpy(), 1 / s, rtol=1e-5)
    expected = quantize_weight(weight * torch.from_numpy(s).float(), "w8a8")
    assert (quantized.qweight.int() - expected.qweight.int()).abs().max() <= 1  # ties, of products rounded otherwise


def test_smoothquant_helps_int8_activations():
    x, weight = inputs(300, K), weights(32, K)
    x[:, 5] *= 30
    (nearest,) = METHODS["rtn"].quantize([weight], "w8a8")
    (smooth,) = METHODS["smoothquant"].quantize([weight], "w8a8", statistics(x))
    assert output_error(x, weight, smooth, 8) < 0.5 * output_error(x, weight, nearest, 8)


def test_smoothquant_takes_the_best_of_several_alphas():
    x, weight = inputs(256, K), weights(32, K)
    known, alphas = statistics(x), (0.1, 0.5, 0.9)
    errors = {}
    for alpha in alphas:
        (one,) = SmoothQuant(alpha=alpha).quantize([weight], "w8a8", known)
        errors[alpha] = output_error(x, weight, one, 8), one
    (chosen,) = SmoothQuant(alpha=alphas).quantize([weight], "w8a8", known)
    best = min(errors.values(), key=lambda pair: pair[0])[1]
    assert torch.equal(chosen.input_scale, best.input_scale) and torch.equal(chosen.qweight, best.qweight)


@pytest.mark.parametrize("scheme", ["w4a8-g32", "w4a16-g32", "w2a8-g32"])
def test_awq_takes_the_alpha_of_the_least_error(scheme):
    x, weight = inputs(256, K), weights(16, K)
    errors = []
    for step in range(20):
        s = x.double().square().mean(0).sqrt() ** (step / 20)
        s = s / s.log().mean().exp()
        scaled = (x.double() / s).float()
        if scheme != "w4a16-g32":
            codes, scale = arithmetic.quantize_rows(scaled)
            scaled = codes * scale[:, None]
        rounded = quantize_weight((weight * s).float(), scheme).dequantize()
        error = (scaled.double() @ rounded.double().t() - x.double() @ weight.double().t()).square().sum()
        errors.append((float(error), 1 / s))
    (quantized,) = AWQ(weights=METHODS["rtn"]).quantize([weight], scheme, statistics(x))
    best = min(errors, key=lambda pair: pair[0])[1]
    assert torch.allclose(quantized.input_scale.double(), best, rtol=1e-4)


def test_awq_with_gptq_sees_the_scaled_inputs():
    """The same as GPTQ of the scaled weight for the scaled inputs."""
    x, weight = inputs(300, K), weights(8, K)
    (quantized,) = METHODS["awq+gptq"].quantize([weight], "w4a8-g32", statistics(x))
    factor = quantized.input_scale
    (alone,) = GPTQ().quantize([weight / factor], "w4a8-g32", statistics(x * factor))
    assert (quantized.qweight != alone.qweight).float().mean() < 0.01  # rounding of the second moment moves ties
    assert torch.allclose(quantized.scale, alone.scale, rtol=1e-4)


def test_nothing_to_multiply_by():
    """All inputs alike: alpha changes nothing, and the layer is spared the vector."""
    x = torch.ones(16, 64)
    for method in (METHODS["awq"], METHODS["awq+gptq"]):
        (quantized,) = method.quantize([weights(4, 64)], "w4a8-g32", statistics(x))
        assert quantized.input_scale is None


@pytest.mark.parametrize("method", ["smoothquant", "awq", "awq+gptq"])
@pytest.mark.parametrize("size", [0.0, 1e-40])
def test_weights_without_values(method, size):
    (quantized,) = METHODS[method].quantize([torch.full((4, 64), size)], "w8a8", statistics(inputs(100, 64)))
    assert not quantized.dequantize().any()


def test_settled_scales_are_those_of_another_linear():
    known, first, second = statistics(inputs(300, K)), weights(8, K), weights(8, K, seed=5)
    for method in (METHODS["awq"], SmoothQuant(weights=GPTQ())):
        (found,) = method.quantize([first], "w4a8-g32", known)
        (own,) = method.quantize([second], "w4a8-g32-asym", known)
        (same,) = method.settled(found.input_scale).quantize([second], "w4a8-g32-asym", known)
        assert torch.equal(same.input_scale, found.input_scale) and not torch.equal(own.input_scale, found.input_scale)
        (none,) = method.settled(None).quantize([second], "w4a8-g32-asym", known)
        (alone,) = method.weights.quantize([second], "w4a8-g32-asym", known)
        assert none.input_scale is None and torch.equal(none.qweight, alone.qweight)


def test_names_say_what_makes_the_weights():
    assert SmoothQuant().name == "smoothquant" and SmoothQuant(weights=GPTQ()).name == "smoothquant+gptq"


def test_normalized():
    found = normalized(torch.tensor([4.0, 0.0, 1.0]))
    assert found.tolist() == pytest.approx([2.0, 1.0, 0.5])
    assert normalized(torch.zeros(3)).tolist() == [1, 1, 1]
    far = normalized(torch.tensor([1e-20, 1.0, 1.0, 1.0, 1.0]))  # an input that hardly ever was anything but 0
    assert float(far.min()) == pytest.approx(0.01) and torch.isfinite(1 / far).all()
